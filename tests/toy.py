"""A small, fast movie with known motion, independent of the simulator that the package ships."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ToyMovie:
    """Counts and the shifts that correct them."""

    frames: npt.NDArray[np.uint8]
    shifts_px: npt.NDArray[np.float64]
    specimen: npt.NDArray[np.float64]
    """Undamaged and without noise, where frame 0 sees it."""


def toy_movie(
    *,
    n_frames: int = 24,
    length: int = 512,
    dose: float = 1.2,
    contrast: float = 0.12,
    drift_px: float = 12.0,
    fixed_pattern: float = 0.0,
    seed: int = 0,
) -> ToyMovie:
    """Band-limited random specimen at 1 Å pixels, moved by exact Fourier shifts, damaged, counted."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(length)[:, None], np.fft.rfftfreq(length)[None, :]
    k = np.hypot(ky, kx)
    envelope = (
        np.exp(-15 * k**2) / np.sqrt(1 + (40 * k) ** 2) * np.abs(np.sin(np.pi * 0.0197 * 15000 * k**2 + 0.1))
    )
    specimen = np.fft.rfft2(rng.normal(size=(length, length))) * envelope
    specimen *= contrast / np.fft.irfft2(specimen, s=(length, length)).std()
    t = np.arange(n_frames)
    displacement = np.stack(
        [drift_px * (1 - np.exp(-t / 3)) + 0.1 * t, -0.5 * drift_px * (1 - np.exp(-t / 4)) - 0.15 * t], axis=1
    )
    response = 1 + fixed_pattern * rng.normal(size=(length, length))
    critical = 0.245 * np.maximum(k, 1e-6) ** -1.665 + 2.81
    frames = np.empty((n_frames, length, length), np.uint8)
    for i, (dy, dx) in enumerate(displacement):
        wave = np.exp(-2j * np.pi * (ky * dy + kx * dx) - dose * (i + 1) / (2 * critical))
        expected = dose * (1 + np.fft.irfft2(specimen * wave, s=(length, length))) * response
        frames[i] = rng.poisson(np.clip(expected, 0, None))
    start = np.exp(-2j * np.pi * (ky * displacement[0, 0] + kx * displacement[0, 1]))
    picture = np.fft.irfft2(specimen * start, s=(length, length))
    return ToyMovie(frames=frames, shifts_px=displacement[0] - displacement, specimen=picture)


def rms_error(measured: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> float:
    """RMS per axis after the mean offset, which nobody can measure, is taken out."""
    error = measured - true
    return float(np.sqrt(np.square(error - error.mean(axis=0)).mean()))
