"""Where the tails of a histogram leave what counting explains: McLeod et al. (2017) section 4, eq. 1 to 6."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.optimize
from scipy.special import expit, ndtr, ndtri

FloatArray = npt.NDArray[np.float64]

FIT_RANGE = (-2.5, 1.5)
"""Quantiles of the normal distribution between which the histogram is fitted: hot pixels, of which there may be one in
ten, raise the cumulative histogram least where most pixels are."""
RESIDUAL_LIMIT = 0.5
"""Standard deviations by which a tail must be too heavy to be fitted."""
RELAXATION = 0.95
ORDER = 6.0
"""Steepness of the weight."""
MOST_KEPT = 0.9
"""A pixel that would keep more of its own value is good."""
SOFTNESS = float(np.log(MOST_KEPT / (1 - MOST_KEPT))) / ORDER
"""How far below the threshold a pixel keeps so much, standard deviations."""
GOOD_AMONG_THEM = 0.05
"""Of the pixels that are replaced, or in part, as many may be good ones."""
FEWEST = 3
"""Fewer pixels are no tail: one outlier says nothing of where others begin."""
STEP = 0.05
FARTHEST = 8.0


def fit_normal(
    histogram: npt.NDArray[np.int64],  # (n_edges + 1,) the first and last beyond the edges
    edges: FloatArray,  # (n_edges,)
) -> tuple[float, float]:
    """Mean and width of the normal distribution whose cumulative is nearest to that of a histogram: eq. 1.

    The parts of outliers below and above are fitted with it, which keeps them from widening it.
    """
    n_pixels = int(histogram.sum())
    cumulative = np.cumsum(histogram)[:-1] / max(1, n_pixels)
    inside = (edges >= FIT_RANGE[0]) & (edges <= FIT_RANGE[1])

    def distance(model: FloatArray) -> FloatArray:
        mean, width, hot = model
        fitted = (1 - hot) * ndtr((edges[inside] - mean) / width)
        return np.asarray(fitted - cumulative[inside])

    fit = scipy.optimize.least_squares(
        distance, (0.0, 1.0, 0.0), bounds=((-2, 0.2, 0), (2, 5, 0.5)), loss="soft_l1", f_scale=0.003
    )
    return float(fit.x[0]), float(fit.x[1])


def threshold_of_tail(
    sigma: FloatArray,  # (n,) distances of single pixels from the mean, away from it; those of one tail
    n_pixels: int,
    limits: tuple[float, float],
) -> float:
    """Standard deviations at which the weight of a pixel is a half; the upper limit where the tail is not too heavy.

    The zero of a line through the residual of the cumulative histogram, in standard deviations, where that is larger
    than RESIDUAL_LIMIT (eq. 2 to 5), relaxed. About as many good pixels as outliers lie beyond it; it is raised to
    where good ones are GOOD_AMONG_THEM.
    """
    lowest, highest = limits
    at = np.arange(lowest - SOFTNESS, FARTHEST + STEP, STEP)
    n_beyond = len(sigma) - np.searchsorted(np.sort(sigma), at)
    expected = n_pixels * ndtr(-at)
    with np.errstate(divide="ignore"):
        residual = -ndtri(n_beyond / max(1, n_pixels)) - at
    heavy = (n_beyond >= FEWEST) & (residual < -RESIDUAL_LIMIT)
    few_good = np.flatnonzero((n_beyond >= FEWEST) & (expected <= GOOD_AMONG_THEM * n_beyond))
    if np.count_nonzero(heavy) < 2 or not len(few_good):
        return highest
    slope, intercept = np.polyfit(at[heavy], residual[heavy], 1)
    zero = -intercept / slope if slope < 0 else highest
    return float(np.clip(max(RELAXATION * zero, at[few_good[0]] + SOFTNESS), lowest, highest))


def kept_part(sigma: FloatArray, threshold: float) -> npt.NDArray[np.float32]:
    """The part of its own value that a pixel keeps, from its distance away from the mean: one factor of eq. 6."""
    return np.asarray(expit(-ORDER * (sigma - threshold)), np.float32)
