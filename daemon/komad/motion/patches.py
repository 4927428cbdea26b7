"""Where and when local motion is looked at: overlapping patches of the field, groups of frames in exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.motion.spectra import Window
from komad.optics.frequency import fast_even_length_below

FloatArray = npt.NDArray[np.float64]

PATCH_ANGSTROM = 340.0
LARGEST_PATCH = 0.3
"""Of the shorter side of the field."""
SMALLEST_PATCH_PX = 32
"""Small pixels: patches with less say too little."""
SHORTEST_TAPER = 0.1
"""Of a patch, where patches do not overlap."""
MIN_KNOTS = 4
"""Groups of frames: either half of them must still make a path that can be held against the other."""
GROUP_DOSE = 1.0
GROUP_GROWTH = 0.1
"""A group of frames spans GROUP_DOSE e/Å² at the start, and this much more per e/Å² as motion slows down."""
MAX_GROUPS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where the patches lie; small pixels."""

    windows: tuple[Window, ...]
    centres: FloatArray
    """(n_patches, 2) as (y, x), index of the middle."""
    taper: npt.NDArray[np.float32]
    share: float
    """Independent coefficients per coefficient: windows overlap, and their tapers too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """Where and when local motion is looked at."""

    layout: Layout
    groups: list[npt.NDArray[np.intp]]
    knots: FloatArray
    """(n_groups,) moment of each group."""


def lay_patches(
    shape: tuple[int, int], *, small_pixel: float, n_patches: tuple[int, int] | None, overlap: float
) -> Layout | None:
    """Even rows and columns of patches over the field; None where it is too small for more than one.

    Parameters
    ----------
    shape : (y, x) of the small frames.
    small_pixel : Å.
    n_patches : along (x, y); by their physical size when None.
    overlap : part of a patch that it shares with the next one.
    """
    sides = [min(PATCH_ANGSTROM / small_pixel, LARGEST_PATCH * min(shape))] * 2
    if n_patches is not None:
        sides = [n / (k * (1 - overlap) + overlap) for n, k in zip(shape, n_patches[::-1], strict=True)]
    ly, lx = (fast_even_length_below(int(side)) for side in sides)
    if min(ly, lx) < SMALLEST_PATCH_PX:
        return None
    counts = [_count(n, side, overlap) for n, side in zip(shape, (ly, lx), strict=True)]
    if n_patches is not None:
        counts = list(n_patches[::-1])
    starts = [
        np.round(np.linspace(0, n - side, count)).astype(np.intp)
        for n, side, count in zip(shape, (ly, lx), counts, strict=True)
    ]
    if len(starts[0]) * len(starts[1]) < 2:
        return None
    windows = tuple((slice(y, y + ly), slice(x, x + lx)) for y in starts[0] for x in starts[1])
    centres = np.array([(y.start + (ly - 1) / 2, x.start + (lx - 1) / 2) for y, x in windows])
    tapers = _taper(ly, overlap), _taper(lx, overlap)
    return Layout(
        windows=windows,
        centres=centres,
        taper=(tapers[0][:, None] * tapers[1][None, :]).astype(np.float32),
        share=float(np.prod([_share(*axis) for axis in zip(shape, tapers, starts, strict=True)])),
    )


def _share(length: int, taper: FloatArray, starts: npt.NDArray[np.intp]) -> float:
    """Along one axis.

    A shift's information is the integral of W = sum of the windows' squares, the variance of its gradient that of W²:
    their ratio says how often each pixel is counted.
    """
    energy, cover = np.square(taper), np.zeros(length)
    for start in starts:
        cover[start : start + len(taper)] += energy / energy.mean()
    return float(cover.sum() / np.square(cover).sum())


def _count(length: int, side: int, overlap: float) -> int:
    return int(np.ceil((length - side) / (side * (1 - overlap)))) + 1 if length > side else 1


def _taper(length: int, overlap: float) -> FloatArray:
    """(length,) rising as a sine over what neighbours share: the squares of windows that overlap add up to one."""
    distance = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    ramp = max(overlap, SHORTEST_TAPER) * length
    return np.asarray(np.sin(np.pi / 2 * np.minimum(distance / ramp, 1.0)))


def group_frames(moments: FloatArray, per_group: int) -> list[npt.NDArray[np.intp]]:
    """Indices of the frames in each group: `per_group` of them, or as the exposure allows when that is 0."""
    n = len(moments)
    if per_group:
        return np.array_split(np.arange(n), max(1, round(n / per_group)))
    if n == 1:
        return [np.arange(1)]
    gaps = np.diff(moments)
    width = np.append(gaps, gaps[-1])
    seen = np.cumsum(width)
    base = max(GROUP_DOSE, np.log1p(GROUP_GROWTH * seen[-1]) / GROUP_GROWTH / MAX_GROUPS)
    groups: list[npt.NDArray[np.intp]] = []
    first, filled = 0, 0.0
    for t in range(n):
        filled += width[t]
        if filled >= base + GROUP_GROWTH * base * seen[t] - 1e-9 or t == n - 1:
            groups.append(np.arange(first, t + 1))
            first, filled = t + 1, 0.0
    return groups
