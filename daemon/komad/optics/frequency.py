"""Frequency grids of real-input Fourier transforms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import next_fast_len


def rfft_frequency(shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Frequencies of `rfft2` for a (ny, nx) picture: (ny, 1) and (1, nx // 2 + 1), cycles per pixel."""
    ny, nx = shape
    ky = np.fft.fftfreq(ny).astype(np.float32)[:, None]
    kx = np.fft.rfftfreq(nx).astype(np.float32)[None, :]
    return ky, kx


def rfft_radius(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(ny, nx // 2 + 1) distance from zero frequency, cycles per pixel."""
    return np.hypot(*rfft_frequency(shape))


def fast_even_length(length: int) -> int:
    """Smallest even length, not below `length`, whose transform is fast."""
    candidate = length + length % 2
    while (fast := next_fast_len(candidate, real=True)) % 2:
        candidate = fast + 1
    return int(fast)


def fast_even_length_below(length: int) -> int:
    """Largest even length, not above `length`, whose transform is fast."""
    candidate = length - length % 2
    while candidate > 2 and fast_even_length(candidate) != candidate:
        candidate -= 2
    return candidate
