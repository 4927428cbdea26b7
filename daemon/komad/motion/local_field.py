"""Motion that differs across the field: one smooth field, fitted to all patches and moments together.

The field is a sum of polynomials over the field of view (products of Legendre polynomials up to MAX_ORDER, an exact
cubic spline up to order 3), each with a path of its own in exposure. Every patch has the likelihood of its aligned sum;
their gradients and curvatures add up. The prior: local motion relaxes with exposure (`path_prior.path_basis`), high
orders are smaller than low ones by fixed factors (ORDER_SPREAD), and how much there is of it all comes from the movie
(MacKay's fixed point for its variance). An empty patch has no curvature and so no pull.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import scipy.linalg
from numpy.polynomial import legendre

from komad import kernels
from komad.model.motion import spline_basis, time_basis
from komad.motion.path_prior import path_basis
from komad.motion.spectra import Spectra, aligned_power, statistics
from komad.motion.weights import Weighting, fisher_information, log_likelihood

FloatArray = npt.NDArray[np.float64]

MAX_ORDER = 5
N_SPLINES = 7
"""B-splines along each axis that hold the field for others."""
LARGEST_STEP = 0.7
"""Small pixels per round."""
FIRST_VARIANCE = 0.003
"""Small px²; only where the search for the variances begins."""
SMALLEST_VARIANCE = 1e-7
VARIANCE_STEPS = 25
"""In each round; the next one goes on from there."""
LEAST_GAIN, CLEAR_GAIN = 0.05, 20.0
"""By how much (log) held-out frames must become likelier, and by how much so that one half is enough to tell."""
ROBUST_ROUND = 2
"""From this round on, patches that contradict the field count less."""
MISFIT_LIMIT = 2.5
"""Mean square of a patch's misfit over its expected one, beyond which the patch counts less."""


ORDER_SPREAD = (1.0, 1.0, 0.5, 0.2, 0.1, 0.05)
"""Expected size of a term of each order relative to order 1. Were the strengths of the orders fitted one by one, a high
order could take the place of a low one, which patches in the middle of the field see nearly alike."""
_TERMS = [(i, order - i) for order in range(MAX_ORDER + 1) for i in range(order + 1)]
TERM_ORDERS = np.array([i + j for i, j in _TERMS])
"""(n_terms,) order of each term of the field; term 0 is the whole frame."""


def field_basis(y: npt.ArrayLike, x: npt.ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """(..., n_terms) value of each term at places in frames of `shape`, pixel indices.

    Terms are P_i(v) P_j(u) with unit mean square over the field, i + j <= MAX_ORDER; all but the first have mean zero.
    """
    v, u = (2 * (np.asarray(at) + 0.5) / n - 1 for at, n in zip((y, x), shape, strict=True))
    return np.stack(
        [
            np.sqrt((2 * i + 1) * (2 * j + 1))
            * legendre.legval(v, np.eye(i + 1)[i])
            * legendre.legval(u, np.eye(j + 1)[j])
            for i, j in _TERMS
        ],
        axis=-1,
    )


def spline_coefficients(paths: FloatArray) -> FloatArray:
    """(n_knots, N_SPLINES, N_SPLINES, 2) weights of B-splines for paths (n_terms, n_knots, 2) of the field's terms."""
    return np.einsum("ijm,mkd->kijd", _splines_of_terms(), paths)


@cache
def _splines_of_terms() -> FloatArray:
    """(N_SPLINES, N_SPLINES, n_terms) weights of B-splines for each term of the field."""
    at = np.linspace(-0.5, 99.5, 41)
    y, x = np.meshgrid(at, at, indexing="ij")
    splines = np.linalg.pinv(spline_basis(at, 100, N_SPLINES))
    return np.asarray(np.einsum("ia,jb,abm->ijm", splines, splines, field_basis(y, x, (100, 100))))


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFit:
    """Paths of the field's terms, small pixels."""

    paths: FloatArray
    """(n_terms, n_knots, 2), mean over knots 0; all zero when the movie does not support local motion."""
    whole: FloatArray
    """(n_knots, 2) what the patches say of the whole frame beyond what it was moved by."""
    max_order: int
    """Highest order that is used; 0 is none."""
    gain: float
    """By how much the held-out frames became likelier."""
    error: float
    """Expected RMS error of the field per axis."""


def fit_field(
    spectra: Spectra,
    basis: FloatArray,  # (n_patches, n_terms)
    knots: FloatArray,  # (n_knots,)
    *,
    applied: FloatArray,  # (n_terms, n_knots, 2)
    weighting: Weighting,
    before: LocalFit | None,
    max_rounds: int,
    tolerance: float,
) -> LocalFit:
    """Fit the field to the patches.

    Parameters
    ----------
    spectra : of all patches and groups of frames.
    basis : from `field_basis` at the middles of the patches.
    knots : exposure in the middle of each group, e/Å².
    applied : paths that the frames have been moved by already.
    weighting : how much each frequency counts.
    before : a fit of which this one is the correction; None lets held-out frames decide about the order.
    max_rounds, tolerance : the end: so many rounds, or no patch moving by more than this (small pixels).
    """
    scoring = partial(_score_paths, weighting=weighting, max_rounds=max_rounds, tolerance=tolerance)
    if before is None:
        start, max_order, gain = _choose_order(spectra, basis, knots, scoring)
    else:
        start, max_order, gain = before.paths, before.max_order, before.gain
    used = max_order >= TERM_ORDERS
    paths, error = np.zeros_like(applied), float("nan")
    whole = np.zeros((len(knots), 2))
    if max_order > 0:
        paths[used], error = scoring(
            spectra, basis[:, used], TERM_ORDERS[used], knots, applied=applied[used], start=start[used]
        )
        # Term 0 belongs to the whole frames, which are aligned one by one.
        whole = paths[0].copy()
        paths[0] = 0
    return LocalFit(paths=paths, whole=whole, max_order=max_order, gain=gain, error=error)


def _choose_order(
    spectra: Spectra,
    basis: FloatArray,
    knots: FloatArray,
    scoring: Callable[..., tuple[FloatArray, float]],
) -> tuple[FloatArray, int, float]:
    """Fit every second group of frames, and see which field makes the others likelier: all orders, linear, or none.

    Each half is held out once, unless the first has told already. Returns the mean of these fits at all knots, to go on
    from; the highest order to use; and by how much the held-out frames gain.
    """
    candidates = (MAX_ORDER, 1, 0)
    scores = np.zeros(len(candidates))
    fits = []
    for first in (0, 1):
        fitted, held = np.arange(first, len(knots), 2), np.arange(1 - first, len(knots), 2)
        still = np.zeros((len(TERM_ORDERS), len(fitted), 2))
        paths, _ = scoring(
            spectra.part(fitted), basis, TERM_ORDERS, knots[fitted], applied=still, start=still
        )
        fits.append(np.einsum("tk,mkd->mtd", time_basis(knots, knots[fitted]), paths))
        there = np.einsum("tk,mkd->mtd", time_basis(knots[held], knots[fitted]), paths)
        others = spectra.part(held)
        for index, highest in enumerate(candidates):
            used = highest >= TERM_ORDERS
            shifts = np.einsum("pm,mtd->ptd", basis[:, used], there[used])
            power = aligned_power(
                kernels.aligned_sum(others.values, others.rings.ky, others.rings.kx, shifts), others
            )
            scores[index] += log_likelihood(power, statistics(power, others), others)
        if np.ptp(scores) > CLEAR_GAIN:
            break
    gains = scores - scores[-1]
    best = int(np.argmax(gains))
    if gains[best] < LEAST_GAIN:
        best = len(candidates) - 1
    return np.mean(fits, axis=0), candidates[best], float(gains[best])


def _score_paths(
    spectra: Spectra,
    basis: FloatArray,
    orders: npt.NDArray[np.intp],
    knots: FloatArray,
    *,
    applied: FloatArray,
    start: FloatArray,
    weighting: Weighting,
    max_rounds: int,
    tolerance: float,
) -> tuple[FloatArray, float]:
    """Fisher scoring from `start`: paths (n_terms, n_knots, 2), and the expected RMS error of the field they make."""
    spread = np.array(ORDER_SPREAD)[orders]
    groups = np.minimum(orders, 1)  # the whole frame, and what is local
    paths = start - start.mean(axis=1, keepdims=True)
    applied = applied - applied.mean(axis=1, keepdims=True)
    motion, terms = path_basis(knots), basis * spread
    variances = dict.fromkeys(groups.tolist(), FIRST_VARIANCE)
    trust, error = np.ones(len(basis)), float("nan")
    for round_index in range(max_rounds):
        shifts = np.einsum("pm,mkd->pkd", basis, paths - applied)
        aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, shifts)
        found = statistics(aligned_power(aligned, spectra), spectra)
        weight = weighting.weight(found, spectra)
        pull = aligned * spectra.rings.picture(weight)
        gradient = spectra.share * kernels.alignment_gradient(
            spectra.values, spectra.rings.ky, spectra.rings.kx, shifts, pull
        )
        fisher = fisher_information(weight, found, spectra)
        if round_index == ROBUST_ROUND:
            trust = _trust(gradient, fisher)
        # The likelihood near `paths` as a quadratic form in what makes them up.
        gradient += fisher @ np.einsum("pm,mkd->pkd", basis, paths)
        score = np.einsum("pm,pad->mad", terms, motion.T @ (trust[:, None, None] * gradient), optimize=True)
        information = _information(terms, motion.T @ (trust[:, None, None] * fisher) @ motion)
        mean, error, variances = _posterior(information, score, groups, spread, motion, variances)
        step = mean - paths
        largest = float(np.abs(np.einsum("pm,mkd->pkd", basis, step)).max())
        paths = paths + step * min(1.0, LARGEST_STEP / max(largest, 1e-12))
        if largest < tolerance:
            break
    return paths, error


def _information(terms: FloatArray, of_patches: FloatArray) -> FloatArray:
    """(n_terms, n, n_terms, n): each pair of terms (n_patches, n_terms) times (n_patches, n, n), added over patches."""
    n_terms, n = terms.shape[1], of_patches.shape[1]
    # One product of two matrices: einsum would not find it.
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    total = pairs.T @ of_patches.reshape(len(terms), -1)
    return np.asarray(total.reshape(n_terms, n_terms, n, n).transpose(0, 2, 1, 3))


def _posterior(
    information: FloatArray,  # (n_terms, n, n_terms, n), n = n_knots - 1
    score: FloatArray,  # (n_terms, n, 2)
    groups: npt.NDArray[np.intp],  # (n_terms,)
    spread: FloatArray,  # (n_terms,)
    motion: FloatArray,  # (n_knots, n)
    variances: dict[int, float],
) -> tuple[FloatArray, float, dict[int, float]]:
    """Mean of the paths, expected RMS error of the local field, and the variances of the groups that suit them best.

    In the coefficients of `spread` and `motion` the prior of each group is white. Its variance is their sum of squares
    over the number of them that the measurement determines (MacKay 1992, Neural Computation 4:415): a fixed point that
    reaches zero in few steps where there is nothing.
    """
    n_terms, n = score.shape[:2]
    flat, right = information.reshape(n_terms * n, -1), score.reshape(n_terms * n, 2)
    mean = inverse = right
    for _ in range(VARIANCE_STEPS):
        stiffness = np.repeat([1 / variances[group] for group in groups.tolist()], n)
        factor, _ = scipy.linalg.lapack.dpotrf(flat + np.diag(stiffness), lower=1)
        mean = scipy.linalg.cho_solve((factor, True), right, check_finite=False)
        # The covariance is the inverse factor's transpose times itself.
        inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=1)
        doubts = np.square(inverse).sum(axis=0)
        square = np.square(mean).sum(axis=1).reshape(n_terms, n).sum(axis=1)
        doubt = doubts.reshape(n_terms, n).sum(axis=1)
        before, variances = variances, {}
        for group in before:
            of_group = groups == group
            determined = 2 * (n * of_group.sum() - doubt[of_group].sum() / before[group])
            variance = float(square[of_group].sum()) / max(float(determined), 1e-6)
            variances[group] = max(variance, SMALLEST_VARIANCE)
        if all(abs(np.log(variances[group] / before[group])) < 0.1 for group in before):
            break
    paths = np.einsum("m,ka,mad->mkd", spread, motion, mean.reshape(n_terms, n, 2))
    errors = np.square(inverse.reshape(-1, n_terms, n)[:, 1:] @ motion.T).sum(axis=(0, 2)) / len(motion)
    error = float(spread[1:] ** 2 @ errors)
    return paths, float(np.sqrt(max(error, 0.0))), variances


def _trust(gradient: FloatArray, fisher: FloatArray) -> FloatArray:
    """(n_patches,) at most 1: less for patches that want to go elsewhere than the field, as a moving edge or dirt does.

    The gradient left in a patch has the covariance `fisher`; its mean square in that measure is about 1.
    """
    n_knots = fisher.shape[1]
    scale = np.maximum(np.trace(fisher, axis1=1, axis2=2), 1e-12) / n_knots
    inverse = np.linalg.pinv(fisher / scale[:, None, None], rcond=1e-6, hermitian=True) / scale[:, None, None]
    misfit = np.einsum("pkd,pkl,pld->p", gradient, inverse, gradient) / (2 * (n_knots - 1))
    return np.asarray(np.minimum(1.0, MISFIT_LIMIT / np.maximum(misfit, 1e-12)))
