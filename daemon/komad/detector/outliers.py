"""Pixels that do not tell the truth: hot, dead, known defects, and hits of x-rays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from komad import kernels
from komad.arrays import Array
from komad.detector.calibration import Calibration
from komad.detector.histogram import MOST_KEPT, SOFTNESS, fit_normal, kept_part, threshold_of_tail
from komad.detector.xrays import Hits, find_hits
from komad.model import ALL_FRAMES, OutlierPixels

HOT_LIMITS = (3.0, 6.0)
"""Standard deviations between which the threshold of hot pixels is looked for. The upper one holds for a picture
without them: beyond it lies one good pixel in a thousand million."""
DEAD_LIMITS = (4.0, 5.3)
"""The same for dead pixels, which are rare, and cannot be farther away than no counts at all are."""
LEAST_KEPT = 0.001
"""A smaller part is none."""
SAMPLE_STRIDE = 16
SMALL_PICTURE = 2**20
"""Pixels. Of larger pictures every 16th row is enough to know the distribution."""
LEAST_ELECTRONS = 1.0
NEGATIVE_STRIDE = 16
NEGATIVE_FRACTION = 0.01
"""More negative pixels than these, and the values are no counts."""
BEAM_QUANTILE = 0.99
BRIGHTEST = 2.0
"""No specimen focuses the beam to more than this, over the extent of a few pixels."""
LEAST_UNIT = 0.1
"""Steps of the raw values: counts scatter more than this, whatever the picture."""


def find_outliers(
    frames: Array,  # (n_frames, ny, nx) raw
    sums: kernels.FrameSums,
    calibration: Calibration,
    *,
    defects: npt.NDArray[np.bool_] | None,  # (ny, nx), oriented
    hot_sigma: float | None,
    dead_sigma: float | None,
    xray_sigma: float,
) -> OutlierPixels:
    """Pixels of the gain-corrected, unaligned sum beyond two-sided thresholds, known defects, hits in single frames.

    The unaligned sum is used because outliers stay in place and add up while the specimen moves. Every pixel is
    compared with the mean and the width around it, as numbers of electrons scatter (Poisson), so that carbon, a hole's
    edge or a weak exposure have no outliers of their own; and with its 5 x 5 neighbours, because only what is sharper
    than the detector's point spread cannot be the specimen. Thresholds and weights: `komad.detector.histogram`. Values
    that are no counts, because a part of them is negative (signed cameras), are taken as normally distributed.

    A dead pixel shows where no counts at all are too rare to be chance: from about 18 electrons per pixel in the sum,
    15 where many are dead.

    `frames` are read where hits of x-rays may be, only.
    """
    gain = calibration.gain if defects is None else np.where(defects, np.float32(0), calibration.gain)
    stack = kernels.CorrectedStack(
        total=sums.total, gain=gain, offset=calibration.offset, n_frames=len(frames)
    )
    levels = _levels(stack)
    hits = find_hits(frames, sums, stack, levels, sigma=xray_sigma)
    stack = replace(stack, total=hits.taken_off(sums.total))
    yx, deviation = kernels.deviating_pixels(
        stack,
        levels,
        dead=(dead_sigma or DEAD_LIMITS[0]) - SOFTNESS,
        hot=(hot_sigma or HOT_LIMITS[0]) - SOFTNESS,
    )
    mean, width = _centre(stack, levels)
    sigma = (deviation.astype(np.float64) - mean) / width
    n_pixels = stack.total.size
    hot = hot_sigma or threshold_of_tail(sigma[sigma > 0], n_pixels, HOT_LIMITS)
    dead = dead_sigma or threshold_of_tail(-sigma[sigma < 0], n_pixels, DEAD_LIMITS)
    keep = np.where(sigma > 0, kept_part(sigma, hot), kept_part(-sigma, dead))
    is_unknown = np.isnan(sigma)
    keep[is_unknown | (keep < LEAST_KEPT)] = 0
    bad = keep <= MOST_KEPT
    outliers = OutlierPixels(
        yx=yx[bad],
        keep=keep[bad],
        frame=np.full(np.count_nonzero(bad), ALL_FRAMES, np.int32),
        n_hot=int(np.count_nonzero(bad & (sigma > 0))),
        n_dead=int(np.count_nonzero(bad & (sigma < 0))),
        n_defects=int(np.count_nonzero(is_unknown)),
    )
    return _with_hits(outliers, hits)


def _levels(stack: kernels.CorrectedStack) -> kernels.Levels:
    """The mean and the width of the stack sum from place to place, and what kind of numbers it has."""
    mean, dark, variance, per_gain = kernels.block_levels(stack)
    step = 1.0 if np.issubdtype(stack.total.dtype, np.integer) else 0.0
    is_counts = _are_counts(stack.total)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = per_gain / (mean + dark) if is_counts else variance
    usual_mean = _median(mean)
    least = max(_median(unit), LEAST_UNIT * step, 1e-9 * abs(usual_mean), 1e-30)
    unit = scipy.ndimage.median_filter(np.where(np.isfinite(unit), unit, least), 3, mode="nearest")
    unit = np.maximum(unit, least)
    mean = np.where(np.isfinite(mean), mean, usual_mean)
    beam = float(np.quantile(mean, BEAM_QUANTILE))
    return kernels.Levels(
        mean=mean.astype(np.float32),
        unit=unit.astype(np.float32),
        is_counts=is_counts,
        step=step,
        ceiling=BRIGHTEST * beam if is_counts else np.inf,
    )


def _centre(stack: kernels.CorrectedStack, levels: kernels.Levels) -> tuple[float, float]:
    """Mean and width of the deviations of good pixels, 0 and 1 where the levels say all.

    Where most pixels have no electron at all, there is no shape that could say more.
    """
    if levels.is_counts and np.median(levels.mean) < LEAST_ELECTRONS * np.median(levels.unit):
        return 0.0, 1.0
    stride = SAMPLE_STRIDE if stack.total.size > SMALL_PICTURE else 1
    return fit_normal(kernels.deviation_histogram(stack, levels, stride=stride), kernels.HISTOGRAM_EDGES)


def _median(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _are_counts(total: npt.NDArray[Any]) -> bool:
    """Whether hardly any pixel is negative."""
    return bool(np.mean(total[::NEGATIVE_STRIDE] < 0) < NEGATIVE_FRACTION)


def _with_hits(outliers: OutlierPixels, hits: Hits) -> OutlierPixels:
    """The outliers and the hits, sorted; a pixel that is both is replaced as a whole in every frame."""
    if not len(hits.yx):
        return outliers
    row = np.int64(1) << 32
    bad, hit = (yx[:, 0] * row + yx[:, 1] for yx in (outliers.yx, hits.yx))
    single = ~np.isin(hit, bad)
    yx = np.concatenate([outliers.yx, hits.yx[single]])
    frame = np.concatenate([outliers.frame, hits.frame[single]])
    keep = np.concatenate([np.where(np.isin(bad, hit), np.float32(0), outliers.keep), np.zeros(single.sum())])
    order = np.lexsort((frame, yx[:, 1], yx[:, 0]))
    return replace(outliers, yx=yx[order], keep=keep[order].astype(np.float32), frame=frame[order])
