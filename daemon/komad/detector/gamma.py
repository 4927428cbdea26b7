"""The power to which a gain reference is raised: the response of some detectors depends on the dose rate.

McLeod et al. (2017), section 5.1, equations 9 to 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize_scalar

from komad.arrays import thread_pool
from komad.detector.gain import without_outliers
from komad.errors import ParameterError

FloatArray = npt.NDArray[np.float32]

PowerLinear = tuple[float, float, float, float]
"""a1, b1, a2, a3 of a1 r^b1 + a2 r + a3, r being the dose rate in e/px/s."""
GainGamma = float | PowerLinear | Literal["off", "k2"]
"""As `processing.gain_gamma`."""

K2: PowerLinear = (0.12, -1.04, -0.0336, 1.04)
"""Gatan K2 Summit from 0.25 to 9 e/px/s, equation 11."""
LIMITS = (0.25, 4.0)
"""A gain is never raised to a power outside of these: at the dose rate of an all but empty movie equation 11 has no
bounds."""
EXPONENTS = (-3.0, -0.1)
"""b1 is looked for between these: the first term is what grows towards low dose rates."""
PATCH = 64
"""Pixels per side of the uniform filter in equation 10."""
CELL = 8
"""Pixels. The filtered picture is looked at this often; it is smooth over many more."""
LEAST_RATES = 5
"""Four numbers and one to spare."""
LEAST_RANGE = 2.0
"""Largest dose rate over the smallest."""


def gamma_of(setting: GainGamma, dose_rate_e_per_px_s: float | None) -> float:
    """The power for a movie of this dose rate, equation 11.

    Raises
    ------
    ParameterError
        It depends on the dose rate, which is not known (None).
    """
    if setting == "off":
        return 1.0
    if isinstance(setting, int | float):
        return float(setting)
    if dose_rate_e_per_px_s is None:
        raise ParameterError(
            "processing.gain_gamma depends on the dose rate, and the time of a frame is not known: set "
            "acquisition.frame_time_s, or give gain_gamma as one number"
        )
    if dose_rate_e_per_px_s <= 0:
        return 1.0  # no beam: nothing to correct
    gamma = power_linear(dose_rate_e_per_px_s, *(K2 if setting == "k2" else setting))
    # Rounded, so that movies of nearly the same dose rate share one calibration.
    return round(float(np.clip(gamma, *LIMITS)), 3)


def power_linear(rate: Any, a1: float, b1: float, a2: float, a3: float) -> Any:
    """Equation 11, at one dose rate or an array of them, e/px/s."""
    return a1 * rate**b1 + a2 * rate + a3


def fit_gamma(
    flat: npt.NDArray[Any],  # (ny, nx) sum of an exposure without specimen, dark subtracted
    gain: FloatArray,  # (ny, nx), oriented
) -> float:
    """The power of the gain that leaves the flattest picture: equation 10.

    Minimises the standard deviation of flat * gain^gamma after a uniform filter of 64 pixels, relative to its mean. A
    specimen or an uneven beam adds to it whatever the power is, and so makes the fit less sharp, not wrong. Outlier
    pixels are left out.

    Raises
    ------
    ParameterError
        The exposure is empty, or the gain has no structure beyond a patch that would tell the power.
    """
    flat = without_outliers(flat.astype(np.float32))
    good = (gain > 0) & np.isfinite(gain) & np.isfinite(flat)
    ny, nx = (size // CELL * CELL for size in flat.shape)
    counts = np.where(good, flat, 0)[:ny, :nx]
    logarithm = np.log(np.where(good, gain, 1)).astype(np.float32)[:ny, :nx]
    weight = np.maximum(_patches(good[:ny, :nx].astype(np.float32)), 0.5 / PATCH**2)

    def unevenness(gamma: float) -> float:
        patches = _patches(_times_power(counts, logarithm, gamma)) / weight
        return float(patches.std() / patches.mean())

    if counts.mean() <= 0:
        raise ParameterError("the exposure is empty: give movies with beam and without specimen")
    if np.ptp(_patches(logarithm) / weight) < 1e-4:
        raise ParameterError(
            f"the gain reference is even over patches of {PATCH} pixels: it says nothing of its power"
        )
    found = minimize_scalar(unevenness, bounds=LIMITS, method="bounded", options={"xatol": 1e-3})
    return float(found.x)


def _patches(picture: FloatArray) -> npt.NDArray[np.float64]:
    """Means over 64 x 64 pixels, one for every 8 x 8: a uniform filter looked at now and then."""
    ny, nx = picture.shape
    cells = picture.reshape(ny // CELL, CELL, nx // CELL, CELL).mean(axis=(1, 3), dtype=np.float32)
    return uniform_filter(cells.astype(np.float64), PATCH // CELL)


def _times_power(counts: FloatArray, logarithm: FloatArray, gamma: float) -> FloatArray:
    """Multiply by gain**gamma."""
    product = np.empty_like(counts)

    def band(y0: int) -> None:
        rows = np.s_[y0 : y0 + PATCH]
        np.multiply(logarithm[rows], np.float32(gamma), out=product[rows])
        np.exp(product[rows], out=product[rows])
        product[rows] *= counts[rows]

    list(thread_pool().map(band, range(0, len(counts), PATCH)))
    return product


def fit_power_linear(dose_rates: Sequence[float], gammas: Sequence[float]) -> PowerLinear:
    """Fit a1, b1, a2, a3 of equation 11 to the powers measured at several dose rates (e/px/s), by least squares.

    Raises
    ------
    ParameterError
        There are fewer than 5 different dose rates, or they lie too close together.
    """
    rates = np.asarray(dose_rates, np.float64)
    if (
        len(np.unique(rates.round(6))) < LEAST_RATES
        or rates.min() <= 0
        or rates.max() < LEAST_RANGE * rates.min()
    ):
        raise ParameterError(
            f"four numbers need at least {LEAST_RATES} dose rates, the largest at least {LEAST_RANGE:g} times the "
            "smallest: give movies of more dose rates, or use the power of one as gain_gamma"
        )
    powers = np.asarray(gammas, np.float64)

    def linear(b1: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """a1, a2, a3 for a given b1, and the basis."""
        basis = np.stack([rates**b1, rates, np.ones_like(rates)], axis=1)
        return np.linalg.lstsq(basis, powers, rcond=None)[0], basis

    def misfit(b1: float) -> float:
        numbers, basis = linear(b1)
        return float(np.sum(np.square(basis @ numbers - powers)))

    b1 = float(minimize_scalar(misfit, bounds=EXPONENTS, method="bounded", options={"xatol": 1e-8}).x)
    (a1, a2, a3), _ = linear(b1)
    return float(a1), b1, float(a2), float(a3)
