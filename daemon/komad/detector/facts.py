"""What a stack sum is like: whether it shows the detector, or too much of the specimen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.detector.calibration import Calibration
from komad.model import OutlierPixels, StackFacts

BLOCK = 32
"""Pixels per side of a block whose mean counts as a piece of the specimen, not of the detector."""


def stack_facts(
    total: npt.NDArray[Any],  # (ny, nx) sum of the raw frames
    calibration: Calibration,
    outliers: OutlierPixels,
    *,
    n_frames: int,
) -> StackFacts:
    """Mean, contrast and illumination of the corrected sum, from means of blocks without outliers."""
    ny, nx = total.shape
    block = max(1, min(BLOCK, ny, nx))
    my, mx = ny // block, nx // block
    means = np.empty((my, mx))
    good = np.ones(total.shape, bool)
    good[tuple(outliers.throughout_yx.T)] = False
    for row in range(my):
        rows = np.s_[row * block : (row + 1) * block, : mx * block]
        corrected = total[rows] * calibration.gain[rows] + n_frames * calibration.offset[rows]
        corrected = np.where(good[rows], corrected, 0.0).reshape(block, mx, block)
        count = good[rows].reshape(block, mx, block).sum(axis=(0, 2))
        means[row] = corrected.sum(axis=(0, 2)) / np.maximum(count, 1)
    mean = float(means.mean())
    if mean <= 0:
        return StackFacts(
            mean_e_per_px=mean, contrast=0.0, gradient=0.0, outlier_fraction=1 - float(good.mean())
        )
    slope, rest = _without_slope(means / mean)
    deviation = float(np.median(np.abs(rest - np.median(rest)))) / 0.6745
    return StackFacts(
        mean_e_per_px=mean,
        contrast=deviation,
        gradient=slope,
        outlier_fraction=1 - float(good.mean()),
    )


def _without_slope(means: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Largest difference of a fitted plane from edge to edge, and what it leaves."""
    y, x = (np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in means.shape)
    plane = np.stack([np.ones(means.shape), *np.meshgrid(y, x, indexing="ij")], axis=-1).reshape(-1, 3)
    fit = np.linalg.lstsq(plane, means.ravel(), rcond=None)[0]
    return float(np.hypot(fit[1], fit[2])), means - (plane @ fit).reshape(means.shape)
