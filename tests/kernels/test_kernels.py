"""Every kernel against plain NumPy."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.kernels.plan import POINT_SPREAD, OutlierFill, lanczos_weights
from komad.model import ALL_FRAMES, OutlierPixels, outliers_at

NO_OUTLIERS = outliers_at([])
FILLS: list[OutlierFill] = ["mean", "draw"]


def movie(shape: tuple[int, int, int], dtype: type = np.uint8, seed: int = 0) -> npt.NDArray[np.generic]:
    """Random counts; those of one byte nobody may change."""
    frames = np.random.default_rng(seed).poisson(3, shape).astype(dtype)
    # For one type: loops are compiled for arrays that may be written to and for others.
    frames.setflags(write=frames.dtype != np.uint8)
    return frames


def references(
    shape: tuple[int, int], seed: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A gain around 1 and an offset around 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(1, 0.1, shape).astype(np.float32), rng.normal(0, 0.1, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.float32])
def test_sum_frames(dtype: type) -> None:
    """Sum, frame means and largest values equal NumPy's for every type a camera writes."""
    frames = movie((5, 70, 90), dtype)
    total, means, largest = kernels.sum_frames(frames)
    np.testing.assert_allclose(total, frames.sum(axis=0, dtype=np.float64))
    np.testing.assert_allclose(means, frames.mean(axis=(1, 2), dtype=np.float64))
    np.testing.assert_array_equal(largest, frames.max(axis=0))
    assert largest.dtype == dtype


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
    np.testing.assert_allclose(binned, 80, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 4])
def test_reduce_replaces_what_is_no_number(factor: int) -> None:
    """A pixel that is not a number, because of the gain or of the frames, does not reach the binned frames."""
    frames = np.full((2, 64, 64), 5, np.float32)
    frames[1, 20, 21] = np.inf
    gain, zeros = np.ones((64, 64), np.float32), np.zeros((64, 64), np.float32)
    gain[10, 10] = np.nan
    outliers = kernels.plan_outliers(outliers_at(np.array([[10, 10], [20, 21]], np.int32)), (64, 64))
    binned = kernels.reduce(frames, gain, zeros, outliers, factor=factor)
    np.testing.assert_allclose(binned, 5 * factor**2, rtol=1e-6)


def test_interpolation_weights_sum_to_one() -> None:
    """Constant pictures stay constant; whole positions copy."""
    weights = lanczos_weights()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[0], [0, 0, 1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[-1], [0, 0, 0, 1, 0, 0], atol=1e-7)


def bad_map(places: npt.NDArray[np.int32], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """True at the places (n, 2)."""
    bad = np.zeros(shape, bool)
    bad[places[:, 0], places[:, 1]] = True
    return bad


def neighbours(plan: kernels.Outliers) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Y and x of all pixels that stand in for outliers, in the order of these."""
    outlier, i, j = np.nonzero(plan.weight)
    return plan.corner[outlier, 0] + i, plan.corner[outlier, 1] + j


@pytest.mark.parametrize("fill", FILLS)
def test_neighbours_are_good_and_near(fill: OutlierFill) -> None:
    """Neighbours of a cluster are good pixels, none of the cluster itself, even when it is larger than the search."""
    shape = (64, 64)
    cluster = np.argwhere(np.hypot(*(np.indices(shape) - 32)) < 6).astype(np.int32)
    outliers = outliers_at(cluster[::-1])
    plan = kernels.plan_outliers(outliers, shape, fill)
    y, x = neighbours(plan)
    assert not bad_map(cluster, shape)[y, x].any()
    own = np.repeat(outliers.yx, np.count_nonzero(plan.weight, axis=(1, 2)), axis=0)
    assert np.hypot(y - own[:, 0], x - own[:, 1]).max() < 10
    assert (plan.weight > 0).any(axis=(1, 2)).all()


@pytest.mark.parametrize("fill", FILLS)
def test_neighbours_of_a_huge_cluster_are_found_in_time(fill: OutlierFill) -> None:
    """Half of a picture is bad, or all but one corner: every pixel still gets good neighbours, and soon."""
    shape = (1024, 512)
    for rows in (512, 1020):
        cluster = np.argwhere(np.indices(shape)[0] < rows).astype(np.int32)
        started = perf_counter()
        plan = kernels.plan_outliers(outliers_at(cluster), shape, fill)
        assert perf_counter() - started < 30
        assert neighbours(plan)[0].min() >= rows
        assert (plan.weight > 0).any(axis=(1, 2)).all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_picture_with_no_good_pixel_keeps_its_values(fill: OutlierFill) -> None:
    """When every pixel is an outlier there is nothing to take instead, and nothing breaks."""
    frames = movie((2, 8, 8))
    everything = np.argwhere(np.ones((8, 8), bool)).astype(np.int32)
    np.testing.assert_array_equal(filled(frames, outliers_at(everything), fill), frames)


def filled(
    frames: npt.NDArray[np.generic], outliers: OutlierPixels, fill: OutlierFill = "mean", first_frame: int = 0
) -> npt.NDArray[np.float32]:
    """Frames with their outliers replaced, no gain and no dark; the same from both kernels that do so."""
    shape = (frames.shape[1], frames.shape[2])
    ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    plan = kernels.plan_outliers(outliers, shape, fill)
    y, x = kernels.node_positions(shape)
    found = kernels.reduce(frames, ones, zeros, plan, factor=1, first_frame=first_frame)
    fused = kernels.correct(
        frames,
        ones,
        zeros,
        plan,
        shifts=np.zeros((len(frames), len(y), len(x), 2), np.float32),
        coefficients=np.eye(len(frames), dtype=np.float32),
        first_frame=first_frame,
    )
    np.testing.assert_allclose(fused, found, rtol=1e-5, atol=1e-5)
    return found


def test_single_outliers_are_filled_by_the_point_spread() -> None:
    """The weights are the normalised table; at an edge, those of the neighbours that exist."""
    frames = movie((3, 40, 150))
    found = filled(frames, outliers_at([[20, 70], [0, 149]]))
    spread = POINT_SPREAD / POINT_SPREAD.sum()
    np.testing.assert_allclose(found[:, 20, 70], (frames[:, 18:23, 68:73] * spread).sum((1, 2)), rtol=1e-5)
    corner = POINT_SPREAD[2:, :3] / POINT_SPREAD[2:, :3].sum()
    np.testing.assert_allclose(found[:, 0, 149], (frames[:, :3, 147:] * corner).sum((1, 2)), rtol=1e-5)


def test_outliers_near_each_other_are_filled_by_the_mean_of_good_pixels() -> None:
    """Another one within two pixels along both axes: the plain mean of 5 x 5 pixels without outliers."""
    frames = movie((3, 40, 150))
    places = np.array([[20, 70], [22, 72], [30, 70], [33, 70]], np.int32)
    found = filled(frames, outliers_at(places))
    window = frames[:, 18:23, 68:73].astype(float)
    window[:, 2, 2] = window[:, 4, 4] = np.nan
    np.testing.assert_allclose(found[:, 20, 70], np.nanmean(window, axis=(1, 2)), rtol=1e-5)
    spread = POINT_SPREAD / POINT_SPREAD.sum()
    np.testing.assert_allclose(found[:, 30, 70], (frames[:, 28:33, 68:73] * spread).sum((1, 2)), rtol=1e-5)


def test_a_draw_is_one_of_the_neighbours_and_changes() -> None:
    """Each frame gets the value of one of the good pixels among 5 x 5, not always of the same one."""
    frames = np.broadcast_to(np.arange(1600, dtype=np.uint16).reshape(40, 40), (30, 40, 40))
    found = filled(frames, outliers_at([[20, 20], [20, 21]]), "draw")
    y, x = np.divmod(found[:, 20, 20].astype(int), 40)
    assert (np.maximum(abs(y - 20), abs(x - 20)) <= 2).all()
    assert not ((y == 20) & ((x == 20) | (x == 21))).any()
    assert len(np.unique(found[:, 20, 20])) > 4


@pytest.mark.parametrize("fill", FILLS)
def test_an_outlier_keeps_a_part_of_its_own_value(fill: OutlierFill) -> None:
    """The weight of McLeod et al. (2017) eq. 6: in an even picture of 10, 70 with a weight of 0.25 becomes 25."""
    frames = np.full((2, 40, 150), 10, np.uint8)
    frames[:, 20, 70] = 70
    outliers = OutlierPixels(
        yx=np.array([[20, 70]], np.int32), keep=np.float32([0.25]), frame=np.int32([ALL_FRAMES])
    )
    np.testing.assert_allclose(filled(frames, outliers, fill)[:, 20, 70], 25, rtol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_a_hit_is_replaced_in_its_frame_only(fill: OutlierFill) -> None:
    """Two hits of one pixel and one beside it; frames are counted from the movie's first when the first are skipped."""
    frames = np.full((5, 40, 150), 10, np.uint8)
    frames[1, 20, 70] = frames[3, 20, 70] = frames[0, 20, 71] = 200
    frames[2, 20, 70] = 12
    outliers = OutlierPixels(
        yx=np.array([[20, 70], [20, 70], [20, 71]], np.int32),
        keep=np.zeros(3, np.float32),
        frame=np.array([1, 3, 0], np.int32),
    )
    for first in range(3):
        found = filled(frames[first:], outliers, fill, first_frame=first)
        np.testing.assert_allclose(found[:, 20, 70], [10, 10, 12, 10, 10][first:], rtol=1e-6)
        np.testing.assert_allclose(found[:, 20, 71], 10, rtol=1e-6)


def test_add_filtered_is_linear_between_samples() -> None:
    """The radial filter is interpolated linearly, and what is added comes on top of what was there."""
    ky, kx = np.fft.fftfreq(64).astype(np.float32), np.fft.rfftfreq(64).astype(np.float32)
    spectrum = np.ones((64, 33), np.complex64) * (2 + 1j)
    total = np.ones((64, 33), np.complex64)
    frequency = np.linspace(0, 0.75, 31)
    kernels.add_filtered(total, spectrum, ky, kx, frequency, frequency**2)
    radius = np.hypot(ky[:, None], kx[None, :])
    np.testing.assert_allclose(total, 1 + spectrum * np.interp(radius, frequency, frequency**2), rtol=1e-5)


@pytest.mark.parametrize("fill", FILLS)
def test_the_filling_of_a_huge_cluster_has_no_streaks(fill: OutlierFill) -> None:
    """Half of a picture is bad: means of rows of what fills it scatter little more than those of noise."""
    frames = np.random.default_rng(6).poisson(4, (1, 256, 256)).astype(np.uint8)
    cluster = np.argwhere(np.arange(256)[None, :].repeat(256, axis=0) < 128).astype(np.int32)
    ones, zeros = np.ones((256, 256), np.float32), np.zeros((256, 256), np.float32)
    plan = kernels.plan_outliers(outliers_at(cluster), (256, 256), fill)
    picture = kernels.reduce(frames, ones, zeros, plan, factor=1)[0]
    deep, noise = picture[:, :100].mean(axis=1), picture[:, 128:228].mean(axis=1)
    assert deep.std() < 2 * noise.std()
