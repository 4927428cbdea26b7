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
N_DONORS = 8
"""Good neighbours of which one gives its value to an outlier, another one in each frame."""
SEARCH_RADIUS = 3
"""Donors are looked for within this many pixels; inside large clusters, of the nearest good pixel."""
SCATTER_DISTANCE = 12.0
"""Farther than this from any good pixel, donors come from an area as wide as the distance."""
REACH = 2
"""A mean is over 5 x 5 pixels; an outlier with another one among them belongs to a cluster."""
POINT_SPREAD = np.array([
    [0.007, 0.020, 0.030, 0.020, 0.007],
    [0.020, 0.084, 0.173, 0.084, 0.020],
    [0.030, 0.173, 0.000, 0.173, 0.030],
    [0.020, 0.084, 0.173, 0.084, 0.020],
    [0.007, 0.020, 0.030, 0.020, 0.007],
])  # fmt: skip
"""What the neighbours of a single outlier say of it: McLeod et al. (2017) table 1, of a K2; normalised when used."""

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
    """Pixels to replace, sorted by row, and the good neighbours of each.

    Outlier k becomes keep[k] * own value + sum of weight[j] * value of neighbour[j], j from start[k] to start[k + 1];
    where `draw`, of one of these j instead, another one in each frame. Where `keep` is 0, the own value, which may be
    no number, is not read.
    """

    row_start: npt.NDArray[np.int32]
    """(ny + 1,): outliers of row y are row_start[y] to row_start[y + 1]."""
    column: npt.NDArray[np.int32]
    """(n,) x of each outlier, rising within a row."""
    frame: npt.NDArray[np.int32]
    """(n,) the frame in which it is replaced, counted from the movie's first; ALL_FRAMES where in each."""
    keep: npt.NDArray[np.float32]
    """(n,)."""
    start: npt.NDArray[np.int32]
    """(n + 1,); no outlier is without a neighbour."""
    neighbour: npt.NDArray[np.int32]
    """(n_neighbours,) flat index y * nx + x."""
    weight: npt.NDArray[np.float32]
    """(n_neighbours,)."""
    draw: bool


def plan_outliers(outliers: OutlierPixels, shape: tuple[int, int], fill: OutlierFill = "mean") -> Outliers:
    """Sort outliers by row and find what stands in for each.

    mean
        A single outlier is what the 5 x 5 pixels around say through the detector's point spread; one of a cluster, the
        plain mean of the good pixels among them. McLeod et al. (2017) section 4, step 5.
    draw
        One of the nearest good pixels within SEARCH_RADIUS, another one in each frame: the noise stays what it is.

    Where no good pixel is near, both take those around the nearest one. Deep inside a large cluster they are scattered
    around that one: its own neighbours would be donors to a whole row, a streak that alignment takes for a picture.
    A picture with no good pixel keeps its own values.
    """
    ny, nx = shape
    y, x = outliers.yx.T
    bad = np.zeros(shape, bool)
    bad[y, x] = True
    radius, most = (REACH, POINT_SPREAD.size - 1) if fill == "mean" else (SEARCH_RADIUS, N_DONORS)
    near = _nearest_good(bad, y, x, radius, most)
    weight = np.ones(near.shape, np.float32)
    if fill == "mean":
        single = np.flatnonzero((near >= 0).sum(axis=1) == _n_around(y, x, shape))
        around = near[single]
        dy, dx = np.where(around >= 0, np.divmod(around, nx) - np.stack([y, x])[:, single, None], 0)
        weight[single] = POINT_SPREAD[dy + REACH, dx + REACH]
    inner = np.flatnonzero(near[:, 0] < 0)
    near[inner, :N_DONORS] = _donors_from_outside(bad, y[inner], x[inner])
    found = near >= 0
    weight[~found] = 0
    if fill == "mean":
        weight /= weight.sum(axis=1, keepdims=True)
    weight *= (1 - outliers.keep)[:, None]
    return Outliers(
        row_start=np.searchsorted(y, np.arange(ny + 1)).astype(np.int32),
        column=np.ascontiguousarray(x, np.int32),
        frame=np.ascontiguousarray(outliers.frame, np.int32),
        keep=np.ascontiguousarray(outliers.keep, np.float32),
        start=np.concatenate([[0], np.cumsum(found.sum(axis=1))]).astype(np.int32),
        neighbour=near[found],
        weight=weight[found],
        draw=fill == "draw",
    )


def _n_around(
    y: npt.NDArray[np.int32], x: npt.NDArray[np.int32], shape: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """(n,) number of pixels of the picture among the 5 x 5 around each, itself left out."""
    height, width = (
        np.minimum(at + REACH, length - 1) - np.maximum(at - REACH, 0) + 1
        for at, length in zip((y, x), shape, strict=True)
    )
    return np.asarray(height * width - 1)


def _donors_from_outside(
    bad: npt.NDArray[np.bool_], y: npt.NDArray[np.int32], x: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """(n, N_DONORS) flat indices of good pixels for those that have none near; -1 where there are no more.

    The pixel itself where no pixel of the picture is good.
    """
    if not len(y) or bad.all():
        donors = np.full((len(y), N_DONORS), -1, np.int32)
        donors[:, 0] = y * bad.shape[1] + x
        return donors
    near_y, near_x = scipy.ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    distance = np.hypot(near_y[y, x] - y, near_x[y, x] - x)
    reach = np.where(distance > SCATTER_DISTANCE, distance, 0)
    offset = np.random.default_rng(0).uniform(-1, 1, (2, len(y))) * reach
    around = tuple(
        np.clip(np.rint(near[y, x] + part), 0, length - 1).astype(np.intp)
        for near, part, length in zip((near_y, near_x), offset, bad.shape, strict=True)
    )
    return _nearest_good(bad, near_y[around], near_x[around], SEARCH_RADIUS, N_DONORS)


def _nearest_good(
    bad: npt.NDArray[np.bool_], y: npt.NDArray[np.int32], x: npt.NDArray[np.int32], radius: int, most: int
) -> npt.NDArray[np.int32]:
    """(n, most) flat indices of the nearest good pixels within `radius` along y and x, -1 where there are no more."""
    ny, nx = bad.shape
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    offsets = offsets[:, np.argsort(np.square(offsets).sum(axis=0), kind="stable")]
    found = np.full((len(y), most), -1, np.int32)
    count = np.zeros(len(y), np.intp)
    for dy, dx in offsets.T:
        yy, xx = y + dy, x + dx
        inside = (yy >= 0) & (yy < ny) & (xx >= 0) & (xx < nx) & (count < most)
        good = inside.copy()
        good[inside] = ~bad[yy[inside], xx[inside]]
        found[good, count[good]] = yy[good] * nx + xx[good]
        count += good
    return found
