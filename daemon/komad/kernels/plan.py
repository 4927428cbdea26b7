"""What the kernels of both sides are given besides pixels: tile size, interpolation weights, outlier donors."""

from __future__ import annotations

from dataclasses import dataclass

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
"""Good neighbours remembered per outlier; which one gives its value changes from frame to frame."""
SEARCH_RADIUS = 3
"""Donors are looked for within this many pixels; inside large clusters, of the nearest good pixel."""
SCATTER_DISTANCE = 12.0
"""Farther than this from any good pixel, donors come from an area as wide as the distance."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Outliers:
    """Pixels to replace, sorted by row, and good neighbours for each."""

    row_start: npt.NDArray[np.int32]
    """(ny + 1,): outliers of row y are row_start[y] to row_start[y + 1]."""
    column: npt.NDArray[np.int32]
    """(n,) x of each outlier, rising within a row."""
    donors: npt.NDArray[np.int32]
    """(n, N_DONORS) flat index y * nx + x of good pixels near it."""


def plan_outliers(
    outliers: OutlierPixels,
    shape: tuple[int, int],
) -> Outliers:
    """Sort outliers by row and find good pixels around each.

    The nearest good pixels within SEARCH_RADIUS are taken; where a cluster leaves none, those around the good pixel
    nearest to it. Deep inside a large cluster they are scattered around that one: its own neighbours would be donors to
    a whole row, a streak that alignment takes for a picture. Values are drawn from them instead of averaged, because a
    constant or a mean would leave a static, too smooth spot that alignment and denoising can see.
    """
    ny, nx = shape
    y, x = outliers.yx.T
    bad = np.zeros(shape, bool)
    bad[y, x] = True
    donors = _nearest_good(bad, y, x, SEARCH_RADIUS)
    inner = np.flatnonzero(donors[:, 0] < 0)
    if len(inner) and not bad.all():
        near_y, near_x = scipy.ndimage.distance_transform_edt(
            bad, return_distances=False, return_indices=True
        )
        at = y[inner], x[inner]
        distance = np.hypot(near_y[at] - y[inner], near_x[at] - x[inner])
        reach = np.where(distance > SCATTER_DISTANCE, distance, 0)
        offset = np.random.default_rng(0).uniform(-1, 1, (2, len(inner))) * reach
        around = tuple(
            np.clip(np.rint(near[at] + part), 0, length - 1).astype(np.intp)
            for near, part, length in zip((near_y, near_x), offset, shape, strict=True)
        )
        donors[inner] = _nearest_good(bad, near_y[around], near_x[around], SEARCH_RADIUS)
    # A pixel with fewer neighbours than N_DONORS repeats them; a picture with no good pixel keeps its own values.
    own = y.astype(np.int32) * nx + x
    first = np.where(donors[:, 0] < 0, own, donors[:, 0])
    n_found = np.maximum((donors >= 0).sum(axis=1), 1)
    repeat = np.take_along_axis(donors, np.arange(N_DONORS)[None, :] % n_found[:, None], axis=1)
    donors = np.where(repeat < 0, first[:, None], repeat).astype(np.int32)
    row_start = np.searchsorted(y, np.arange(ny + 1)).astype(np.int32)
    return Outliers(row_start=row_start, column=np.ascontiguousarray(x), donors=np.ascontiguousarray(donors))


def _nearest_good(
    bad: npt.NDArray[np.bool_], y: npt.NDArray[np.int32], x: npt.NDArray[np.int32], radius: int
) -> npt.NDArray[np.int32]:
    """(n, N_DONORS) flat indices of the nearest good pixels within `radius`, -1 where there are no more."""
    ny, nx = bad.shape
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    offsets = offsets[:, np.argsort(np.square(offsets).sum(axis=0), kind="stable")]
    found = np.full((len(y), N_DONORS), -1, np.int32)
    count = np.zeros(len(y), np.intp)
    for dy, dx in offsets.T:
        yy, xx = y + dy, x + dx
        inside = (yy >= 0) & (yy < ny) & (xx >= 0) & (xx < nx) & (count < N_DONORS)
        good = inside.copy()
        good[inside] = ~bad[yy[inside], xx[inside]]
        found[good, count[good]] = yy[good] * nx + xx[good]
        count += good
    return found
