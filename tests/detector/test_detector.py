"""Calibration, frames without beam, warnings."""

import numpy as np
import pytest

from komad.detector import calibrate, detector_warnings, leave_out_unlit
from komad.errors import ReferenceFileError
from tests.device import device_on_the_host

SHAPE = (128, 160)


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


def test_a_reference_that_is_no_number_becomes_a_gain_of_zero() -> None:
    """NaN in gain and dark leaves finite numbers only and is counted; inputs stay."""
    gain, dark = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    gain[3, 4], gain[5, 6], dark[7, 8] = np.nan, np.inf, np.nan
    calibration = calibrate(SHAPE, gain=gain, dark=dark)
    assert calibration.n_invalid == 3
    assert np.isfinite(calibration.gain).all()
    assert np.isfinite(calibration.offset).all()
    assert np.isnan(gain[3, 4])


def test_a_power_leaves_gains_that_are_not_positive() -> None:
    """Only positive gains are raised; zero, negative ones and NaN are counted, on a device as on the host."""
    gain = np.ones(SHAPE, np.float32)
    gain[0, :4] = [2, 0, -2, np.nan]
    ours = calibrate(SHAPE, gain=gain, dark=None, gamma=-0.5)
    assert ours.n_invalid == 3
    np.testing.assert_allclose(ours.gain[0, :5], [2**-0.5, 0, 0, 0, 1])
    with device_on_the_host() as cupy:
        there = calibrate(SHAPE, gain=gain, dark=None, gamma=-0.5, like=cupy.zeros(0))
        assert there.n_invalid == 3
        np.testing.assert_array_equal(there.gain.get(), ours.gain)


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
