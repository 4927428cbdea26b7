"""Weights of frames: radiation, motion within a frame, ranges of dose."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from komad.config import Processing
from komad.micrograph.weights import (
    frame_weights,
    frames_within,
    path_within_frames_px,
    sharpness_left,
    weights_of_sums,
)
from komad.optics.exposure import LowRankWeights, dose_weights, signal_left

EXPOSURE = 1.2 * np.arange(1, 25)


def rebuilt(weights: LowRankWeights) -> np.ndarray:
    """(n_frames, n) what the low-rank form stands for."""
    return weights.frame_coefficients.astype(np.float64) @ weights.radial


def test_path_is_the_central_difference_of_the_shifts() -> None:
    """A frame's path is half of the way between its neighbours; at the ends, the way to the one neighbour."""
    shifts = np.array([[0, 0], [3, 4], [6, 8], [6, 10.0]])
    np.testing.assert_allclose(path_within_frames_px(shifts), [5, 5, np.hypot(1.5, 3), 2])


def test_path_across_a_frame_that_is_left_out() -> None:
    """The way to the frame after next counts half for each frame; what is left out has no path."""
    shifts = np.array([[0, 0], [np.nan, np.nan], [4, 0], [6, 0.0]])
    path = path_within_frames_px(shifts)
    assert np.isnan(path[1])
    np.testing.assert_allclose(path[[0, 2, 3]], [2, 2, 2])


def test_a_single_frame_has_no_path() -> None:
    """Nothing is known of the motion in a movie of one frame."""
    assert path_within_frames_px(np.array([[1.0, 2.0]])).tolist() == [0.0]


def test_sharpness_is_the_mean_over_directions() -> None:
    """For a short path the mean over directions of sinc is 1 - (pi k d)² / 12; at zero nothing is lost."""
    frequency = np.array([0.0, 0.05, 0.1])
    left = sharpness_left(frequency, np.array([0.0, 1.0]))
    np.testing.assert_allclose(left[0], 1)
    np.testing.assert_allclose(left[1], 1 - (np.pi * frequency) ** 2 / 12, atol=1e-4)


def test_sharpness_of_a_long_path() -> None:
    """The mean of sinc(x cos a) over all directions is an integral of the Bessel function J0."""
    x = np.array([0.3, 1.0, 2.5])
    integral, _ = scipy.special.itj0y0(np.pi * x)
    np.testing.assert_allclose(sharpness_left(x, np.array([1.0]))[0], integral / (np.pi * x), atol=2e-4)


def test_a_blurred_frame_counts_less_and_noise_stays_white() -> None:
    """Weights with motion are q b / sqrt(sum of (q b)²), to 1e-4."""
    path = 3 * np.exp(-EXPOSURE / 3)
    weights = frame_weights(EXPOSURE, pixel_size_angstrom=0.9, voltage_kv=300, path_px=path)
    q = signal_left(weights.frequency / 0.9, EXPOSURE, voltage_kv=300)
    expected = dose_weights(q * sharpness_left(weights.frequency, path))
    np.testing.assert_allclose(rebuilt(weights), expected, atol=1e-4)
    np.testing.assert_allclose(np.square(rebuilt(weights)).sum(axis=0), 1, atol=1e-3)
    plain = frame_weights(EXPOSURE, pixel_size_angstrom=0.9, voltage_kv=300, path_px=None)
    fine = np.searchsorted(weights.frequency, 0.25)
    assert rebuilt(weights)[0, fine] < 0.9 * rebuilt(plain)[0, fine]
    np.testing.assert_allclose(rebuilt(plain), dose_weights(q), atol=2e-5)


@pytest.mark.parametrize(
    ("dose_range", "expected"),
    [
        ((0, 3.6), [0, 1, 2]),
        ((0, 4.1), [0, 1, 2]),
        ((0, 4.2), [0, 1, 2, 3]),
        ((1.8, 3.0), [1, 2]),
        ((1.7, 2.9), [1]),
        ((4.8, 100), [4, 5]),
        ((50, 60), []),
    ],
)
def test_frames_within_a_range_have_half_of_their_dose_there(
    dose_range: tuple[float, float], expected: list[int]
) -> None:
    """Frames of 1.2 e/Å² each: a frame belongs to the range when at least half of its own dose does."""
    within = frames_within(1.2 * np.arange(1, 7), before=0.0, dose_range=dose_range)
    assert np.flatnonzero(within).tolist() == expected


def test_the_dose_before_the_movie_counts() -> None:
    """The range is of exposure on the specimen, not of the movie."""
    within = frames_within(10 + 2.0 * np.arange(1, 5), before=10.0, dose_range=(0, 12))
    assert np.flatnonzero(within).tolist() == [0]


def test_weights_of_a_range_are_normalised_among_its_frames() -> None:
    """Squares add up to one over the frames of the range alone; frames that are not used are not in it."""
    used = np.ones(24, bool)
    used[1] = False
    weights, dose_range = weights_of_sums(
        used,
        np.zeros((24, 2)),
        exposure=EXPOSURE,
        exposure_before=0.0,
        pixel_size_angstrom=1.0,
        voltage_kv=300,
        processing=Processing(sum_range=(0, 6)),
    )
    assert weights is not None
    assert dose_range is not None
    assert np.flatnonzero(dose_range.frames).tolist() == [0, 2, 3, 4]
    np.testing.assert_allclose(np.square(rebuilt(dose_range.weights)).sum(axis=0), 1, atol=1e-4)
    assert len(rebuilt(weights)) == 23


@pytest.mark.parametrize("before", [30.0, 1e6])
def test_what_was_lost_before_all_frames_does_not_count(before: float) -> None:
    """Weights compare frames with each other: an exposure before them changes nothing, however large it is."""
    later = frame_weights(EXPOSURE + before, pixel_size_angstrom=1.0, voltage_kv=300, path_px=None)
    weights = frame_weights(EXPOSURE, pixel_size_angstrom=1.0, voltage_kv=300, path_px=None)
    np.testing.assert_allclose(rebuilt(later), rebuilt(weights), atol=1e-4)
