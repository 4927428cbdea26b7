"""Is the device sound? A bad movie must not be taken for a bad device, nor the other way round."""

from __future__ import annotations

import numpy as np
import scipy.fft

from komad.errors import DeviceError

SIZE = 256
WAVE_YX = (5, 17)
"""Cycles over the picture."""


def probe(device: str) -> None:
    """Transform a plane wave and compare with what must come out.

    Raises
    ------
    DeviceError
        The device is not there, or gives a wrong answer.
    """
    if device != "cpu":
        raise DeviceError(
            f"this version computes on the CPU only; set workers.devices = ['cpu'], not {device!r}"
        )
    y, x = np.mgrid[:SIZE, :SIZE]
    wave = np.cos(2 * np.pi * (WAVE_YX[0] * y + WAVE_YX[1] * x) / SIZE).astype(np.float32)
    expected = np.zeros((SIZE, SIZE // 2 + 1), np.complex64)
    expected[WAVE_YX] = SIZE**2 / 2
    error = float(np.abs(scipy.fft.rfft2(wave) - expected).max())
    if not error < 1e-4 * SIZE**2:
        raise DeviceError(f"{device} computes wrongly: a small Fourier transform is off by {error:g}")
