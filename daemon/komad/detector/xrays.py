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
    n_frames, ny, nx = frames.shape
    if sigma == 0 or n_frames < 2:
        return Hits(yx=np.zeros((0, 2), np.int32), frame=np.zeros(0, np.int32), excess=np.zeros(0))
    unit = float(np.median(levels.unit))
    brightness = _brightness(sums.means) if levels.is_counts else np.ones(n_frames)
    yx = kernels.flashing_pixels(
        sums, stack, unit=unit, is_counts=levels.is_counts, brightest=float(brightness.max()), sigma=sigma
    )
    at = tuple(yx.T)
    gain = stack.gain[at][:, None].astype(np.float64)
    values = frames[:, *at].T * gain + stack.offset[at][:, None]
    electron, width = unit * gain, np.sqrt(unit / n_frames)
    hit, expected = np.zeros(values.shape, bool), np.zeros(values.shape)
    for _ in range(ROUNDS):
        light = np.sum(np.where(hit, 0, brightness), axis=1, keepdims=True)
        expected = (
            np.sum(np.where(hit, 0, values), axis=1, keepdims=True) / np.maximum(light, 1e-9) * brightness
        )
        if levels.is_counts:
            expected = np.maximum(expected, electron / n_frames)
            distance = _counting_sigma(values - 0.5 * levels.step * gain, expected, electron)
        else:
            distance = (values - expected) / width
        hit = distance > sigma
    hit[hit.sum(axis=1) > max(1, MOST_HITS * n_frames)] = False
    pixel, frame = np.nonzero(hit)
    return Hits(
        yx=yx[pixel].astype(np.int32),
        frame=frame.astype(np.int32),
        excess=((values - expected) / gain)[pixel, frame],
    )


def _brightness(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n_frames,) of each frame, relative to the mean of all."""
    means = np.maximum(np.nan_to_num(means), 0)
    return np.asarray(means / means.mean()) if means.any() else np.ones(len(means))


def _counting_sigma(
    values: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], electron: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Standard deviations by which counts lie above what is expected: the signed root of the Poisson deviance."""
    above = np.maximum(values, expected)
    deviance = above * np.log(above / expected) - (above - expected)
    return np.asarray(np.sqrt(np.maximum(2 * deviance / electron, 0)))
