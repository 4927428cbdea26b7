"""From the projected potential to contrast on the detector: weak phase, CTF, envelope, MTF, radiation damage."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.optics.electron import (
    ELECTRON_MASS_KG,
    ELEMENTARY_CHARGE_C,
    LIGHT_SPEED_M_S,
    PLANCK_J_S,
    contrast_transfer,
    wavelength_angstrom,
)
from komad.optics.exposure import signal_left
from komad.optics.frequency import rfft_radius
from komad.simulate.spec import MovieSpec

FloatArray = npt.NDArray[np.floating[Any]]

MTF_FILES = {"k3": "k3_300kv.txt", "falcon4": "falcon4_300kv.txt"}


def interaction_rad_per_v_angstrom(voltage_kv: float) -> float:
    """Phase per projected potential, 2 pi m e lambda / h² with the relativistic mass: 6.53e-4 rad/(V Å) at 300 kV."""
    gamma = 1.0 + ELEMENTARY_CHARGE_C * voltage_kv * 1e3 / (ELECTRON_MASS_KG * LIGHT_SPEED_M_S**2)
    wavelength_m = wavelength_angstrom(voltage_kv) * 1e-10
    per_v_m = 2 * np.pi * gamma * ELECTRON_MASS_KG * ELEMENTARY_CHARGE_C * wavelength_m / PLANCK_J_S**2
    return float(per_v_m * 1e-10)


@cache
def _mtf_table(name: str) -> FloatArray:
    path = resources.files("komad.simulate") / "mtf" / MTF_FILES[name]
    with path.open(encoding="utf-8") as lines:
        return np.loadtxt(lines)


def modulation_transfer(name: str, frequency: FloatArray) -> FloatArray:
    """Measured MTF of detector `name` at `frequency` (cycles per pixel); beyond the table its last value."""
    table = _mtf_table(name)
    return np.interp(frequency, table[:, 0], table[:, 1])


def transfer(spec: MovieSpec, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Factor from the spectrum of the projected potential (V Å) to that of the relative change of intensity.

    2 sigma CTF(k) exp(-B k²/4) MTF(k), on the `rfft2` grid of a (ny, nx) picture. The Nyquist line is zero: its
    phase does not say where a picture lies between two pixels.
    """
    ny, nx = shape
    radius = rfft_radius(shape)
    k = radius / spec.pixel_size_angstrom
    ctf = contrast_transfer(
        k,
        defocus_angstrom=spec.defocus_um * 1e4,
        voltage_kv=spec.voltage_kv,
        cs_mm=spec.cs_mm,
        amplitude_contrast=spec.amplitude_contrast,
    )
    envelope = np.exp(-spec.b_factor_angstrom2 / 4.0 * np.square(k))
    total = (
        2.0
        * interaction_rad_per_v_angstrom(spec.voltage_kv)
        * ctf
        * envelope
        * modulation_transfer(spec.mtf, radius)
    )
    if ny % 2 == 0:
        total[ny // 2] = 0.0
    if nx % 2 == 0:
        total[:, -1] = 0.0
    return total.astype(np.float32)


def damage(spec: MovieSpec, box: int, frame: int) -> npt.NDArray[np.float32]:
    """(box, box // 2 + 1) amplitude left in the middle of `frame`, exp(-dose / (2 Nc(k)))."""
    k = rfft_radius((box, box)) / spec.pixel_size_angstrom
    left = signal_left(k.ravel(), spec.frame_dose()[frame : frame + 1], voltage_kv=spec.voltage_kv)
    return left.reshape(k.shape).astype(np.float32)
