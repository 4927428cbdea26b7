"""The whole way from small frames to the motion, on simulated movies: against the truth, in value and sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad.errors import MotionError, ParameterError
from komad.model import MotionModel
from tests.motion.movies import BINNING, CORNERS, DOSE, N_FRAMES, Movie, field_error, measure, simulate
from tests.toy import rms_error


@pytest.fixture(scope="module")
def strong() -> Movie:
    """Corners move 15 Å away from the mean of the field."""
    return simulate(corners_angstrom=15.0, seed=1)


@pytest.fixture(scope="module")
def found(strong: Movie) -> MotionModel:
    """Its motion with the usual settings."""
    return measure(strong)


@pytest.fixture(scope="module")
def whole(strong: Movie) -> MotionModel:
    """Its motion when only whole frames are looked at."""
    return measure(strong, local_motion=False)


@pytest.fixture(scope="module")
def whole_error(strong: Movie, whole: MotionModel) -> float:
    """What is left of it when whole frames are corrected."""
    return field_error(whole, strong)


def test_a_strong_local_field_is_found(strong: Movie, found: MotionModel, whole_error: float) -> None:
    """In value and sign, from edge to edge: a third at most of what correcting whole frames leaves."""
    assert found.kind == "local"
    assert "likelier" in found.reason
    assert field_error(found, strong) < whole_error / 3
    assert found.n_iterations >= 1


def test_the_field_is_right_at_the_corners(strong: Movie, found: MotionModel, whole: MotionModel) -> None:
    """Where no middle of a patch lies, too."""
    left = field_error(whole, strong, CORNERS)
    assert left > 1.5
    assert field_error(found, strong, CORNERS) < left / 3


def test_expected_errors_are_honest(strong: Movie, found: MotionModel) -> None:
    """Those of the mean over the field and of the local part are the errors that are made, within a factor of 2."""
    whole = rms_error(found.shifts_px, strong.truth.global_shifts_px())
    local = np.sqrt(max(field_error(found, strong) ** 2 - whole**2, 0.0))
    assert found.shift_error_px / 2 < whole < found.shift_error_px * 2
    assert found.local_error_px / 2 < local < found.local_error_px * 2


def test_both_parts_are_zero_in_the_first_frame(strong: Movie, found: MotionModel) -> None:
    """The frame of reference stays where it is, over the whole field; the local part has mean zero over the field."""
    assert found.local is not None
    at = np.linspace(-0.5, 1023.5, 9)
    np.testing.assert_allclose(found.shifts_on_grid_px(at, at)[0], 0, atol=1e-9)
    middles = np.arange(8, 1024, 16)
    np.testing.assert_allclose(found.local.on_grid(middles, middles).mean(axis=(1, 2)), 0, atol=0.02)


def test_patches_that_were_looked_at_are_told(found: MotionModel) -> None:
    """In pixels of the movie, evenly over the field."""
    assert found.patch_centres_px is not None
    assert len(found.patch_centres_px) >= 9
    np.testing.assert_allclose(found.patch_centres_px.mean(axis=0), 511.0, atol=0.9)


def test_the_same_frames_give_the_same_motion(strong: Movie, found: MotionModel) -> None:
    """A movie that is done again has the same results, whatever the threads did first."""
    again = measure(strong)
    np.testing.assert_array_equal(again.shifts_px, found.shifts_px)
    assert again.local is not None
    assert found.local is not None
    np.testing.assert_array_equal(again.local.coefficients_px, found.local.coefficients_px)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_local_motion_none_is_invented(seed: int) -> None:
    """A movie that moves as a whole: the local part, if there is one, stays below 0.05 px."""
    movie = simulate(local_motion=0.0, seed=seed, length=768)
    motion = measure(movie)
    assert motion.kind in {"global", "local"}
    assert rms_error(motion.shifts_px, movie.truth.global_shifts_px()) < 0.25
    if motion.local is not None:
        at = np.linspace(-0.5, 767.5, 9)
        assert np.sqrt(np.square(motion.local.on_grid(at, at)).mean()) < 0.05
    else:
        assert motion.reason == "a local field does not make the held-out frames likelier"


def test_an_empty_half_does_not_spoil_the_other(strong: Movie) -> None:
    """Ice without particles over half of the field: the other is known much better than from whole frames."""
    small = strong.small.copy()
    small[:, :, small.shape[2] // 2 :] = (
        np.random.default_rng(0)
        .normal(small.mean(), small[0].std(), small[:, :, small.shape[2] // 2 :].shape)
        .astype(np.float32)
    )
    movie = replace(strong, small=small)
    half = (slice(None), slice(0, 8))
    left = field_error(measure(movie, local_motion=False), movie, half)
    assert field_error(measure(movie), movie, half) < 0.6 * left


def test_a_carbon_edge_does_not_spoil_the_field() -> None:
    """Film with much more contrast over part of the field moves with the specimen: the field is right all the same."""
    movie = simulate(corners_angstrom=12.0, seed=5, carbon_edge=True, length=768)
    motion = measure(movie)
    assert motion.kind == "local"
    assert field_error(motion, movie) < field_error(measure(movie, local_motion=False), movie) / 2


def test_a_dark_corner_does_not_spoil_the_rest(strong: Movie, whole_error: float) -> None:
    """The edge of the beam, which does not move with the specimen, crosses a corner."""
    distance = np.hypot(*np.indices(strong.small.shape[1:]))
    beam = np.clip((distance - 130) / 30, 0, 1).astype(np.float32)
    movie = replace(strong, small=strong.small * beam)
    assert field_error(measure(movie), movie, (slice(6, 17), slice(6, 17))) < whole_error / 2


def test_a_gradient_of_the_beam_is_no_motion(strong: Movie, whole_error: float) -> None:
    """It is twice as bright on one side as on the other: the field is found all the same."""
    ramp = np.linspace(0.67, 1.33, strong.small.shape[2], dtype=np.float32)
    movie = replace(strong, small=strong.small * ramp)
    assert field_error(measure(movie), movie) < whole_error / 2


def test_a_stale_gain_does_not_hold_the_motion() -> None:
    """A pattern of 3 % that the gain misses: the drift is within 5 % of the true one, and its power is reported."""
    movie = simulate(seed=1, length=768, gain_error=0.03, local_motion=0.0)
    motion = measure(movie)
    true = movie.truth.global_shifts_px()
    true = true - true[0]
    slope = np.vdot(motion.shifts_px, true) / np.vdot(true, true)
    assert slope == pytest.approx(1, abs=0.05)
    expected = 0.03**2 * N_FRAMES * movie.spec.dose_e_per_px_frame
    assert expected / 3 < motion.fixed_pattern < expected * 3


@pytest.mark.parametrize(("wanted", "index"), [("middle", N_FRAMES // 2), (5, 5)])
def test_the_frame_of_reference_stays_where_it_is(
    strong: Movie, found: MotionModel, wanted: int | str, index: int
) -> None:
    """Any frame: the path is the same, counted from it, in both parts."""
    motion = measure(strong, reference_frame=wanted)
    np.testing.assert_allclose(motion.shifts_px, found.shifts_px - found.shifts_px[index], atol=1e-9)
    at = np.linspace(-0.5, 1023.5, 5)
    field = found.shifts_on_grid_px(at, at)
    np.testing.assert_allclose(motion.shifts_on_grid_px(at, at), field - field[index], atol=1e-6)


def without(*frames: int) -> npt.NDArray[np.bool_]:
    """All frames but these."""
    used = np.ones(N_FRAMES, bool)
    used[list(frames)] = False
    return used


def test_frames_left_out_have_no_shift(strong: Movie, whole_error: float) -> None:
    """At the start, at the end and between: NaN there, and the others as good as before; exposure goes on counting."""
    used = without(0, 1, 8, N_FRAMES - 1)
    motion = measure(strong, used=used)
    np.testing.assert_array_equal(motion.used, used)
    assert np.isnan(motion.shifts_px[~used]).all()
    assert motion.shifts_px[2].tolist() == [0, 0]
    assert np.isfinite(motion.shifts_px[used]).all()
    assert field_error(motion, strong) < whole_error / 2
    assert motion.local is not None
    assert len(motion.local.moments) == N_FRAMES


def test_middle_is_the_middle_of_the_frames_that_are_used(strong: Movie) -> None:
    """Of frames 10 to 15 it is frame 13."""
    motion = measure(strong, used=without(*range(10)), reference_frame="middle")
    assert motion.shifts_px[13].tolist() == [0, 0]


@pytest.mark.parametrize("wanted", [0, 8, 40])
def test_a_reference_that_is_not_used_is_refused(strong: Movie, wanted: int) -> None:
    """One that is left out, or that the movie does not have; the message names the setting."""
    with pytest.raises(ParameterError, match=f"frame {wanted} .*reference_frame"):
        measure(strong, used=without(0, 8), reference_frame=wanted)


@pytest.mark.parametrize(
    "settings",
    [
        {"group_frames": (2, 4)},
        {"group_frames": (1, 3)},
        {"alignment_weight": "b_factor"},
        {"alignment_weight": "phase_only"},
        {"n_patches": (5, 4), "patch_overlap_percent": 30.0},
        {"dose_weighting": False},
        {"max_iterations": 3, "tolerance_px": 0.1},
    ],
    ids=str,
)
def test_other_settings_find_the_field_too(
    strong: Movie, whole_error: float, settings: dict[str, Any]
) -> None:
    """Not as well perhaps, but better than half of what correcting whole frames leaves."""
    motion = measure(strong, **settings)
    assert motion.kind == "local"
    assert field_error(motion, strong) < 0.55 * whole_error


def test_patches_are_as_many_as_asked(strong: Movie) -> None:
    """Three along x and four along y."""
    centres = measure(strong, n_patches=(3, 4)).patch_centres_px
    assert centres is not None
    assert len(centres) == 12
    assert len(np.unique(centres[:, 0])) == 4
    assert len(np.unique(centres[:, 1])) == 3


def test_local_motion_can_be_switched_off(whole: MotionModel) -> None:
    """Whole frames only, and the reason says so."""
    assert (whole.kind, whole.reason) == ("global", "local motion is switched off")
    assert whole.local is None
    assert np.isnan(whole.local_error_px)
    assert whole.patch_centres_px is None


def test_an_unknown_dose_does_not_hinder(strong: Movie, whole_error: float) -> None:
    """Frames then stand for exposure."""
    motion = measure(strong, exposure=None)
    assert motion.kind == "local"
    assert field_error(motion, strong) < whole_error / 2


@pytest.mark.parametrize("blank", [0, 7])
def test_a_frame_without_dose_does_not_hinder(strong: Movie, whole_error: float, blank: int) -> None:
    """Its exposure is that of the frame before; shifts are finite and the field as good as before."""
    doses = np.full(N_FRAMES, DOSE)
    doses[blank] = 0
    motion = measure(strong, exposure=np.cumsum(doses))
    assert np.isfinite(motion.shifts_px).all()
    assert field_error(motion, strong) < whole_error / 2


def test_doses_that_differ_and_exposure_before_the_movie(strong: Movie, whole_error: float) -> None:
    """A tilt series' later movies: what was exposed before moves nothing and hides nothing here."""
    rising = 30 + np.cumsum(np.linspace(1, 3, N_FRAMES))
    motion = measure(strong, exposure=rising)
    assert field_error(motion, strong) < whole_error / 2


@pytest.mark.parametrize("n_frames", [2, 3])
def test_few_frames_are_aligned_as_a_whole(strong: Movie, n_frames: int) -> None:
    """Movies of two and three frames get one shift per frame and say why no more."""
    movie = strong.first(n_frames)
    motion = measure(movie)
    assert motion.kind == "global"
    assert motion.reason == "the movie is too short for local motion"
    assert rms_error(motion.shifts_px, movie.truth.global_shifts_px()) < 0.5


def test_a_single_frame_shows_no_motion(strong: Movie) -> None:
    """And is no error."""
    motion = measure(strong.first(1))
    assert (motion.kind, motion.reason) == ("none", "one frame shows no motion")
    assert motion.shifts_px.tolist() == [[0, 0]]


def test_a_small_field_is_aligned_as_a_whole(strong: Movie) -> None:
    """A field of 64 small pixels has no room for patches."""
    side = 64
    movie = Movie(
        small=np.ascontiguousarray(strong.small[:, :side, :side]),
        truth=strong.truth,
        spec=replace(strong.spec, ny=side * BINNING, nx=side * BINNING),
    )
    motion = measure(movie)
    assert motion.kind in {"global", "none"}
    assert motion.local is None
    assert np.isfinite(motion.shifts_px).all()


@pytest.mark.parametrize("seed", range(2))
def test_pure_noise_has_no_motion(seed: int) -> None:
    """Empty ice is left as it came, and the reason says so."""
    movie = simulate(specimen="ice", seed=seed, length=768)
    motion = measure(movie)
    assert (motion.kind, motion.reason) == ("none", "no motion stands out from the noise")
    assert not motion.shifts_px.any()
    assert motion.local is None
    assert not motion.supported


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_frames_without_a_picture_are_refused(strong: Movie, value: float) -> None:
    """All zero, flat, not a number: the message says what to check."""
    movie = replace(strong, small=np.full_like(strong.small, value))
    with pytest.raises(MotionError, match="gain reference"):
        measure(movie)


def test_one_pixel_that_is_no_number_is_refused(strong: Movie) -> None:
    """It would spoil every transform."""
    small = strong.small.copy()
    small[3, 10, 10] = np.nan
    with pytest.raises(MotionError, match="not numbers"):
        measure(replace(strong, small=small))


def test_a_flat_frame_among_others_does_not_spoil_them(strong: Movie, whole_error: float) -> None:
    """The beam was off for one frame: the others are as good as before, its own shift lies between theirs."""
    small = strong.small.copy()
    small[9] = 0
    motion = measure(replace(strong, small=small))
    assert np.isfinite(motion.shifts_px).all()
    assert field_error(motion, strong) < 0.6 * whole_error
    step = np.abs(np.diff(strong.truth.global_px, axis=0)).max()
    assert np.abs(np.diff(motion.shifts_px, axis=0)).max() < step + 1


def test_a_movie_that_is_not_square() -> None:
    """Rows and columns are not mixed up."""
    movie = simulate(corners_angstrom=15.0, seed=3, ny=768, nx=1024)
    motion = measure(movie)
    assert motion.kind == "local"
    assert field_error(motion, movie) < field_error(measure(movie, local_motion=False), movie) / 2.5
