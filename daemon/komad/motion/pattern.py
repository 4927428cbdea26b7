"""What stays with the detector while the specimen moves: modelled, so that it cannot hold the shifts near zero.

Per coefficient F_t = a_t s + p + noise, with a_t = q_t exp(2 pi i k . shift_t), specimen s of power S, pattern p of
power P.
With A = sum of conj(a_t) F_t, U = sum of F_t, c = sum of conj(a_t), the posterior of (s, p) is normal with the inverse
covariance M = [[1/S + Q/N, c/N], [conj(c)/N, 1/P + n/N]], and log L = (A, U)^H M^-1 (A, U) / N² - log(det M S P).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, namespace, portions, to_host
from komad.motion.spectra import Spectra, Statistics

FloatArray = npt.NDArray[np.float64]

RATIOS = np.concatenate([[0.0], np.geomspace(0.002, 10, 28)])
"""Powers of the pattern that are tried, as n P / N: its power over that of the noise in the sum of n frames."""
USUAL_RATIO = 0.05
"""Mean of the prior, which is exponential: a gain reference of 1000 e/px and a movie of 40 e/px have 0.04."""
MOST_COEFFICIENTS = 60_000
"""The power is fitted on about so many coefficients, spread over all."""
BYTES_PER_COEFFICIENT = 64
"""What a coefficient takes while one power is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """The three sums over frames that the likelihood needs, (my, mx) complex64 each, where the spectra are."""

    aligned: Array
    """A."""
    plain: Array
    """U."""
    overlap: Array
    """c."""


def fit_ratio(sums: Sums, found: Statistics, spectra: Spectra) -> float:
    """The likeliest n P / N for these shifts."""
    index, n = spectra.rings.index, spectra.values.shape[1]
    keep = namespace(index).flatnonzero(index >= 0)
    step = max(1, len(keep) // MOST_COEFFICIENTS)
    keep = keep[::step]
    ring = index.ravel()[keep]
    a, u, c = (picture.ravel()[keep] for picture in (sums.aligned, sums.plain, sums.overlap))
    of_rings = (found.noise[0], found.signal[0] / found.noise[0], spectra.total_q)
    noise, snr, total_q = (beside(index, values)[ring] for values in of_rings)
    # All divided by the noise power: S/N = snr, P/N = r / n.
    a2, u2, c2 = (np.square(np.abs(x)).astype(np.float64) for x in (a, u, c))
    a2, u2, acu = a2 / noise, u2 / noise, (a.conj() * c * u).real.astype(np.float64) / noise
    first = 1 + snr * total_q  # S (1/S + Q/N)
    scale = step * spectra.share
    p = beside(index, RATIOS[:, None] / n)
    gains = [
        _gain(p[some], snr, first, n, a2, u2, acu, c2).sum(axis=1)
        for some in portions(index, len(p), BYTES_PER_COEFFICIENT * len(keep))
    ]
    log_likelihoods = scale * to_host(np.concatenate(gains)) - RATIOS / USUAL_RATIO
    best = int(np.argmax(log_likelihoods))
    if not 1 < best < len(RATIOS) - 1:
        return float(RATIOS[best])
    # The vertex of the parabola through the best and its neighbours, which are evenly spaced in the logarithm.
    before, at, after = log_likelihoods[best - 1 : best + 2]
    step = 0.5 * (before - after) / (before - 2 * at + after)
    return float(RATIOS[best] * np.exp(step * np.log(RATIOS[best + 1] / RATIOS[best])))


def _gain(
    p: Any,
    snr: Array,
    first: Array,
    n: int,
    a2: Array,
    u2: Array,
    acu: Array,
    c2: Array,
) -> Array:
    """Log L of each coefficient; p = P/N. Multiplied through by S and P, so that either may be zero."""
    second = 1 + p * n
    determinant = first * second - snr * p * c2
    return (snr * second * a2 + p * first * u2 - 2 * snr * p * acu) / determinant - np.log(determinant)


def pulls(ratio: float, sums: Sums, found: Statistics, spectra: Spectra) -> tuple[Array, Array]:
    """E(s) / N and conj(E(conj(s) p)) / N, (my, mx) each: what frames are pulled towards, and what of it is pattern.

    d log L / d shift_t = sum over k of 4 pi k Im(conj(first) q_t F_t w_t - conj(second) q_t w_t),
    w_t = exp(-2 pi i k . shift_t).
    """
    rings, n = spectra.rings, spectra.values.shape[1]
    noise = rings.picture(found.noise[0], outside=1.0)  # what is divided by it is zero there
    snr = rings.picture(found.signal[0] / found.noise[0])
    p = np.float32(ratio / n)
    first = 1 + snr * rings.picture(spectra.total_q)
    second = np.float32(1 + ratio)
    c = sums.overlap
    determinant = first * second - snr * p * np.square(np.abs(c))
    specimen = snr * (second * sums.aligned - p * c * sums.plain) / determinant
    pattern = p * (first * sums.plain - snr * c.conj() * sums.aligned) / determinant
    together = specimen.conj() * pattern - (snr * p * noise / determinant) * c.conj()
    return (specimen / noise).astype(np.complex64), (together / noise).conj().astype(np.complex64)
