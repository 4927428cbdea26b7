"""The sum of a movie's frames as the kernels of KOMA are given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.model import ALL_FRAMES, OutlierPixels

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadPixels:
    """Pixels of a stack sum that are not believed, each once, sorted by row."""

    row_start: npt.NDArray[np.int32]
    """(ny + 1,): those of row y are row_start[y] to row_start[y + 1]."""
    column: npt.NDArray[np.int32]
    """(n,) x, rising within a row."""
    keep: FloatArray
    """(n,) part of its own value that a pixel keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelativeStack:
    """A corrected stack sum in units of its mean: total * gain * scale + offset * offset_scale."""

    total: npt.NDArray[Any]
    """(ny, nx) raw: uint16, uint32 or float32."""
    gain: FloatArray
    """(ny, nx)."""
    offset: FloatArray
    """(ny, nx)."""
    scale: float
    offset_scale: float
    bad: BadPixels


def bad_pixels(outliers: OutlierPixels, shape: tuple[int, int]) -> BadPixels:
    """What outliers are in the sum over frames: a pixel hit in one frame only is not believed, either."""
    y, x = outliers.yx.T
    first = np.ones(len(outliers), bool)
    first[1:] = (np.diff(y) != 0) | (np.diff(x) != 0)
    keep = np.where(outliers.frame == ALL_FRAMES, outliers.keep, np.float32(0))
    return BadPixels(
        row_start=np.searchsorted(y[first], np.arange(shape[0] + 1)).astype(np.int32),
        column=np.ascontiguousarray(x[first]),
        keep=np.ascontiguousarray(keep[first], np.float32),
    )
