"""How much each frequency counts in an alignment, and what the shifts owe to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from komad.motion.spectra import Spectra, Statistics

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """Which weights w(k) of |A(k)|² an alignment maximises."""

    kind: Literal["optimal", "b_factor", "phase_only"]
    b_factor_angstrom2: float
    """exp(-B k²/4) on each amplitude, so exp(-B k²/2) on |A|²; not used with `optimal`."""
    small_pixel: float
    """Å."""

    def weight(self, found: Statistics, spectra: Spectra) -> FloatArray:
        """(n_windows, n_rings), scaled so that the objective's curvature says how precise its maximum is.

        Weights that are not optimal give a gradient of variance V and a curvature H; both times H / V the gradient's
        variance is the curvature again, as it is for a likelihood.
        """
        optimal = found.weight(spectra)
        if self.kind == "optimal":
            return optimal
        square = np.square(spectra.rings.frequency)
        plain = np.exp(-self.b_factor_angstrom2 / 2 * square / self.small_pixel**2)
        noisy = found.noise * (spectra.total_q * found.signal + found.noise)
        power = spectra.rings.count * square
        curvature, variance = (plain * found.signal * power).sum(), (plain**2 * noisy * power).sum()
        return np.asarray(np.broadcast_to(plain * (curvature / max(variance, 1e-30)), optimal.shape))


def fisher_information(weight: FloatArray, found: Statistics, spectra: Spectra) -> FloatArray:
    """(n_windows, n_frames, n_frames) expected curvature of the objective along one axis, per small px².

    E(-d² log L / ds_t ds_u) = -2 w (2 pi k)² q_t² q_u² S off the diagonal, rows adding up to zero; averaged over
    directions k² is k²/2 along one axis.
    """
    k_square = np.square(2 * np.pi * spectra.rings.frequency) / 2
    strength = 2 * weight * found.signal * spectra.rings.count * k_square * spectra.share
    q_square = np.square(spectra.q)
    n_frames, n_rings = q_square.shape
    coupling = ((strength[:, None] * q_square).reshape(-1, n_rings) @ q_square.T).reshape(
        -1, n_frames, n_frames
    )
    fisher = -coupling
    diagonal = np.arange(n_frames)
    fisher[:, diagonal, diagonal] += coupling.sum(axis=2)
    return np.asarray(fisher)


def log_likelihood(power_of_sum: FloatArray, found: Statistics, spectra: Spectra) -> float:
    """Log L of the shifts that gave this power of the aligned sum, up to a constant of the frames and spectra."""
    ratio = spectra.total_q * found.signal / found.noise
    gain = found.signal / found.noise * power_of_sum / (found.noise * (1 + ratio)) - np.log1p(ratio)
    return float((spectra.rings.count * gain).sum()) * spectra.share
