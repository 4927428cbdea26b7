"""What is expected of a path before it is measured: the specimen's velocity is smooth in exposure.

The velocity is a Gaussian process: a part that dies away early, a part that changes slowly, and an even drift of any
size; displacements between frames are its increments. How strong each part is comes from the movie itself (empirical
Bayes: the strengths under which the measured path is likeliest).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize
from scipy.linalg import lapack

FloatArray = npt.NDArray[np.float64]

EARLY_DOSE = 4.5
"""e/Å² over which fast motion at the start relaxes (RELION's motion STARs of 16 movies of EMPIAR-10204)."""
EARLY_CORRELATION = 6.0
"""e/Å² over which the early velocity keeps its direction."""
DRIFT_ANGSTROM_PER_DOSE = 1.0
"""Standard deviation of the even drift; so wide that it hardly pulls."""

# Logarithms of: variance of the early and of the steady velocity (Å per e/Å²)², correlation of the steady velocity
# (e/Å²), variance of independent jumps (Å² per e/Å²); and how far from that they may be (standard deviations).
_TYPICAL = np.log([0.5**2, 0.06**2, 10.0, 0.02**2])
_SPREAD = np.array([3.0, 3.0, 0.7, 2.0])
_FIRST_EVALUATIONS, _LATER_EVALUATIONS = 120, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A path as measurement and prior together have it."""

    shifts: FloatArray
    """(n, 2), mean 0."""
    covariance: FloatArray
    """(n, n) along each axis."""
    strengths: FloatArray
    """(4,) the logarithms that were fitted, to start from in the next round."""
    n_determined: float
    """How many numbers (of 2 n) the measurement decides, not the prior."""


def fit_path(
    fisher: FloatArray,  # (n, n)
    pull: FloatArray,  # (n, 2)
    moments: FloatArray,  # (n,) e/Å², rising
    *,
    angstrom: float,
    strengths: FloatArray | None,
    settled: bool = False,
) -> Path:
    """The likeliest path when log L is pull . s - s . fisher . s / 2 along each axis.

    Parameters
    ----------
    fisher, pull : the measurement, in a unit of length of `angstrom` Å; the mean of the path is free.
    moments : when the specimen was at each point of the path.
    strengths : of a fit of nearly the same measurement; None for the first.
    settled : take these strengths as they are.
    """
    n = len(moments)
    steps = np.diff(np.eye(n), axis=0)
    increments = _Increments(moments)

    def posterior(logs: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Minus log evidence, the posterior's Cholesky factor, and its mean."""
        # LAPACK itself: there are some hundred trials, and most of their time would go into what is around it.
        prior = _cholesky(increments.covariance(logs) / angstrom**2)
        whitened, _ = lapack.dtrtrs(prior, steps, lower=1)
        precision = fisher + whitened.T @ whitened
        # Neither knows the mean. It is held with the stiffness of the rest: a softer hold is lost in rounding where the
        # measurement says nothing.
        hold = np.trace(precision) / n**2
        factor = _cholesky(precision + hold)
        half, _ = lapack.dtrtrs(factor, pull, lower=1)
        # Both axes: each has its quadratic form, and half of the logarithm of each determinant.
        evidence = (
            0.5 * np.square(half).sum()
            - 2 * np.log(np.diag(factor)).sum()
            + np.log(hold)
            - 2 * np.log(np.diag(prior)).sum()
            - 0.5 * np.square((logs - _TYPICAL) / _SPREAD).sum()
        )
        return -float(evidence), factor, lapack.dtrtrs(factor, half, lower=1, trans=1)[0]

    logs = _TYPICAL if strengths is None else strengths
    if not settled:
        evaluations = _FIRST_EVALUATIONS if strengths is None else _LATER_EVALUATIONS
        options = {"maxfev": evaluations, "xatol": 0.1, "fatol": 0.1, "initial_simplex": _simplex(logs)}
        best = scipy.optimize.minimize(
            lambda tried: posterior(tried)[0], logs, method="Nelder-Mead", options=options
        )
        logs = best.x
    _, factor, shifts = posterior(logs)
    covariance, _ = lapack.dpotrs(factor, np.eye(n), lower=1)
    return Path(
        shifts=shifts - shifts.mean(axis=0),
        covariance=covariance,
        strengths=logs,
        n_determined=2 * float(np.einsum("ij,ji->", fisher, covariance)),
    )


def _simplex(start: FloatArray) -> FloatArray:
    return np.vstack([start, start + np.diag([1.5, 1.5, 0.5, 1.5])])


class _Increments:
    """The displacements between successive moments."""

    def __init__(self, moments: FloatArray) -> None:
        gaps, middle = np.diff(moments), (moments[1:] + moments[:-1]) / 2
        fading = np.exp(-(middle - moments[0]) / EARLY_DOSE)
        self._gaps = gaps
        self._both_gaps = gaps[:, None] * gaps[None, :]
        self._distance = np.abs(middle[:, None] - middle[None, :])
        self._early = fading[:, None] * fading[None, :] * _matern(self._distance / EARLY_CORRELATION)

    def covariance(self, logs: FloatArray) -> FloatArray:
        """(n - 1, n - 1) Å²."""
        early, steady, correlation, jumps = np.exp(np.clip(logs, -40, 10))
        velocity = (
            early * self._early + steady * _matern(self._distance / correlation) + DRIFT_ANGSTROM_PER_DOSE**2
        )
        return np.asarray(self._both_gaps * velocity + np.diag(self._gaps * jumps + 1e-8))


def _cholesky(matrix: FloatArray) -> FloatArray:
    """Lower factor."""
    factor, failed = lapack.dpotrf(matrix, lower=1)
    if failed:
        raise np.linalg.LinAlgError("a covariance is not positive")
    return np.asarray(factor)


def _matern(x: FloatArray) -> FloatArray:
    """Matérn 3/2: continuous with a continuous slope."""
    x = np.sqrt(3) * x
    return np.asarray((1 + x) * np.exp(-x))


LOCAL_FADING_DOSE = 6.0
"""e/Å² after which local motion has half its first speed."""
LOCAL_CORRELATION = 20.0
"""e/Å² over which local motion keeps its direction."""
LOCAL_JUMPS = 0.1
"""Part of the local displacement's variance that is independent from knot to knot."""


def path_basis(knots: FloatArray) -> FloatArray:
    """(n_knots, n_knots - 1): paths of local motion, mean 0, as what it makes of independent numbers of equal variance.

    Local motion relaxes: what moves goes on in about the same direction and slows down. Such increments fit better than
    those of a plain random walk (docs/decisions/0005).
    """
    gaps, middle = np.diff(knots), (knots[1:] + knots[:-1]) / 2
    travelled = gaps / (1 + (middle - knots[0]) / LOCAL_FADING_DOSE)
    distance = np.abs(middle[:, None] - middle[None, :])
    steady = travelled[:, None] * np.exp(-distance / LOCAL_CORRELATION) * travelled[None, :]
    increments = (1 - LOCAL_JUMPS) * steady / np.square(travelled).mean()
    increments += LOCAL_JUMPS * np.diag(travelled) / travelled.mean()
    paths = np.vstack([np.zeros(len(gaps)), np.cumsum(np.linalg.cholesky(increments), axis=0)])
    return np.asarray(paths - paths.mean(axis=0))
