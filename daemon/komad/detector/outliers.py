"""Pixels that do not tell the truth: hot, dead, known defects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.detector.calibration import Calibration
from komad.model import OutlierPixels, outliers_at

SAMPLE_STRIDE = 7
SMALL_PICTURE = 2**19
"""Pixels. Of larger pictures every 7th row is enough to know the distribution."""
BAND_ROWS = 256
"""Looked at together: what is computed of them stays in the cache."""
NEGATIVE_FRACTION = 0.01
"""More negative pixels than these, and the values are no counts."""


def find_outliers(
    total: npt.NDArray[Any],  # (ny, nx) sum over frames, raw
    calibration: Calibration,
    *,
    n_frames: int,
    defects: npt.NDArray[np.bool_] | None,  # (ny, nx), oriented
    hot_sigma: float | None,
    dead_sigma: float | None,
) -> OutlierPixels:
    """Pixels of the gain-corrected, unaligned sum beyond two-sided thresholds, and known defects.

    The unaligned sum is used because outliers stay in place and add up while the specimen moves. Counts are made
    Gaussian first with Anscombe's transform 2 (x + 3/8)^(1/2), so that dead pixels are found in weak movies too;
    the centre and the width are read from median and quartiles, which outliers cannot pull. Values that are no counts,
    because a part of them is negative (signed cameras, dark subtracted), are taken as Gaussian already.

    Returns
    -------
    Pixels to replace; those whose gain is zero, negative or not a number are among them.
    """
    stride = SAMPLE_STRIDE if total.size > SMALL_PICTURE else 1
    sample = _corrected(total, calibration, n_frames, np.s_[::stride]).ravel()
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        sample = np.zeros(1, np.float32)
    are_counts = np.quantile(sample, NEGATIVE_FRACTION) >= 0
    if are_counts:
        sample = _stabilised(sample)
    low, centre, high = np.quantile(sample, [0.25, 0.5, 0.75])
    # In a nearly empty exposure both quartiles are the same count.
    sigma = max((high - low) / 1.349 or float(np.std(sample)), 1e-6)
    dead, hot = centre - (dead_sigma or 6.0) * sigma, centre + (hot_sigma or 6.0) * sigma
    if are_counts:
        # Carried back, which is cheaper than to transform every pixel; no count lies below what zero becomes.
        dead, hot = _counts(dead) if dead > _stabilised(np.zeros(1))[0] else -np.inf, _counts(hot)

    def bad_in(y0: int) -> npt.NDArray[np.intp]:
        rows = np.s_[y0 : y0 + BAND_ROWS]
        corrected = _corrected(total, calibration, n_frames, rows)
        # Written so that a value that is not a number counts as bad.
        with np.errstate(over="ignore"):
            good = (corrected < np.float32(hot)) & (corrected > np.float32(dead))
        good &= calibration.gain[rows] > 0
        if defects is not None:
            good &= ~defects[rows]
        return np.argwhere(~good) + np.array([y0, 0], np.intp)

    found = thread_pool().map(bad_in, range(0, len(total), BAND_ROWS))
    return outliers_at(np.concatenate(list(found)).astype(np.int32))


def _corrected(
    total: npt.NDArray[Any], calibration: Calibration, n_frames: int, rows: Any
) -> npt.NDArray[np.float32]:
    """Some rows of the gain-corrected sum."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large for a number is an outlier
        corrected = total[rows].astype(np.float32)
        corrected *= calibration.gain[rows]
        corrected += np.float32(n_frames) * calibration.offset[rows]
    return corrected


def _stabilised(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Anscombe's transform: counts with the variance of a Gaussian of width 1."""
    return 2 * np.sqrt(np.maximum(counts, 0) + 0.375)


def _counts(stabilised: float) -> float:
    """Counts whose Anscombe transform is `stabilised`."""
    return float((stabilised / 2) ** 2 - 0.375)
