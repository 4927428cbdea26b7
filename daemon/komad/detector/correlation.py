"""Correlated noise: the Pearson correlation between the frames of a movie that nothing has aligned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, beside
from komad.detector.calibration import Calibration
from komad.kernels.plan import OutlierFill
from komad.model import OutlierPixels, outliers_at

BLOCK = 32
"""Pixels per side."""
PATCH = (128, 512)
"""Pixels (y, x) that are looked at together."""
SAMPLED_PATCHES = 8
"""Of a larger field, so many, evenly spread: half a million pixels."""


def frame_correlations(
    frames: Array,  # (n_frames, ny, nx) raw
    calibration: Calibration,
    outliers: OutlierPixels,
    koma: Calibration | None,
    *,
    fill: OutlierFill,
) -> tuple[float, float, float]:
    """Mean of McLeod et al. (2017) eq. 7 over all pairs of frames: after the gain alone, after outliers, after KOMA.

    With S the sum over frames, the mean over all pairs is (Var(S) - sum of Var_t) / ((sum of sd_t)² - sum of Var_t),
    in which pairs count by their spreads: exact where these are equal, and frames without beam have no say. Noise that
    differs from frame to frame gives 0, with a standard error of (2 / (pixels frames (frames - 1)))^(1/2); a fixed
    pattern of relative spread p at m counts per pixel and frame gives p² m / (1 + p² m).

    Means are taken off in blocks of 32 x 32 pixels, not over the whole frame: illumination and what is larger of the
    specimen has no part in it. What is smaller has, as far as the specimen stays where it is.

    Parameters
    ----------
    frames, calibration, outliers
        The movie; the gain alone leaves outliers as they are.
    koma
        The calibration with the pattern; None when it is not taken off, which leaves the third figure as the second.
    fill
        What stands in for an outlier.

    Returns
    -------
    NaN for a single frame, where nothing varies, or where a value is no number.
    """
    nothing = float("nan")
    if len(frames) < 2:
        return nothing, nothing, nothing
    corners = [
        (y, x) for y in range(0, frames.shape[1], PATCH[0]) for x in range(0, frames.shape[2], PATCH[1])
    ]
    if len(corners) > SAMPLED_PATCHES:
        spread = np.linspace(0, len(corners) - 1, SAMPLED_PATCHES).round().astype(int)
        corners = [corners[i] for i in spread]
    raw, filled, without_pattern = np.sum(
        [_moments(frames, corner, calibration, outliers, koma, fill) for corner in corners], axis=0
    )
    before, after = _mean_correlation(raw), _mean_correlation(filled)
    return before, after, after if koma is None else _mean_correlation(without_pattern)


def _moments(
    frames: Array,
    corner: tuple[int, int],
    calibration: Calibration,
    outliers: OutlierPixels,
    koma: Calibration | None,
    fill: OutlierFill,
) -> npt.NDArray[np.float64]:
    """(3, n_frames + 1) of one patch, after each step: sums of squares of every frame and of their sum."""
    place = tuple(
        slice(start, min(start + size, length))
        for start, size, length in zip(corner, PATCH, frames.shape[1:], strict=True)
    )
    counts = beside(frames, frames[:, *place])
    shape = (counts.shape[1], counts.shape[2])
    as_they_are = kernels.plan_outliers(outliers_at([]), shape)
    replaced = kernels.plan_outliers(_within(outliers, corner, shape), shape, fill)
    steps = [(calibration, as_they_are), (calibration, replaced)]
    if koma is not None:
        steps.append((koma, replaced))
    moments = np.zeros((3, len(frames) + 1))
    for row, (step, planned) in zip(moments, steps, strict=False):
        gain, offset = (beside(counts, part[place]) for part in (step.gain, step.offset))
        row[:] = kernels.block_moments(kernels.reduce(counts, gain, offset, planned, factor=1), block=BLOCK)
    return moments


def _within(outliers: OutlierPixels, corner: tuple[int, int], shape: tuple[int, int]) -> OutlierPixels:
    """The outliers of one patch, counted from its corner."""
    first, last = np.searchsorted(outliers.yx[:, 0], [corner[0], corner[0] + shape[0]])
    yx = outliers.yx[first:last] - np.array(corner, np.int32)
    inside = (yx[:, 1] >= 0) & (yx[:, 1] < shape[1])
    return OutlierPixels(
        yx=yx[inside], keep=outliers.keep[first:last][inside], frame=outliers.frame[first:last][inside]
    )


def _mean_correlation(moments: npt.NDArray[np.float64]) -> float:
    if not np.isfinite(moments).all():
        return float("nan")
    of_frames, of_sum = moments[:-1], moments[-1]
    pairs = np.sqrt(of_frames).sum() ** 2 - of_frames.sum()
    return float((of_sum - of_frames.sum()) / pairs) if pairs > 0 else float("nan")
