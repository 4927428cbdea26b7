"""Every kernel against plain NumPy."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.kernels.plan import N_DONORS, lanczos_weights
from komad.model import outliers_at

NO_OUTLIERS = outliers_at([])


def movie(shape: tuple[int, int, int], dtype: type = np.uint8, seed: int = 0) -> npt.NDArray[np.generic]:
    """Random counts that nobody may change."""
    frames = np.random.default_rng(seed).poisson(3, shape).astype(dtype)
    frames.setflags(write=False)
    return frames


def references(
    shape: tuple[int, int], seed: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A gain around 1 and an offset around 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(1, 0.1, shape).astype(np.float32), rng.normal(0, 0.1, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.float32])
def test_sum_frames(dtype: type) -> None:
    """Sum and frame means equal NumPy's for every type a camera writes."""
    frames = movie((5, 70, 90), dtype)
    total, means = kernels.sum_frames(frames)
    np.testing.assert_allclose(total, frames.sum(axis=0, dtype=np.float64))
    np.testing.assert_allclose(means, frames.mean(axis=(1, 2), dtype=np.float64))


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_reduce_adds_up_blocks(factor: int) -> None:
    """Reduce is the sum of corrected pixels over blocks; what does not fill a block is left out."""
    frames, (gain, offset) = movie((3, 70, 95)), references((70, 95))
    ny, nx = 70 // factor, 95 // factor
    corrected = (frames * gain + offset)[:, : ny * factor, : nx * factor]
    expected = corrected.reshape(3, ny, factor, nx, factor).sum(axis=(2, 4))
    binned = kernels.reduce(frames, gain, offset, kernels.plan_outliers(NO_OUTLIERS, (70, 95)), factor=factor)
    np.testing.assert_allclose(binned, expected, rtol=1e-5, atol=1e-4)


def test_reduce_replaces_outliers() -> None:
    """A hot pixel and a hot cluster leave no trace in the binned frames of an even picture."""
    frames = np.full((2, 64, 64), 5, np.uint8)
    spots = np.array([[10, 10], [30, 30], [30, 31], [31, 30], [31, 31], [0, 63]], np.int32)
    frames[:, spots[:, 0], spots[:, 1]] = 250
    ones, zeros = np.ones((64, 64), np.float32), np.zeros((64, 64), np.float32)
    binned = kernels.reduce(
        frames, ones, zeros, kernels.plan_outliers(outliers_at(spots), (64, 64)), factor=4
    )
    np.testing.assert_array_equal(binned, 80)


@pytest.mark.parametrize("factor", [1, 4])
def test_reduce_replaces_what_is_no_number(factor: int) -> None:
    """A pixel that is not a number, because of the gain or of the frames, does not reach the binned frames."""
    frames = np.full((2, 64, 64), 5, np.float32)
    frames[1, 20, 21] = np.inf
    gain, zeros = np.ones((64, 64), np.float32), np.zeros((64, 64), np.float32)
    gain[10, 10] = np.nan
    outliers = kernels.plan_outliers(outliers_at(np.array([[10, 10], [20, 21]], np.int32)), (64, 64))
    binned = kernels.reduce(frames, gain, zeros, outliers, factor=factor)
    np.testing.assert_array_equal(binned, 5 * factor**2)


def test_interpolation_weights_sum_to_one() -> None:
    """Constant pictures stay constant; whole positions copy."""
    weights = lanczos_weights()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[0], [0, 0, 1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[-1], [0, 0, 0, 1, 0, 0], atol=1e-7)


def test_donors_are_good_and_near() -> None:
    """Donors of a cluster are good pixels, none of the cluster itself, even when it is larger than the search."""
    shape = (64, 64)
    cluster = np.argwhere(np.hypot(*(np.indices(shape) - 32)) < 6).astype(np.int32)
    plan = kernels.plan_outliers(outliers_at(cluster[::-1]), shape)
    bad = np.zeros(shape, bool)
    bad[cluster[:, 0], cluster[:, 1]] = True
    assert plan.donors.shape == (len(cluster), N_DONORS)
    assert not bad.ravel()[plan.donors].any()
    y, x = np.divmod(plan.donors, 64)
    assert np.hypot(y - cluster[:, :1], x - cluster[:, 1:]).max() < 10


def test_donors_of_a_huge_cluster_are_found_in_time() -> None:
    """Half of a picture is bad, or all but one corner: every pixel still gets good donors, and soon."""
    shape = (1024, 512)
    for rows in (512, 1020):
        cluster = np.argwhere(np.indices(shape)[0] < rows).astype(np.int32)
        started = perf_counter()
        plan = kernels.plan_outliers(outliers_at(cluster), shape)
        assert perf_counter() - started < 30
        assert plan.donors.min() >= rows * shape[1]


def test_a_picture_with_no_good_pixel_keeps_its_values() -> None:
    """When every pixel is an outlier there is nothing to draw from, and nothing breaks."""
    everything = np.argwhere(np.ones((8, 8), bool)).astype(np.int32)
    plan = kernels.plan_outliers(outliers_at(everything), (8, 8))
    np.testing.assert_array_equal(plan.donors[:, 0], np.arange(64))


def test_add_filtered_is_linear_between_samples() -> None:
    """The radial filter is interpolated linearly, and what is added comes on top of what was there."""
    ky, kx = np.fft.fftfreq(64).astype(np.float32), np.fft.rfftfreq(64).astype(np.float32)
    spectrum = np.ones((64, 33), np.complex64) * (2 + 1j)
    total = np.ones((64, 33), np.complex64)
    frequency = np.linspace(0, 0.75, 31)
    kernels.add_filtered(total, spectrum, ky, kx, frequency, frequency**2)
    radius = np.hypot(ky[:, None], kx[None, :])
    np.testing.assert_allclose(total, 1 + spectrum * np.interp(radius, frequency, frequency**2), rtol=1e-5)


def test_the_filling_of_a_huge_cluster_has_no_streaks() -> None:
    """Half of a picture is bad: means of rows of what fills it scatter little more than those of noise."""
    frames = np.random.default_rng(6).poisson(4, (1, 256, 256)).astype(np.uint8)
    cluster = np.argwhere(np.arange(256)[None, :].repeat(256, axis=0) < 128).astype(np.int32)
    ones, zeros = np.ones((256, 256), np.float32), np.zeros((256, 256), np.float32)
    plan = kernels.plan_outliers(outliers_at(cluster), (256, 256))
    filled = kernels.reduce(frames, ones, zeros, plan, factor=1)[0]
    deep, noise = filled[:, :100].mean(axis=1), filled[:, 128:228].mean(axis=1)
    assert deep.std() < 2 * noise.std()
