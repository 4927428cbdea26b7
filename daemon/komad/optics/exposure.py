"""Radiation damage: critical exposure, dose weights, and their low-rank form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import ParameterError

FloatArray = npt.NDArray[np.floating[Any]]

# Grant & Grigorieff (2015) eLife 4:e06980, figure 3: critical exposure at 300 kV as a k^b + c.
CRITICAL_A = 0.245
CRITICAL_B = -1.665
CRITICAL_C = 2.81

VOLTAGE_KV = (100.0, 200.0, 300.0)
VOLTAGE_FACTOR = (0.64, 0.8, 1.0)


def voltage_factor(voltage_kv: float) -> float:
    """Critical exposure relative to 300 kV: 0.64 at 100, 0.8 at 200, 1 at 300 kV, linear between.

    Raises
    ------
    ParameterError
        Outside 100 to 300 kV, where nobody has measured it.
    """
    if not VOLTAGE_KV[0] <= voltage_kv <= VOLTAGE_KV[-1]:
        raise ParameterError(
            f"dose weighting is defined from 100 to 300 kV, not at {voltage_kv:g} kV; "
            "correct voltage_kv, or set processing.dose_weighting = false"
        )
    return float(np.interp(voltage_kv, VOLTAGE_KV, VOLTAGE_FACTOR))


def critical_exposure(frequency: FloatArray, *, voltage_kv: float) -> FloatArray:
    """Exposure (e/Å²) after which the signal at `frequency` (1/Å) has fallen to exp(-1/2); infinite at zero."""
    with np.errstate(divide="ignore"):
        at_300_kv = CRITICAL_A * np.power(np.asarray(frequency, np.float64), CRITICAL_B) + CRITICAL_C
    return at_300_kv * voltage_factor(voltage_kv)


def signal_left(
    frequency: FloatArray,  # (n,) 1/Å
    dose: FloatArray,  # (n_frames,) e/Å² at the END of each frame
    *,
    voltage_kv: float,
) -> FloatArray:
    """(n_frames, n): amplitude left, q = exp(-dose / (2 Nc(k))), Grant & Grigorieff (2015) eq. 9."""
    return np.exp(-dose[:, None] / (2.0 * critical_exposure(frequency, voltage_kv=voltage_kv))[None, :])


def dose_weights(q: FloatArray) -> FloatArray:
    """(n_frames, n) weights q / sqrt(sum over frames of q^2): white noise stays white."""
    return q / np.sqrt(np.square(q).sum(axis=0, keepdims=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankWeights:
    """Weights(t, k) = sum over r of frame_coefficients[t, r] * radial[r, k].

    The first frame coefficient is 1 for every frame, so the first running sum is the unweighted sum itself.
    """

    frame_coefficients: npt.NDArray[np.float32]
    """(n_frames, rank)."""
    frequency: npt.NDArray[np.float64]
    """(n,) rising, in the unit that was given."""
    radial: npt.NDArray[np.float64]
    """(rank, n)."""


def factorise(weights: FloatArray, frequency: FloatArray, *, rank: int = 6) -> LowRankWeights:
    """Write (n_frames, n) weights as a sum of `rank` products, the first factor being 1 for all frames.

    Weights are smooth in frame and frequency, so the singular values of what the constant leaves fall fast: six
    terms give about 2e-5 for any fractionation in use.
    """
    n_frames = weights.shape[0]
    rest = weights - weights.mean(axis=0, keepdims=True)
    left, _, _ = np.linalg.svd(rest, full_matrices=False)
    frames = np.concatenate([np.ones((n_frames, 1)), left[:, : min(rank, n_frames) - 1]], axis=1)
    radial = np.linalg.lstsq(frames, weights, rcond=None)[0]
    return LowRankWeights(
        frame_coefficients=frames.astype(np.float32),
        frequency=np.asarray(frequency, np.float64),
        radial=radial,
    )
