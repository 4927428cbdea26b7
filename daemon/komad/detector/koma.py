"""What neighbouring movies share with one movie: the knock-out moving average, McLeod et al. (2017) section 5.2."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from komad import kernels
from komad.arrays import Array, beside, namespace
from komad.detector.beam import without_beam
from komad.detector.calibration import Calibration
from komad.errors import MovieError
from komad.model import Pattern, StackSum

FloatArray = npt.NDArray[np.float32]

UNIT = 2**16
"""The mean of a stack sum in a running total."""
LIMIT = 64 * UNIT
"""Values beyond 64 times the mean are cut: the sum of 500 stacks still fits into 32 bits."""
SMOOTH_PIXELS = 9
"""Pixels along each axis over which a cubic is taken to be specimen or illumination, not detector."""
SMOOTH_LINES = 65
"""The same for rows and columns, which the length of a line tells from the specimen already."""
N_SEGMENTS = 16
"""A line's value is the median over so many pieces of it: the edge of a hole crosses a line in few of them."""
SHORTEST_SEGMENT = 16
EDGE_MISFIT = 0.5
"""Of the variance around a straight line: less on one side than on both means that there is an edge in between."""


class RunningTotal:
    """The exact sum of some movies' stack sums, each corrected, without outliers, and divided by its mean.

    In whole numbers: a total is the same to the last bit whatever was added and taken off on the way to it.
    """

    def __init__(self, shape: tuple[int, int], *, like: Array | None = None) -> None:
        """Start with nothing, on the device on which `like` is, if any."""
        self.total: npt.NDArray[np.int32] = namespace(like).zeros(shape, np.int32)
        """(ny, nx) in units of mean / UNIT."""
        self.n_stacks = 0

    def add(self, stack: StackSum, calibration: Calibration) -> None:
        """Take a movie in.

        Raises
        ------
        MovieError
            Its mean is not positive, or it has another size.
        """
        self._move(stack, calibration, 1)

    def subtract(self, stack: StackSum, calibration: Calibration) -> None:
        """Take a movie out that was taken in with the same calibration."""
        self._move(stack, calibration, -1)

    def _move(self, stack: StackSum, calibration: Calibration, sign: Literal[1, -1]) -> None:
        if stack.total.shape != self.total.shape:
            raise MovieError(
                f"a stack sum of {stack.total.shape[1]} x {stack.total.shape[0]} pixels does not fit a running total "
                f"of {self.total.shape[1]} x {self.total.shape[0]}: start another series"
            )
        relative = _relative(stack, calibration, self.total)
        kernels.add_fixed_point(self.total, relative, unit=UNIT, limit=LIMIT, sign=sign)
        self.n_stacks += sign


def measure_pattern(others: RunningTotal, own: StackSum, calibration: Calibration) -> Pattern | None:
    """The detector's pattern in a movie, as far as its neighbours have it, too.

    What neighbours share is not only the detector: the edge of a hole or the illumination may lie at the same place in
    all of them. Only what is sharp is taken, therefore: the residue of a local cubic over SMOOTH_PIXELS², and, apart
    from that, rows and columns as medians over N_SEGMENTS pieces of each, without a local cubic over SMOOTH_LINES, or
    an edge that lies along them.

    Each of the three is multiplied by the slope of the regression of the movie's own sum on that of its neighbours,
    cut to 0..1. The noise of the mean of M stacks makes the slope smaller than 1, p² / (p² + n² / M) for a pattern
    of power p² and noise n² per stack, which is the factor that leaves the least error.

    Parameters
    ----------
    others
        The neighbours, without the movie itself.
    own
        The movie's stack sum.

    Returns
    -------
    The pattern, zero at the movie's own outliers, where the running total is; None without neighbours, or without
    counts in the movie.
    """
    if others.n_stacks == 0 or own.facts.mean_e_per_px <= 0:
        return None
    relative = _relative(own, calibration, others.total)
    inverse = 1 / (others.n_stacks * UNIT)
    ny, nx = others.total.shape
    columns, rows = kernels.line_means(others.total, inverse, relative, _segments((ny, nx)))
    shared_columns, own_columns = (np.median(_sharp_lines(part, axis=1), axis=0) for part in columns)
    shared_rows, own_rows = (np.median(_sharp_lines(part, axis=0), axis=1) for part in rows)
    taps = _cubic_taps(SMOOTH_PIXELS)
    moments = kernels.pixel_moments(
        others.total, inverse, relative, (shared_rows, shared_columns, own_rows, own_columns), taps
    )
    parts = {
        "pixels": moments[:3] / max(moments[3], 1),
        "rows": _moments(shared_rows, own_rows),
        "columns": _moments(shared_columns, own_columns),
    }
    scale = {name: _slope(shared2, product) for name, (shared2, product, _) in parts.items()}
    shared2, product, own2 = sum(parts.values())
    pattern = kernels.shared_pattern(
        others.total,
        inverse,
        relative.bad,
        (shared_rows, shared_columns),
        taps,
        scales=(scale["pixels"], scale["rows"], scale["columns"]),
    )
    return Pattern(
        relative=pattern,
        n_stacks=others.n_stacks,
        spread=float(np.sqrt(sum(scale[name] ** 2 * parts[name][0] for name in parts))),
        shared_spread=float(np.sqrt(max(product, 0.0))),
        scale=scale,
        correlation=float(product / np.sqrt(shared2 * own2)) if shared2 > 0 and own2 > 0 else float("nan"),
        mean_e_per_px_frame=_mean_per_lit_frame(own),
    )


def _relative(stack: StackSum, calibration: Calibration, like: Array) -> kernels.RelativeStack:
    """The stack sum where `like` is; raw, as it was stored."""
    mean = stack.facts.mean_e_per_px
    if mean <= 0:
        raise MovieError(f"a stack sum of mean {mean:g} e/px shows no beam: leave it out of the window")
    return kernels.RelativeStack(
        total=beside(like, stack.total),
        gain=beside(like, calibration.gain),
        offset=beside(like, calibration.offset),
        scale=1 / mean,
        offset_scale=len(stack.frame_means) / mean,
        bad=kernels.bad_pixels(stack.outliers, (stack.total.shape[0], stack.total.shape[1])),
    )


def _mean_per_lit_frame(stack: StackSum) -> float:
    """Corrected counts per pixel of the frames that the beam has reached."""
    lit = ~without_beam(stack.frame_means)
    total = float(stack.frame_means.sum())
    if not lit.any() or total <= 0:
        return stack.facts.mean_e_per_px / len(stack.frame_means)
    return stack.facts.mean_e_per_px * float(stack.frame_means[lit].mean()) / total


def _segments(shape: tuple[int, int]) -> tuple[int, int]:
    """Pieces of a column and of a row."""
    along_y, along_x = (max(1, min(N_SEGMENTS, length // SHORTEST_SEGMENT)) for length in shape)
    return along_y, along_x


def _sharp_lines(means: FloatArray, axis: int) -> FloatArray:
    """Profiles across the lines, without what is smooth along `axis`, and without edges."""
    length = means.shape[axis]
    size = min(SMOOTH_LINES, length - 1 + length % 2)
    sharp = means - scipy.ndimage.convolve1d(means, _cubic_taps(size), axis=axis, mode="mirror")
    edgeless = _without_edges(np.moveaxis(means, axis, -1), np.moveaxis(sharp, axis, -1), size)
    return np.moveaxis(edgeless, -1, axis)


def _without_edges(values: FloatArray, sharp: FloatArray, size: int) -> FloatArray:
    """`sharp`, but at an edge, which a cubic rings at, no more than what the lines on both sides of it say alike.

    An edge is where a straight line fits `size` values on one side much better than as many around the place; all
    along the last axis.
    """
    if size < 5:
        return sharp
    half = size // 2
    around = np.pad(values.astype(np.float64), [(0, 0), (2 * half, 2 * half)], mode="reflect")
    at = np.arange(around.shape[-1])
    mean, of_squares, of_products = (_running_mean(each, size) for each in (around, around**2, around * at))
    spread2 = (size**2 - 1) / 12  # of the positions in a window
    slope = (of_products - mean * at[half:-half]) / spread2
    misfit = of_squares - mean**2 - slope**2 * spread2
    n = values.shape[-1]
    at_left, here, at_right = (np.s_[:, start : start + n] for start in (0, half, 2 * half))
    from_left = values - (mean + half * slope)[at_left]
    from_right = values - (mean - half * slope)[at_right]
    alike = np.where(np.abs(from_left) < np.abs(from_right), from_left, from_right)
    alike[from_left * from_right < 0] = 0
    is_edge = np.minimum(misfit[at_left], misfit[at_right]) < EDGE_MISFIT * misfit[here]
    return np.where(is_edge, alike, sharp).astype(np.float32)


def _running_mean(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Of each `size` successive values along the last axis."""
    sums = np.cumsum(np.pad(values, [(0, 0), (1, 0)]), axis=-1)
    return np.asarray((sums[:, size:] - sums[:, :-size]) / size)


def _cubic_taps(n: int) -> FloatArray:
    """(n,) weights that give the middle of the cubic fitted to n values, n odd: Savitzky and Golay (1964)."""
    if n < 5:
        return np.full(max(n, 1), 1 / max(n, 1), np.float32)
    position = np.arange(n) - n // 2
    # Symmetric: the odd powers have no say in the middle.
    return np.asarray(np.linalg.pinv(np.stack([position**0, position**2], axis=1))[0], np.float32)


def _moments(shared: FloatArray, own: FloatArray) -> npt.NDArray[np.float64]:
    """(3,): mean of shared², shared * own and own²."""
    pair = np.stack([shared, own]).astype(np.float64)
    return (pair @ pair.T / pair.shape[1])[[0, 0, 1], [0, 1, 1]]


def _slope(shared2: float, product: float) -> float:
    return float(np.clip(product / shared2, 0.0, 1.0)) if shared2 > 0 else 0.0
