"""Hits of x-rays: one pixel, in one frame, brighter than its other frames let expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array

ROUNDS = 3
"""A second hit of the same pixel hides behind the first one, which is then left out of what is expected."""
MOST_HITS = 0.125
"""Of the frames; a pixel that is brighter in more of them flickers, which is not x-rays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Sorted by row, then column, then frame."""

    yx: npt.NDArray[np.int32]
    """(n, 2)."""
    frame: npt.NDArray[np.int32]
    """(n,)."""
    excess: npt.NDArray[np.float64]
    """(n,) raw value above what is expected."""

    def taken_off(self, total: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum over frames as it would be without them."""
        if not len(self.yx):
            return total
        total = total.copy()
        y, x = self.yx.T
        excess = np.rint(self.excess) if np.issubdtype(total.dtype, np.integer) else self.excess
        np.subtract.at(total, (y, x), excess.astype(total.dtype))
        return total


def find_hits(
    frames: Array,  # (n_frames, ny, nx) raw
    sums: kernels.FrameSums,
    stack: kernels.CorrectedStack,
    levels: kernels.Levels,
    *,
    sigma: float,
) -> Hits:
    """Values at least `sigma` standard deviations above what the other frames of the pixel let expect; 0 finds none.

    The largest value of each pixel says where to look; the frames are read there only. Frames may differ in brightness.
    """
    n_frames = len(frames)
    if sigma == 0 or n_frames < 2:
        return Hits(yx=np.zeros((0, 2), np.int32), frame=np.zeros(0, np.int32), excess=np.zeros(0))
    unit = float(np.median(levels.unit))
    brightness = _brightness(sums.means) if levels.is_counts else np.ones(n_frames)
    yx = kernels.flashing_pixels(
        sums, stack, unit=unit, is_counts=levels.is_counts, brightest=float(brightness.max()), sigma=sigma
    )
    at = tuple(yx.T)
    values = frames[:, *at].T.astype(np.float64)
    hit, expected = np.zeros(values.shape, bool), np.zeros(values.shape)
    for _ in range(ROUNDS):
        counts, light = np.where(hit, 0, values), np.where(hit, 0, brightness)
        others = (part.sum(axis=1, keepdims=True) - part for part in (counts, light))
        expected = next(others) / np.maximum(next(others), 1e-9) * brightness
        if levels.is_counts:
            expected = np.maximum(expected, unit / n_frames)
            distance = _counting_sigma((values - 0.5 * levels.step) / unit, expected / unit)
        else:
            distance = (values - expected) * stack.gain[at][:, None] / np.sqrt(unit / n_frames)
        hit = distance > sigma
    hit[hit.sum(axis=1) > max(1, MOST_HITS * n_frames)] = False
    pixel, frame = np.nonzero(hit)
    return Hits(
        yx=yx[pixel].astype(np.int32),
        frame=frame.astype(np.int32),
        excess=(values - expected)[pixel, frame],
    )


def _brightness(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n_frames,) of each frame, relative to the mean of all."""
    means = np.maximum(np.nan_to_num(means), 0)
    return np.asarray(means / means.mean()) if means.any() else np.ones(len(means))


def _counting_sigma(
    electrons: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Standard deviations by which counts lie above what is expected: the root of the deviance of Poisson's numbers."""
    above = np.maximum(electrons, expected)
    return np.asarray(np.sqrt(2 * np.maximum(above * np.log(above / expected) - (above - expected), 0)))
