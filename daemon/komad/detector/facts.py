"""What a stack sum is like: whether it shows the detector, or too much of the specimen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.detector.calibration import Calibration
from komad.model import OutlierPixels, StackFacts

BLOCK = 32
"""Pixels per side of a block whose mean counts as a piece of the specimen, not of the detector."""
TAILS = (0.05, 0.95)
"""Quantiles between which the spread of the blocks is read: carbon in a corner shows, a few blocks do not."""
TAILS_OF_GAUSSIAN = 3.29
"""Standard deviations between these quantiles."""


def stack_facts(
    total: npt.NDArray[Any],  # (ny, nx) sum of the raw frames
    calibration: Calibration,
    outliers: OutlierPixels,
    *,
    n_frames: int,
) -> StackFacts:
    """Mean, contrast and illumination of the corrected sum, from means of blocks without outliers."""
    ny, nx = total.shape
    good = np.ones(total.shape, bool)
    good[tuple(outliers.throughout_yx.T)] = False
    outlier_fraction = 1 - float(np.count_nonzero(good)) / good.size
    block = max(1, min(BLOCK, ny, nx))
    my, mx = ny // block, nx // block

    def means_of(row: int) -> npt.NDArray[np.float64]:
        rows = np.s_[row * block : (row + 1) * block, : mx * block]
        corrected = np.float32(n_frames) * calibration.offset[rows]
        corrected += total[rows] * calibration.gain[rows]
        corrected[~good[rows]] = 0
        sums = corrected.sum(axis=0, dtype=np.float64).reshape(mx, block).sum(axis=1)
        count = np.count_nonzero(good[rows], axis=0).reshape(mx, block).sum(axis=1)
        return np.where(count > 0, sums / np.maximum(count, 1), np.nan)

    means = np.array(list(thread_pool().map(means_of, range(my))))
    known = means[np.isfinite(means)]
    mean = float(known.mean()) if len(known) else 0.0
    if mean <= 0:
        return StackFacts(mean_e_per_px=mean, contrast=0.0, gradient=0.0, outlier_fraction=outlier_fraction)
    gradient, rest = _without_slope(np.where(np.isfinite(means), means / mean, 1.0))
    low, high = np.quantile(rest, TAILS)
    return StackFacts(
        mean_e_per_px=mean,
        contrast=float(high - low) / TAILS_OF_GAUSSIAN,
        gradient=gradient,
        outlier_fraction=outlier_fraction,
    )


def _without_slope(means: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Largest difference of a fitted plane from edge to edge, and what it leaves."""
    y, x = (np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in means.shape)
    plane = np.stack([np.ones(means.shape), *np.meshgrid(y, x, indexing="ij")], axis=-1).reshape(-1, 3)
    fit = np.linalg.lstsq(plane, means.ravel(), rcond=None)[0]
    return float(np.hypot(fit[1], fit[2])), means - (plane @ fit).reshape(means.shape)
