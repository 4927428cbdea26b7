"""Pixels that do not tell the truth: hot, dead, known defects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.detector.calibration import Calibration

SAMPLE_STRIDE = 7
"""Every 7th pixel is enough to know the distribution, and does not fall in step with rows of any camera."""


def find_outliers(
    total: npt.NDArray[Any],  # (ny, nx) sum over frames, raw
    calibration: Calibration,
    *,
    n_frames: int,
    defects: npt.NDArray[np.bool_] | None,  # (ny, nx), oriented
    hot_sigma: float,
    dead_sigma: float,
) -> npt.NDArray[np.int32]:
    """Pixels of the gain-corrected, unaligned sum beyond two-sided thresholds, and known defects.

    The unaligned sum is used because outliers stay in place and add up while the specimen moves. Counts are made
    Gaussian first with Anscombe's transform 2 (x + 3/8)^(1/2), so that dead pixels are found in weak movies too;
    the centre and the width are read from median and quartiles, which outliers cannot pull.

    Returns
    -------
    (n, 2) int32 as (y, x), sorted by row. Pixels whose gain is zero, negative or not a number are outliers.
    """
    corrected = total.astype(np.float32)
    corrected *= calibration.gain
    corrected += np.float32(n_frames) * calibration.offset
    sample = _stabilised(corrected.ravel()[::SAMPLE_STRIDE])
    sample = sample[np.isfinite(sample)]
    low, centre, high = np.quantile(sample, [0.25, 0.5, 0.75]) if len(sample) else (0, 0, 0)
    sigma = max((high - low) / 1.349, 1e-6)
    # The thresholds are carried back, which is cheaper than to transform every pixel. Written so that a value that
    # is not a number counts as bad.
    good = corrected < _counts(centre + hot_sigma * sigma)
    if centre - dead_sigma * sigma > _stabilised(np.zeros(1))[0]:
        good &= corrected > _counts(centre - dead_sigma * sigma)
    good &= calibration.gain > 0
    if defects is not None:
        good &= ~defects
    return np.argwhere(~good).astype(np.int32)


def _stabilised(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Anscombe's transform: counts with the variance of a Gaussian of width 1."""
    return 2 * np.sqrt(np.maximum(counts, 0) + 0.375)


def _counts(stabilised: float) -> np.float32:
    """Counts whose Anscombe transform is `stabilised`."""
    return np.float32((stabilised / 2) ** 2 - 0.375)
