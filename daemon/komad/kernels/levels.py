"""What is usual around each pixel of a stack sum, as the search for outliers is given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

BLOCK = 16
"""Pixels per side of a block that has one mean and one width; between their centres both are bilinear."""
HISTOGRAM_EDGES = np.linspace(-8, 8, 257)
"""Standard deviations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectedStack:
    """total * gain + n_frames * offset; what it is not known of has no positive gain."""

    total: npt.NDArray[Any]
    """(ny, nx) raw."""
    gain: FloatArray
    """(ny, nx)."""
    offset: FloatArray
    """(ny, nx) of one frame."""
    n_frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Mean and width of the corrected stack sum, block by block, outliers left out."""

    mean: FloatArray
    """(blocks_y, blocks_x)."""
    unit: FloatArray
    """(blocks_y, blocks_x). Where `is_counts`, what an electron counts where the gain is 1, which is variance over mean
    with the dark in both; else the variance."""
    is_counts: bool
    """Whether values scatter as numbers of electrons do; if not, as a normal distribution."""
    step: float
    """Distance of neighbouring raw values: 1 for integers; 0 where they are continuous."""
    ceiling: float
    """No specimen is as bright as this: not even where many pixels are, it is expected of one."""
