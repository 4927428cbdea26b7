"""Measured shifts against the truth, in value and sign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from komad.config import Processing
from komad.errors import MotionError
from komad.model import MotionModel
from komad.model.motion import early_late_px, path_length_px
from komad.motion import estimate_motion
from tests.motion.movies import crystal
from tests.toy import ToyMovie, rms_error, toy_movie


def measure(movie: ToyMovie, *, binning: int = 4, dose: float | None = 1.2) -> MotionModel:
    """Shifts of a toy movie at 1 Å pixels, whole frames only."""
    n, length = movie.frames.shape[:2]
    small = movie.frames.reshape(n, length // binning, binning, length // binning, binning).sum(axis=(2, 4))
    return estimate_motion(
        small.astype(np.float32),
        used=np.ones(n, bool),
        shape=(length, length),
        binning=binning,
        pixel_size_angstrom=1.0,
        exposure=None if dose is None else dose * np.arange(1, n + 1),
        voltage_kv=300,
        processing=Processing(local_motion=False),
    )


def test_shifts_agree_with_the_truth_in_value_and_sign() -> None:
    """A drift of a dozen pixels is found to less than a tenth of a pixel RMS; the first frame is the origin."""
    movie = toy_movie(contrast=0.2)
    motion = measure(movie)
    assert rms_error(motion.shifts_px, movie.shifts_px) < 0.1
    assert motion.shifts_px[0].tolist() == [0, 0]
    assert motion.shifts_px[-1, 0] < -10
    assert motion.shifts_px[-1, 1] > 5


@pytest.mark.parametrize("seed", range(4))
def test_expected_error_is_honest(seed: int) -> None:
    """The error that the likelihood predicts is the error that is made, within a factor of 1.7."""
    movie = toy_movie(seed=seed, contrast=0.08)
    motion = measure(movie)
    assert (
        motion.shift_error_px / 1.7
        < rms_error(motion.shifts_px, movie.shifts_px)
        < motion.shift_error_px * 1.7
    )


def test_a_stale_gain_does_not_pull_shifts_to_zero() -> None:
    """A fixed pattern of 5 % that the gain misses leaves the measured drift as large as the true one."""
    movie = toy_movie(contrast=0.1, fixed_pattern=0.05, seed=7)
    motion = measure(movie)
    slope = np.vdot(motion.shifts_px, movie.shifts_px) / np.vdot(movie.shifts_px, movie.shifts_px)
    assert slope == pytest.approx(1, abs=0.03)


def test_weak_frames_are_carried_by_their_neighbours() -> None:
    """At a third of an electron per frame the path stays smooth and within a quarter of a pixel."""
    movie = toy_movie(n_frames=60, dose=0.3, contrast=0.1, seed=3)
    assert rms_error(measure(movie, dose=0.3).shifts_px, movie.shifts_px) < 0.25


def test_no_motion_is_measured_as_none() -> None:
    """Ten independent exposures of a specimen that does not move stay within the noise of zero."""
    movie = toy_movie(n_frames=1, contrast=0.2)
    expected = 1.2 * (1 + movie.specimen)
    frames = (
        np.random.default_rng(1).poisson(np.clip(expected, 0, None), (10, *expected.shape)).astype(np.uint8)
    )
    motion = measure(replace(movie, frames=frames))
    assert rms_error(motion.shifts_px, np.zeros((10, 2))) < 0.05


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_few_frames_still_give_a_result(n_frames: int) -> None:
    """Movies of one, two and three frames are aligned, not refused."""
    movie = toy_movie(n_frames=n_frames, dose=8, contrast=0.15)
    motion = measure(movie, dose=8)
    assert motion.shifts_px.shape == (n_frames, 2)
    assert rms_error(motion.shifts_px, movie.shifts_px) < 0.2


def test_a_movie_without_a_picture_is_refused() -> None:
    """All pixels equal: the error says what to check."""
    blank = replace(toy_movie(n_frames=1), frames=np.ones((4, 256, 256), np.uint8))
    with pytest.raises(MotionError, match="gain reference"):
        measure(blank)


@pytest.mark.parametrize("seed", range(3))
def test_empty_ice_is_left_alone(seed: int) -> None:
    """Where there is no specimen, noise is not mistaken for motion."""
    noise = np.random.default_rng(seed).poisson(1.2, (12, 512, 512)).astype(np.uint8)
    motion = measure(replace(toy_movie(n_frames=1), frames=noise))
    assert not motion.supported
    assert not motion.shifts_px.any()


def test_path_length_and_its_early_part() -> None:
    """Early motion ends at 4 e/Å²; both parts add up to the whole path; skipped frames are left out."""
    shifts = np.array([[np.nan, np.nan], [0, 0], [3, 4], [3, 4], [3, 10]], float)
    assert path_length_px(shifts) == 11
    assert early_late_px(shifts, np.arange(1.0, 6.0)) == (5, 6)
    assert early_late_px(shifts, np.arange(4.0, 9.0)) == (0, 11)
    assert early_late_px(shifts, None) == (0, 11)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_even_drift_is_followed(seed: int) -> None:
    """A specimen without coarse structure drifts far and evenly: no frame resembles the plain sum, yet all meet."""
    base = np.random.default_rng(seed).poisson(0.35, (768, 768)).astype(np.uint8)
    steps = np.arange(40)[:, None] * [-4, 2]
    frames = np.stack([np.roll(base, step, (0, 1)) for step in steps])
    motion = measure(replace(toy_movie(n_frames=1), frames=frames))
    assert rms_error(motion.shifts_px, -steps.astype(float)) < 0.3


@pytest.mark.parametrize(("contrast", "seed"), [(2.0, 1), (0.3, 2), (0.12, 1)])
def test_a_crystal_is_not_taken_one_unit_cell_off(contrast: float, seed: int) -> None:
    """A perfect lattice fits at every unit cell (5 to 7 px); frames that follow one another stay together."""
    frames, displacement = crystal(contrast, seed)
    n_frames, *shape = frames.shape
    motion = estimate_motion(
        frames,
        used=np.ones(n_frames, bool),
        shape=(shape[0], shape[1]),
        binning=1,
        pixel_size_angstrom=4.0,
        exposure=np.linspace(1.2, 1.2 * n_frames, n_frames),
        voltage_kv=300,
        processing=Processing(local_motion=False),
    )
    error = motion.shifts_px + displacement
    assert np.abs(error - error.mean(axis=0)).max() < 0.5
