"""Hits of x-rays in single frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.detector import calibrate, find_outliers
from komad.model import OutlierPixels

SHAPE = (96, 160)


def find(frames: npt.NDArray[np.generic], *, gain=None, dark=None, xray: float = 12.0) -> OutlierPixels:  # type: ignore[no-untyped-def]
    """Outliers with the thresholds of the histogram."""
    return find_outliers(
        frames,
        kernels.sum_frames(frames),
        calibrate(SHAPE, gain=gain, dark=dark),
        defects=None,
        hot_sigma=None,
        dead_sigma=None,
        xray_sigma=xray,
    )


def entries(outliers: OutlierPixels) -> list[tuple[int, int, int]]:
    """As (y, x, frame), in order."""
    return [(*map(int, yx), int(t)) for yx, t in zip(outliers.yx, outliers.frame, strict=True)]


def movie(mean: float, n_frames: int = 20, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Counts."""
    return np.random.default_rng(seed).poisson(mean, (n_frames, *SHAPE)).astype(np.uint16)


@pytest.mark.parametrize("mean", [0.01, 0.1, 1.2, 30.0])
def test_a_hit_is_found_in_its_frame_only(mean: float) -> None:
    """Two hits of one pixel, one of its neighbour: neither is hot throughout, and nothing else is found."""
    frames = movie(mean)
    assert len(find(frames)) == 0
    frames[3, 20, 30] = frames[17, 20, 30] = frames[0, 20, 31] = 250
    found = find(frames)
    assert entries(found) == [(20, 30, 3), (20, 30, 17), (20, 31, 0)]
    assert (found.n_hot, found.n_xrays) == (0, 3)
    assert not len(found.throughout_yx)
    np.testing.assert_array_equal(found.keep, 0)


def test_a_hot_pixel_has_no_hits() -> None:
    """It is brighter than others in every frame, not than itself in one; hit as well, it is replaced in all."""
    frames = movie(1.2)
    frames[:, 50, 60] += 40
    frames[4, 50, 60] = 5000
    assert entries(find(frames)) == [(50, 60, -1)]


def test_the_setting_is_the_limit() -> None:
    """12 standard deviations above a mean of 4 are about 48 counts; 0 looks for none."""
    frames = movie(4.0)
    frames[2, 10, 10], frames[2, 40, 40] = 34, 54
    assert entries(find(frames)) == [(40, 40, 2)]
    assert (10, 10, 2) in entries(find(frames, xray=8))
    assert find(frames, xray=0).n_xrays == 0


def test_a_brighter_frame_is_no_shower() -> None:
    """The beam was ten times as bright in one frame, and off in another: no pixel is an outlier."""
    light = np.ones(20)
    light[5], light[9] = 10, 0
    frames = np.random.default_rng(1).poisson(2 * light[:, None, None], (20, *SHAPE)).astype(np.uint16)
    assert len(find(frames)) == 0
    frames[7, 30, 30] = 200
    assert entries(find(frames)) == [(30, 30, 7)]


def test_gain_and_dark_are_taken_into_account() -> None:
    """A pixel of a high gain scatters more; 100 counts in every frame are no electrons."""
    response = np.ones(SHAPE)
    response[:, ::8] = 0.5
    frames = (100 + np.random.default_rng(2).poisson(3 * response, (20, *SHAPE))).astype(np.uint16)
    gain, dark = (1 / response).astype(np.float32), np.full(SHAPE, 100, np.float32)
    assert len(find(frames, gain=gain, dark=dark)) == 0
    frames[11, 16, 16] = 250
    assert entries(find(frames, gain=gain, dark=dark)) == [(16, 16, 11)]


def test_values_that_are_no_counts_have_hits_too() -> None:
    """Around zero the width of the noise is the measure."""
    frames = np.random.default_rng(3).normal(0, 2, (10, *SHAPE)).astype(np.float32)
    assert len(find(frames)) == 0
    frames[6, 7, 8] = 60
    assert entries(find(frames)) == [(7, 8, 6)]


def test_a_pixel_that_flickers_is_not_hit() -> None:
    """On in a third of the frames: no hit, but hot throughout."""
    frames = movie(1.2, 21)
    frames[::3, 30, 40] = 60
    assert entries(find(frames)) == [(30, 40, -1)]


def test_a_movie_of_one_frame_has_no_hits() -> None:
    """There is no other frame to compare it with: what is too bright is hot."""
    frames = movie(5.0, 1)
    frames[0, 5, 6] = 200
    assert entries(find(frames)) == [(5, 6, -1)]
