"""Every setting of the alignment reaches the stage that it is about: a result that ignores it fails here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from komad.config import Processing
from komad.model import MotionModel
from komad.motion import estimate, estimate_motion, global_shifts, local_field
from tests.toy import ToyMovie, rms_error, toy_movie

BINNING, LENGTH, N_FRAMES = 4, 512, 20
MOVIE = toy_movie(n_frames=N_FRAMES, length=LENGTH, contrast=0.2, drift_px=6.0, seed=31)
SMALL_LENGTH = LENGTH // BINNING


def bent(movie: ToyMovie) -> ToyMovie:
    """The same counts, upper and lower half moved apart by up to 8 px."""
    frames = movie.frames.copy()
    for t in range(N_FRAMES):
        apart = round(4 * (1 - np.exp(-t / 4)))
        frames[t, : LENGTH // 2] = np.roll(frames[t, : LENGTH // 2], apart, axis=1)
        frames[t, LENGTH // 2 :] = np.roll(frames[t, LENGTH // 2 :], -apart, axis=1)
    return ToyMovie(frames=frames, shifts_px=movie.shifts_px, specimen=movie.specimen)


BENT = bent(MOVIE)


def measure(movie: ToyMovie = MOVIE, **settings: Any) -> MotionModel:
    """1 Å pixels, 1.2 e/Å² per frame."""
    small = movie.frames.reshape(N_FRAMES, SMALL_LENGTH, BINNING, SMALL_LENGTH, BINNING).sum(axis=(2, 4))
    return estimate_motion(
        small.astype(np.float32),
        used=np.ones(N_FRAMES, bool),
        shape=(LENGTH, LENGTH),
        binning=BINNING,
        pixel_size_angstrom=1.0,
        exposure=1.2 * np.arange(1, N_FRAMES + 1),
        voltage_kv=300,
        processing=Processing(**settings),
    )


def test_patches_are_as_asked() -> None:
    """Their number along x and y; the more they share, the larger each is and the nearer to the middle."""
    reach = []
    for share in (0, 50):
        centres = measure(n_patches=(2, 3), patch_overlap_percent=share).patch_centres_px
        assert centres is not None
        assert [len(np.unique(centres[:, axis])) for axis in (1, 0)] == [2, 3]
        reach.append(np.ptp(centres))
    assert reach[1] < reach[0] - 20


@pytest.mark.parametrize("weight", ["b_factor", "phase_only"])
def test_weights_are_as_asked(weight: str) -> None:
    """Other weights, and another B of them, give another path, that is right too."""
    paths = [
        measure(local_motion=False, alignment_weight=kind, b_factors_angstrom2=(b_factor, 150)).shifts_px
        for kind, b_factor in (("optimal", 500), (weight, 500), (weight, 200))
    ]
    for path in paths:
        assert rms_error(path, MOVIE.shifts_px) < 0.2
    assert np.abs(paths[1] - paths[0]).max() > 1e-3
    assert np.abs(paths[2] - paths[1]).max() > 1e-3


def test_the_second_b_factor_is_for_patches() -> None:
    """Whole frames are aligned alike, the field is another one."""
    one, other = (
        measure(BENT, alignment_weight="b_factor", b_factors_angstrom2=(500, b)) for b in (150, 1000)
    )
    assert one.local is not None
    assert other.local is not None
    assert np.abs(one.local.coefficients_px - other.local.coefficients_px).max() > 1e-3


def test_frames_are_grouped_as_asked() -> None:
    """Whole frames in threes: a smoother path through all frames. Patches in fours: five knots."""
    grouped = measure(group_frames=(3, 4))
    assert rms_error(grouped.shifts_px, MOVIE.shifts_px) < 0.5
    assert np.abs(grouped.shifts_px - measure().shifts_px).max() > 0.01
    field = measure(BENT, group_frames=(1, 4)).local
    assert field is not None
    np.testing.assert_allclose(field.knots, 1.2 * (np.arange(5) * 4 + 2))


def test_rounds_end_where_asked() -> None:
    """After so many, or when no frame moves by more."""
    assert measure(max_iterations=2, tolerance_px=1e-6).n_iterations == 2
    assert measure(tolerance_px=1.0).n_iterations < measure(tolerance_px=1e-3).n_iterations


def test_every_stage_keeps_to_rounds_tolerance_and_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search, the whole frames, the patches, and both again where local motion is large."""
    seen: list[tuple[str, Any]] = []

    def spy(room: Any, name: str, *keys: str) -> None:
        original = getattr(room, name)

        def note(*arguments: Any, **given: Any) -> Any:
            seen.extend((key, given[key]) for key in keys)
            return original(*arguments, **given)

        monkeypatch.setattr(room, name, note)

    monkeypatch.setattr(estimate, "SMALL_SHIFT", 0.1)
    spy(global_shifts, "search", "max_shift")
    spy(global_shifts, "refine", "max_rounds", "tolerance")
    spy(local_field, "fit_field", "max_rounds", "tolerance")
    measure(BENT, max_iterations=2, tolerance_px=0.2, max_shift_angstrom=80)
    assert [value for key, value in seen if key == "max_shift"] == [80 / BINNING]
    assert [value for key, value in seen if key == "max_rounds"] == [2] * 4
    assert [value for key, value in seen if key == "tolerance"] == [0.2 / BINNING] * 4
