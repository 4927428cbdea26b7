"""Electron wavelength and contrast transfer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

PLANCK_J_S = 6.62607015e-34
ELECTRON_MASS_KG = 9.1093837015e-31
ELEMENTARY_CHARGE_C = 1.602176634e-19
LIGHT_SPEED_M_S = 299792458.0


def wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic electron wavelength: 0.0197 Å at 300 kV, 0.0251 Å at 200 kV."""
    energy = ELEMENTARY_CHARGE_C * voltage_kv * 1e3
    rest = ELECTRON_MASS_KG * LIGHT_SPEED_M_S**2
    momentum = np.sqrt(energy * (energy + 2 * rest)) / LIGHT_SPEED_M_S
    return float(PLANCK_J_S / momentum * 1e10)


def contrast_transfer(
    frequency: FloatArray,  # 1/Å, any shape
    *,
    defocus_angstrom: float,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
) -> FloatArray:
    """Contrast transfer function, underfocus positive, in [-1, 1] and negative near zero frequency.

    CTF(k) = -sin(chi + asin(A)), chi = pi lambda z k^2 - pi/2 Cs lambda^3 k^4 (weak-phase approximation).
    """
    wavelength = wavelength_angstrom(voltage_kv)
    k2 = np.square(frequency)
    chi = np.pi * wavelength * k2 * (defocus_angstrom - 0.5 * cs_mm * 1e7 * wavelength**2 * k2)
    return -np.sin(chi + np.arcsin(amplitude_contrast))
