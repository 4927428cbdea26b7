"""What is dark or far too bright is kept out of the alignment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad.config import Processing
from komad.model import MotionModel
from komad.motion import estimate_motion
from komad.motion.field_of_view import keep_lit
from tests.toy import ToyMovie, rms_error, toy_movie

LENGTH = 768
Y, X = np.indices((LENGTH, LENGTH))


@pytest.fixture(scope="module")
def movie() -> ToyMovie:
    """A weak specimen that drifts by a dozen pixels and has no local motion."""
    return toy_movie(length=LENGTH, contrast=0.1, seed=17)


def measure(frames: npt.NDArray[np.float64]) -> MotionModel:
    """Motion at 1 Å pixels."""
    n, small = len(frames), LENGTH // 4
    return estimate_motion(
        frames.reshape(n, small, 4, small, 4).sum(axis=(2, 4)).astype(np.float32),
        used=np.ones(n, bool),
        shape=(LENGTH, LENGTH),
        binning=4,
        pixel_size_angstrom=1.0,
        exposure=1.2 * np.arange(1, n + 1),
        voltage_kv=300,
        processing=Processing(),
    )


@pytest.mark.parametrize(
    "light",
    [X >= 384, np.hypot(Y, X) > 350, np.where(X >= 500, 4.0, 1.0)],
    ids=["dark half", "dark corner", "bright step"],
)
def test_an_edge_that_stays_does_not_hold_the_shifts(movie: ToyMovie, light: npt.NDArray[np.float64]) -> None:
    """The edge of the beam lies still while the specimen drifts: the drift is found whole, and no local motion."""
    motion = measure(movie.frames * light)
    true = movie.shifts_px - movie.shifts_px.mean(axis=0)
    for axis in (0, 1):
        slope = np.vdot(motion.shifts_px[:, axis], true[:, axis]) / np.vdot(true[:, axis], true[:, axis])
        assert slope == pytest.approx(1, abs=0.05)
    assert rms_error(motion.shifts_px, movie.shifts_px) < 0.25
    if motion.local is not None:
        lit = motion.local.on_grid(np.linspace(0, 767, 9), np.linspace(400, 480, 3))
        assert np.sqrt(np.square(lit).mean()) < 0.3


def test_an_even_field_is_left_as_it_is(movie: ToyMovie) -> None:
    """Carbon, thick ice and a slope of the beam are of the usual brightness: nothing is copied."""
    frames = (movie.frames[:3] * (1 + 0.3 * X / LENGTH)).astype(np.float32)
    assert keep_lit(frames) is frames


def test_dark_frames_are_left_as_they_are() -> None:
    """Frames without a count have no brightness to go by."""
    frames = np.zeros((2, 64, 64), np.float32)
    assert keep_lit(frames) is frames


def test_what_is_left_out_is_even() -> None:
    """Beyond the edge all is zero, inside far from it nothing changes but the mean."""
    frames = np.random.default_rng(1).poisson(50, (2, 200, 200)).astype(np.float32)
    frames[:, :, :80] = 0
    kept = keep_lit(frames)
    assert not kept[:, :, :70].any()
    inside = kept[:, :, 130:]
    np.testing.assert_allclose(
        inside - inside.mean(), frames[:, :, 130:] - frames[:, :, 130:].mean(), atol=0.5
    )
