"""The hot loops, each behind one signature: `cpu` (numba) for NumPy arrays, a CUDA twin for CuPy arrays.

Callers use the functions here; which side runs follows from the arrays given. What is small (lines, moments, shifts,
weights, outliers) is of NumPy on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, namespace
from komad.kernels import cpu, cuda
from komad.kernels.levels import BLOCK, HISTOGRAM_EDGES, CorrectedStack, Levels
from komad.kernels.plan import FrameSums, Outliers, node_positions, plan_outliers
from komad.kernels.stack import BadPixels, RelativeStack, bad_pixels

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "BLOCK",
    "HISTOGRAM_EDGES",
    "BadPixels",
    "CorrectedStack",
    "FrameSums",
    "Levels",
    "Outliers",
    "RelativeStack",
    "add_filtered",
    "add_fixed_point",
    "aligned_sum",
    "alignment_gradient",
    "bad_pixels",
    "block_levels",
    "block_moments",
    "correct",
    "deviating_pixels",
    "deviation_histogram",
    "flashing_pixels",
    "line_means",
    "node_positions",
    "pixel_moments",
    "plan_outliers",
    "reduce",
    "ring_plan",
    "ring_sums",
    "shared_pattern",
    "sum_frames",
]

FloatArray = npt.NDArray[np.float32]


def _side(*arrays: Array) -> ModuleType:
    return cpu if namespace(*arrays) is np else cuda


def sum_frames(frames: Array) -> FrameSums:
    """Sum over frames of (n_frames, ny, nx), mean of each frame, and largest value of each pixel."""
    return _side(frames).sum_frames(frames)


def block_levels(stack: CorrectedStack) -> npt.NDArray[np.float64]:
    """Mean, dark, variance, and variance over gain of blocks of BLOCK x BLOCK pixels, outliers clipped away.

    Returns (4, blocks_y, blocks_x); NaN where nothing is known of any pixel.
    """
    return _side(stack.total).block_levels(stack)


def deviation_histogram(stack: CorrectedStack, levels: Levels, *, stride: int) -> npt.NDArray[np.int64]:
    """Histogram of how many standard deviations pixels lie from the level around them, in every `stride`-th row.

    A count is spread evenly over the interval of which it is the middle. Returns the bins between HISTOGRAM_EDGES, and
    before and behind them what lies beyond.
    """
    return _side(stack.total).deviation_histogram(stack, levels, stride)


def deviating_pixels(
    stack: CorrectedStack, levels: Levels, *, dead: float, hot: float
) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """Pixels below or above the level around them, and the 5 x 5 pixels around them, by so many standard deviations.

    Returns (n, 2) as (y, x), sorted by row, then column, and (n,) standard deviations; NaN where the gain is not
    positive or the value no number.
    """
    return _side(stack.total).deviating_pixels(stack, levels, dead, hot)


def flashing_pixels(
    sums: FrameSums, stack: CorrectedStack, *, unit: float, is_counts: bool, brightest: float, sigma: float
) -> npt.NDArray[np.int32]:
    """Pixels whose largest value may be `sigma` standard deviations above the mean of their other frames.

    `unit` and `is_counts` are those of `Levels`, for the whole picture; the brightest frame has `brightest` times the
    usual mean. Returns (n, 2) as (y, x), sorted by row, then column; at least two frames.
    """
    return _side(stack.total).flashing_pixels(
        sums, stack, unit=unit, is_counts=is_counts, brightest=brightest, sigma=sigma
    )


def reduce(
    frames: Array,
    gain: FloatArray,
    offset: FloatArray,
    outliers: Outliers,
    *,
    factor: int,
    first_frame: int = 0,
) -> FloatArray:
    """Area-binned corrected frames: the sum of `frames * gain + offset` over factor x factor pixels.

    Parameters
    ----------
    frames : (n_frames, ny, nx) counts of any real type.
    gain, offset : (ny, nx) float32.
    outliers : pixels that good neighbours stand in for.
    factor : pixels per side; rows and columns that do not fill a block are left out.
    first_frame : which frame of the movie frames[0] is.

    Returns
    -------
    (n_frames, ny // factor, nx // factor) float32.
    """
    return _side(frames, gain).reduce(frames, gain, offset, outliers, factor, first_frame)


def correct(
    frames: Array,
    gain: FloatArray,
    offset: FloatArray,
    outliers: Outliers,
    *,
    shifts: FloatArray,
    coefficients: FloatArray,
    first_frame: int = 0,
) -> FloatArray:
    """The fused pass: gain, outliers, displacement and accumulation into running sums, tile by tile over the counts.

    sums[r, y, x] = sum over t of coefficients[t, r] * corrected_t(y - shift_y, x - shift_x), with the shift of frame t
    at (y, x): bilinear between the nodes, sub-pixel positions shared by 4 x 8 pixels, Lanczos-3 interpolation.

    A frame covers a pixel when the place from which it comes lies within the outer edges of the frame. Where some
    frames do and others do not, the mean of those that do stands for the others in every sum, which makes the
    unweighted sum the one that is normalised by the number of frames that really saw the place. Where fewer than half
    do, that mean is drawn to the mean of the tile, so that one frame is not repeated as a speckle. Where none does,
    the picture is continued by its reflection.

    Parameters
    ----------
    frames : (n_frames, ny, nx) counts of any real type.
    gain, offset : (ny, nx) float32; corrected = frame * gain + offset.
    outliers : pixels that good neighbours stand in for.
    shifts : (n_frames, nodes_y, nodes_x, 2) float32 as (y, x), pixels, at `node_positions((ny, nx))`.
    coefficients : (n_frames, n_sums) float32; a frame whose coefficients are all zero is not read and does not count.
    first_frame : which frame of the movie frames[0] is.

    Returns
    -------
    (n_sums, ny, nx) float32.
    """
    return _side(frames, gain).correct(frames, gain, offset, outliers, shifts, coefficients, first_frame)


def aligned_sum(
    values: npt.NDArray[np.complex64], ky: FloatArray, kx: FloatArray, shifts: npt.NDArray[np.float64]
) -> npt.NDArray[np.complex64]:
    """Aligned sum of each window in Fourier space: A(k) = sum over t of values_t(k) exp(-2 pi i k . shift_t).

    Parameters
    ----------
    values : (n_windows, n_frames, my, mx) complex64.
    ky, kx : (my,), (mx,) cycles per pixel.
    shifts : (n_windows, n_frames, 2) as (y, x), pixels of the grid whose transform `values` is.

    Returns
    -------
    (n_windows, my, mx) complex64.
    """
    return _side(values).aligned_sum(values, ky, kx, shifts)


def alignment_gradient(
    values: npt.NDArray[np.complex64],
    ky: FloatArray,
    kx: FloatArray,
    shifts: npt.NDArray[np.float64],
    pull: npt.NDArray[np.complex64],
) -> npt.NDArray[np.float64]:
    """Gradient with respect to every shift of 2 Re sum over k of conj(pull(k)) A(k), `pull` being held.

    Gives (n_windows, n_frames, 2).

    With pull = w A, (n_windows, my, mx), this is the gradient of sum over k of w(k) |A(k)|².
    """
    return _side(values).alignment_gradient(values, ky, kx, shifts, pull)


def add_filtered(
    total: npt.NDArray[np.complex64],
    spectrum: npt.NDArray[np.complex64],
    ky: FloatArray,
    kx: FloatArray,
    frequency: npt.NDArray[np.float64],
    radial: npt.NDArray[np.float64],
) -> None:
    """Add `spectrum` times a radial filter to `total`, in place.

    Parameters
    ----------
    total, spectrum : (my, mx) complex64.
    ky, kx : (my,), (mx,) frequency of rows and columns.
    frequency : (n,) evenly spaced from 0, same unit.
    radial : (n,) filter there; linear between, the last value beyond.
    """
    _side(total).add_filtered(total, spectrum, ky, kx, frequency, radial)


def ring_plan(index: npt.NDArray[np.int32], n_rings: int) -> Array:
    """How coefficients fall on rings, as `ring_sums` is given it; `index` (my, mx) is -1 where there is none."""
    return _side(index).ring_plan(index, n_rings)


def ring_sums(pictures: FloatArray, plan: Array, n_rings: int) -> npt.NDArray[np.float64]:
    """(n, n_rings) sums of (n, my, mx) pictures over each ring, added in an order that is always the same."""
    return _side(pictures).ring_sums(pictures, plan, n_rings)


def add_fixed_point(
    total: npt.NDArray[np.int32], stack: RelativeStack, *, unit: int, limit: int, sign: int
) -> None:
    """Add a stack sum in whole numbers of 1 / `unit` of its mean to `total`, in place, or take it off (sign -1).

    Its bad pixels are mixed with the mean of the good ones among the 5 x 5 around them. The same stack gives the same
    numbers whatever the number of threads, and on a GPU, without liberties in the arithmetic.

    Parameters
    ----------
    total : (ny, nx) int32.
    stack : the sum.
    unit, limit : whole number that the mean becomes, and the largest magnitude; below 2**23.
    """
    _side(total, stack.total).add_fixed_point(total, stack, unit=unit, limit=limit, sign=sign)


def line_means(
    total: npt.NDArray[np.int32], inverse: float, own: RelativeStack, n_segments: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """Means along segments of columns and rows, of total * inverse - 1 and of own - 1, own's bad pixels left out.

    Parameters
    ----------
    total : (ny, nx) int32.
    inverse : factor that makes its mean 1.
    own : the stack sum of the movie itself.
    n_segments : segments of a column (along y), segments of a row (along x).

    Returns
    -------
    (2, n_segments[0], nx) of columns and (2, ny, n_segments[1]) of rows, first of `total`, then of `own`; 0 where a
    segment has no good pixel.
    """
    return _side(total, own.total).line_means(total, inverse, own, n_segments)


def pixel_moments(
    total: npt.NDArray[np.int32],
    inverse: float,
    own: RelativeStack,
    lines: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    taps: FloatArray,
) -> npt.NDArray[np.float64]:
    """Sums of squares and products of what is left of `total` and `own` without lines and without what is smooth.

    Parameters
    ----------
    total, inverse, own : as for `line_means`.
    lines : rows (ny,) and columns (nx,) to take off `total`, then those of `own`.
    taps : (odd,) symmetric; what they make of the picture, along both axes, is smooth.

    Returns
    -------
    (4,): total², total * own, own², number of pixels; over some bands of large pictures, own's bad pixels left out.
    """
    return _side(total, own.total).pixel_moments(total, inverse, own, lines, taps)


def shared_pattern(
    total: npt.NDArray[np.int32],
    inverse: float,
    bad: BadPixels,
    lines: tuple[FloatArray, FloatArray],
    taps: FloatArray,
    *,
    scales: tuple[float, float, float],
) -> FloatArray:
    """Sum of the pixels, rows and columns that `pixel_moments` tells apart, each times its scale; (ny, nx).

    Parameters
    ----------
    total, inverse, taps : as for `pixel_moments`.
    bad : pixels at which the result is 0.
    lines : rows (ny,) and columns (nx,) of `total`.
    scales : of pixels, rows and columns.
    """
    return _side(total).shared_pattern(total, inverse, bad, lines, taps, scales=scales)


def block_moments(values: FloatArray, *, block: int) -> npt.NDArray[np.float64]:
    """Sums of squares of every frame of (n_frames, ny, nx), and of their sum, the mean of each block taken off.

    Returns (n_frames + 1,); blocks of block x block pixels, smaller ones at the far edges.
    """
    return _side(values).block_moments(values, block)
