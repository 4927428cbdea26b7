"""What the kernels of both sides share: tile size, interpolation weights, what fills outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from komad.model import OutlierPixels

TILE = (32, 128)
"""(y, x) pixels between the nodes of a field; sized so that a tile of all running sums stays in the L2 cache."""
TAPS = 6
"""Lanczos-3."""
SUB_PIXEL_STEPS = 256
"""Sub-pixel positions in the weight table: at most 1/512 px away from the wanted one."""
WINDOW = 5
"""What stands in for an outlier lies within so many rows and columns around it."""
POINT_SPREAD = np.array([
    [0.007, 0.020, 0.030, 0.020, 0.007],
    [0.020, 0.084, 0.173, 0.084, 0.020],
    [0.030, 0.173, 0.000, 0.173, 0.030],
    [0.020, 0.084, 0.173, 0.084, 0.020],
    [0.007, 0.020, 0.030, 0.020, 0.007],
])  # fmt: skip
"""What the neighbours of a single outlier say of it: McLeod et al. (2017) table 1, of a K2; normalised when used."""
SCATTER_DISTANCE = 12.0
"""Farther than this from any good pixel, neighbours come from an area as wide as the distance."""

OutlierFill = Literal["mean", "draw"]


def node_positions(shape: tuple[int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows (nodes_y,) and columns (nodes_x,) of the pixels at which `correct` is given the field.

    The first pixel of every tile, and the last pixel of the frame.
    """
    y, x = (np.minimum(np.arange(0, n + tile, tile), n - 1) for n, tile in zip(shape, TILE, strict=True))
    return y, x


def lanczos_weights() -> npt.NDArray[np.float32]:
    """(SUB_PIXEL_STEPS + 1, TAPS): weights for a sample at fraction i / SUB_PIXEL_STEPS, each row sums to 1."""
    fraction = np.arange(SUB_PIXEL_STEPS + 1)[:, None] / SUB_PIXEL_STEPS
    distance = fraction - np.arange(-2, 4)[None, :]
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class FrameSums(NamedTuple):
    """What one pass over a movie tells of every pixel and every frame."""

    total: npt.NDArray[Any]
    """(ny, nx) uint32 or int32 for integers, float64 for floating-point frames."""
    means: npt.NDArray[np.float64]
    """(n_frames,)."""
    largest: npt.NDArray[Any]
    """(ny, nx) largest value of each pixel, in the type of the frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outliers:
    """Pixels to replace, sorted by row, and the window of good pixels that stands in for each.

    Outlier k becomes keep[k] * own value + (1 - keep[k]) * sum of weight[k] * window; where `draw`, the sum is one
    pixel of the window instead whose weight is not zero, another one in each frame. Where `keep` is 0 the own value,
    which may be no number, does not count, nor does a pixel whose weight is 0.
    """

    row_start: npt.NDArray[np.int32]
    """(ny + 1,): outliers of row y are row_start[y] to row_start[y + 1]."""
    column: npt.NDArray[np.int32]
    """(n,) x of each outlier, rising within a row."""
    frame: npt.NDArray[np.int32]
    """(n,) the frame in which it is replaced, counted from the movie's first; ALL_FRAMES where in each."""
    keep: npt.NDArray[np.float32]
    """(n,) 1 where no pixel of the picture is good."""
    corner: npt.NDArray[np.int32]
    """(n, 2) as (y, x): the first pixel of the window, which lies within the frame."""
    weight: npt.NDArray[np.float32]
    """(n, WINDOW, WINDOW); sum 1, or where `draw` 1 for every good pixel; 0 where no pixel of the picture is good."""
    draw: bool


def plan_outliers(outliers: OutlierPixels, shape: tuple[int, int], fill: OutlierFill = "mean") -> Outliers:
    """Sort outliers by row and find what stands in for each, in frames of at least WINDOW x WINDOW pixels.

    mean
        A single outlier is what the 5 x 5 pixels around say through the detector's point spread; one with others among
        these, the plain mean of the good ones. McLeod et al. (2017) section 4, step 5.
    draw
        One of the good pixels among the 5 x 5, another one in each frame: the noise stays what it is.

    Where none of these is good, both take those around the nearest one. Deep inside a large cluster they are scattered
    around that one: its own neighbours would stand in for a whole row, a streak that alignment takes for a picture.
    """
    y, x = outliers.yx.T
    bad = np.zeros(shape, bool)
    bad[y, x] = True
    corner, weight = _good_around(bad, y, x)
    if fill == "mean":
        single = np.flatnonzero(weight.sum(axis=(1, 2)) == _around(corner, y, x, _PLAIN).sum(axis=(1, 2)) - 1)
        weight[single] = _around(corner[single], y[single], x[single], POINT_SPREAD)
    inner = np.flatnonzero(~weight.any(axis=(1, 2)))
    if len(inner) and not bad.all():
        corner[inner], weight[inner] = _good_around(bad, *_nearest_good(bad, y[inner], x[inner]))
    total = weight.sum(axis=(1, 2))
    if fill == "mean":
        weight /= np.where(total > 0, total, 1)[:, None, None]
    return Outliers(
        row_start=np.searchsorted(y, np.arange(shape[0] + 1)).astype(np.int32),
        column=np.ascontiguousarray(x, np.int32),
        frame=np.ascontiguousarray(outliers.frame, np.int32),
        keep=np.where(total > 0, outliers.keep, np.float32(1)),
        corner=corner,
        weight=weight,
        draw=fill == "draw",
    )


_PLAIN = np.ones((WINDOW, WINDOW))


def _good_around(
    bad: npt.NDArray[np.bool_], y: npt.NDArray[np.int32], x: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(n, 2) corners of windows within the picture, and (n, WINDOW, WINDOW) 1 where a pixel near (y, x) is good."""
    centre = np.stack([y, x], axis=1)
    corner = np.clip(centre - WINDOW // 2, 0, np.array(bad.shape) - WINDOW).astype(np.int32)
    good = _around(corner, y, x, _PLAIN)
    for i in range(WINDOW):
        for j in range(WINDOW):
            good[:, i, j] *= ~bad[corner[:, 0] + i, corner[:, 1] + j]
    return corner, good


def _around(
    corner: npt.NDArray[np.int32],
    y: npt.NDArray[np.int32],
    x: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float64],  # (WINDOW, WINDOW), of the pixels around (y, x)
) -> npt.NDArray[np.float32]:
    """(n, WINDOW, WINDOW): weights moved to where windows begin, which at the edges is not two pixels before (y, x)."""
    table = np.pad(weight, WINDOW // 2).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(table, (WINDOW, WINDOW))
    return np.asarray(windows[corner[:, 0] - y + WINDOW - 1, corner[:, 1] - x + WINDOW - 1])


def _nearest_good(
    bad: npt.NDArray[np.bool_], y: npt.NDArray[np.int32], x: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Y and x of the good pixels nearest to those given; scattered for those that are far away."""
    nearest = scipy.ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    near = nearest[:, y, x]
    distance = np.hypot(near[0] - y, near[1] - x)
    reach = np.where(distance > SCATTER_DISTANCE, distance, 0)
    around = near + np.random.default_rng(0).uniform(-1, 1, near.shape) * reach
    around = np.clip(np.rint(around), 0, np.array(bad.shape)[:, None] - 1).astype(np.intp)
    # That may be inside the cluster again.
    scattered = nearest[:, around[0], around[1]].astype(np.int32)
    return scattered[0], scattered[1]
