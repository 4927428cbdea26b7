"""Calibration and outlier pixels."""

import numpy as np
import pytest

from komad.detector import calibrate, detector_warnings, find_outliers, leave_out_unlit
from komad.errors import ReferenceFileError

SHAPE = (128, 160)


def outliers(total, gain=None, n_frames=40, defects=None):  # type: ignore[no-untyped-def]
    """Outliers as a set of (y, x)."""
    found = find_outliers(
        total,
        calibrate(SHAPE, gain=gain, dark=None),
        n_frames=n_frames,
        defects=defects,
        hot_sigma=6,
        dead_sigma=6,
    )
    return {tuple(spot) for spot in found.yx.tolist()}


def test_dark_then_gain() -> None:
    """The dark is subtracted before the gain multiplies: (frame - dark) * gain."""
    rng = np.random.default_rng(0)
    gain, dark = rng.normal(1, 0.1, SHAPE).astype(np.float32), rng.normal(2, 0.1, SHAPE).astype(np.float32)
    frame = rng.poisson(5, SHAPE)
    calibration = calibrate(SHAPE, gain=gain, dark=dark)
    np.testing.assert_allclose(
        frame * calibration.gain + calibration.offset, (frame - dark) * gain, atol=1e-5
    )


def test_wrong_size_is_refused() -> None:
    """A gain of another size is an error that names both sizes."""
    with pytest.raises(ReferenceFileError, match=r"gain reference is 64 x 32 .* frames are 160 x 128"):
        calibrate(SHAPE, gain=np.ones((32, 64), np.float32), dark=None)


def test_hot_and_dead_pixels_are_found_and_nothing_else() -> None:
    """Planted hot and dead pixels, also beside each other, are found; six sigma spares all good ones."""
    total = np.random.default_rng(1).poisson(48, SHAPE)
    planted = {(5, 7), (5, 8), (100, 3), (127, 159), (60, 60)}
    for y, x in list(planted)[:3]:
        total[y, x] = 400
    for y, x in list(planted)[3:]:
        total[y, x] = 0
    assert outliers(total) == planted


def test_dead_pixels_are_found_in_a_weak_movie() -> None:
    """Zero counts where thirty are expected is impossible by chance, though only 5.5 sigma of a Gaussian."""
    total = np.random.default_rng(2).poisson(30, SHAPE)
    total[10, 10] = 0
    assert outliers(total) == {(10, 10)}


def test_gain_is_applied_before_the_test() -> None:
    """Columns that count twice as much are normal once the gain says so."""
    response = np.ones(SHAPE)
    response[:, ::16] = 2
    total = np.random.default_rng(3).poisson(48 * response)
    assert outliers(total, gain=(1 / response).astype(np.float32)) == set()
    assert len(outliers(total)) > 200


def test_defects_and_impossible_gains_are_outliers() -> None:
    """Known defects, zero gains and gains that are not numbers are replaced whatever was counted there."""
    total = np.random.default_rng(4).poisson(48, SHAPE)
    gain, defects = np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool)
    gain[1, 1], gain[2, 2], defects[3, 3] = 0, np.nan, True
    assert outliers(total, gain=gain, defects=defects) == {(1, 1), (2, 2), (3, 3)}


def test_an_empty_exposure_has_no_outliers() -> None:
    """Beam off: all pixels zero, nothing to replace."""
    assert outliers(np.zeros(SHAPE, np.int64)) == set()


def test_values_that_are_no_counts_have_few_outliers() -> None:
    """A signed movie whose sum is negative everywhere: the planted pixels are found and nothing else."""
    total = np.random.default_rng(5).normal(-80, 40, SHAPE)
    total[7, 9], total[20, 30] = 900, -900
    assert outliers(total) == {(7, 9), (20, 30)}


def test_single_electrons_are_no_outliers() -> None:
    """In a nearly empty exposure most pixels are zero; a hot pixel still stands out, single electrons do not."""
    total = np.random.default_rng(6).poisson(0.1, SHAPE)
    total[50, 60] = 30
    found = outliers(total)
    assert (50, 60) in found
    assert len(found) < 5


def test_a_reference_that_is_no_number_makes_an_outlier() -> None:
    """NaN in gain and dark leaves finite numbers only, is counted, and is found as an outlier; inputs stay."""
    gain, dark = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    gain[3, 4], gain[5, 6], dark[7, 8] = np.nan, np.inf, np.nan
    calibration = calibrate(SHAPE, gain=gain, dark=dark)
    assert calibration.n_invalid == 3
    assert np.isfinite(calibration.gain).all()
    assert np.isfinite(calibration.offset).all()
    assert np.isnan(gain[3, 4])
    total = np.random.default_rng(1).poisson(200, SHAPE)
    found = find_outliers(total, calibration, n_frames=40, defects=None, hot_sigma=6, dead_sigma=6)
    assert found.yx.tolist() == [[3, 4], [5, 6], [7, 8]]


def beam(means: list[float], used: list[bool] | None = None):  # type: ignore[no-untyped-def]
    """`leave_out_unlit` of frames with these means; only those used are given."""
    chosen = np.ones(len(means), bool) if used is None else np.array(used)
    small = np.array(means, np.float32)[chosen][:, None, None] * np.ones((1, 4, 4), np.float32)
    return leave_out_unlit(small, chosen)


def test_frames_without_beam_are_left_out() -> None:
    """Below a tenth of the median; indices are those of the movie, with skipped frames counted."""
    small, used, unlit = beam([50, 0.2, 1, 1.2, 0.09, 1, 1.1], [False, True, True, True, True, True, True])
    assert unlit.tolist() == [4]
    assert used.tolist() == [False, True, True, True, False, True, True]
    np.testing.assert_allclose(small[:, 0, 0], [0.2, 1, 1.2, 1, 1.1])


def test_a_movie_without_any_beam_is_kept_whole() -> None:
    """All frames empty: all are named, none is left out."""
    small, used, unlit = beam([0.0, 0.0, 0.0])
    assert len(small) == 3
    assert used.all()
    assert unlit.tolist() == [0, 1, 2]


def warnings(frames, **known):  # type: ignore[no-untyped-def]
    """Sentences about these frames."""
    given = {"n_outliers": 0, "unlit": np.zeros(0, np.intp)} | known
    return list(detector_warnings(frames, calibrate(SHAPE, gain=None, dark=None), **given))


def test_what_is_wrong_is_said() -> None:
    """Nothing for a good movie; frames are counted from 1; saturation, flatness and too many outliers are named."""
    frames = np.random.default_rng(0).poisson(3, (4, *SHAPE)).astype(np.uint8)
    assert warnings(frames) == []
    assert "frame 2, 4 (counted from 1)" in warnings(frames, unlit=np.array([1, 3]))[0]
    assert warnings(frames, unlit=np.arange(4)) == ["no frame has seen the beam"]
    assert "2.0 % of the pixels are outliers" in warnings(frames, n_outliers=410)[0]
    assert "saturated" in warnings(np.minimum(frames, 2))[0]
    assert warnings(np.zeros_like(frames)) == []


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_frames_of_values_around_zero_are_not_without_beam(offset: float) -> None:
    """Their means are anything: a frame that is empty all the same is told by its spread."""
    frames = np.random.default_rng(5).normal(offset, 1, (8, 128, 128)).astype(np.float32)
    _, used, unlit = leave_out_unlit(frames, np.ones(8, bool))
    assert used.all()
    assert not len(unlit)
    frames[3] = offset
    _, used, unlit = leave_out_unlit(frames, np.ones(8, bool))
    assert unlit.tolist() == [3]
    assert np.flatnonzero(~used).tolist() == [3]
