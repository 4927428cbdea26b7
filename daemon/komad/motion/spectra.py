"""Spectra of the small frames, and what signal and noise there is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from komad.arrays import thread_pool
from komad.optics.exposure import signal_left
from komad.optics.frequency import rfft_frequency

FloatArray = npt.NDArray[np.float32]

TAPER_FRACTION = 0.05
"""Part of each side over which a frame fades to its mean, so that its edges do not correlate."""
LOWEST_RESOLUTION_ANGSTROM = 500.0
"""Coarser structure is illumination and ice thickness, not specimen."""
LOWEST_PERIODS = 8
"""Structure with fewer periods across the frame is left out too: what enters and leaves at the edges biases it."""
RINGS = 128
"""Rings between zero frequency and the corner of the small frames' Nyquist square."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectra:
    """Fourier transforms of small frames, and the rings over which statistics are taken."""

    values: npt.NDArray[np.complex64]
    """(n_frames, my, mx); `rfft2` of the tapered frames divided by the root of the number of pixels under the taper."""
    ky: FloatArray
    """(my,) cycles per small pixel."""
    kx: FloatArray
    """(mx,)."""
    ring: npt.NDArray[np.int32]
    """(my, mx) ring of each coefficient, -1 where it takes no part."""
    ring_frequency: FloatArray
    """(n_rings,) mean frequency of each ring, cycles per small pixel."""
    ring_count: npt.NDArray[np.float64]
    """(n_rings,) coefficients in each ring."""
    q: FloatArray
    """(n_frames, n_rings) signal left after radiation damage; 1 without a dose."""
    shape: tuple[int, int]
    """(y, x) of the small frames."""


def transform(
    small_frames: FloatArray,  # (n_frames, y, x)
    *,
    pixel_size_angstrom: float,
    exposure: npt.NDArray[np.float64] | None,  # (n_frames,) e/Å² at the end of each frame
    voltage_kv: float | None,
) -> Spectra:
    """Taper and transform small frames; pixel size is that of the small frames."""
    n_frames, ny, nx = small_frames.shape
    taper = _taper(ny)[:, None] * _taper(nx)[None, :]
    scale = np.float32(1 / np.sqrt(np.square(taper, dtype=np.float64).sum()))
    ky, kx = rfft_frequency((ny, nx))
    values = np.empty((n_frames, ny, nx // 2 + 1), np.complex64)

    def one(t: int) -> None:
        frame = small_frames[t]
        values[t] = scipy.fft.rfft2(
            (frame - frame.mean(dtype=np.float64).astype(np.float32)) * (taper * scale)
        )

    list(thread_pool().map(one, range(n_frames)))
    low = max(pixel_size_angstrom / LOWEST_RESOLUTION_ANGSTROM, LOWEST_PERIODS / min(ny, nx))
    ring, frequency, count = _rings(ky, kx, low=low)
    q: npt.NDArray[np.floating[Any]] = np.ones((n_frames, len(frequency)))
    if exposure is not None and voltage_kv:
        q = signal_left(frequency / pixel_size_angstrom, exposure, voltage_kv=voltage_kv)
    return Spectra(
        values=values,
        ky=ky[:, 0],
        kx=kx[0],
        ring=ring,
        ring_frequency=frequency,
        ring_count=count,
        q=q.astype(np.float32),
        shape=(ny, nx),
    )


def _taper(length: int) -> FloatArray:
    """(length,) one in the middle, falling to zero as a raised cosine at both ends."""
    distance = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    ramp = np.clip(distance / (TAPER_FRACTION * length), 0, 1)
    return (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)


def _rings(
    ky: FloatArray, kx: FloatArray, *, low: float
) -> tuple[npt.NDArray[np.int32], FloatArray, npt.NDArray[np.float64]]:
    """Ring of each coefficient, mean frequency and count of each ring.

    Left out: below `low`, beyond Nyquist of either axis (the corners alias), and the axes themselves, on which
    stripes of the detector lie.
    """
    radius = np.hypot(ky, kx)
    ring = np.floor(radius / 0.5 * (RINGS - 1)).astype(np.int32)
    keep = (radius >= low) & (radius < 0.5) & (ky != 0) & (kx != 0)
    ring[~keep] = -1
    count = np.bincount(ring[keep], minlength=RINGS).astype(np.float64)
    mean = np.bincount(ring[keep], weights=radius[keep], minlength=RINGS) / np.maximum(count, 1)
    return ring, mean.astype(np.float32), count


def ring_mean(power: FloatArray, spectra: Spectra) -> npt.NDArray[np.float64]:
    """Mean over each ring of a (my, mx) picture of powers; 0 where a ring is empty."""
    keep = spectra.ring >= 0
    total = np.bincount(spectra.ring[keep], weights=power[keep], minlength=len(spectra.ring_count))
    return total / np.maximum(spectra.ring_count, 1)


def total_power(spectra: Spectra) -> npt.NDArray[np.float64]:
    """(n_rings,) mean over each ring of the sum over frames of |F_t|^2."""
    keep = spectra.ring >= 0

    def one(t: int) -> npt.NDArray[np.float64]:
        values = spectra.values[t][keep]
        power = np.square(values.real) + np.square(values.imag)
        return np.bincount(spectra.ring[keep], weights=power, minlength=len(spectra.ring_count)).astype(
            np.float64
        )

    total: npt.NDArray[np.float64] = np.sum(list(thread_pool().map(one, range(len(spectra.values)))), axis=0)
    return total / np.maximum(spectra.ring_count, 1)


def signal_and_noise(
    aligned: npt.NDArray[np.complex64],  # (my, mx) sum over t of q_t F_t, aligned
    power: npt.NDArray[np.float64],  # (n_rings,) from `total_power`
    spectra: Spectra,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Signal S and noise N per ring and frame, so that E|F_t|^2 = q_t^2 S + N.

    From two measured sums, with Q = sum over t of q_t^2: E|A|^2 = S Q^2 + N Q and E sum|F_t|^2 = S Q + n N.
    """
    n_frames = len(spectra.values)
    big_q = np.square(spectra.q, dtype=np.float64).sum(axis=0)
    aligned_power = ring_mean(np.square(np.abs(aligned)), spectra)
    signal = (aligned_power - big_q * power / n_frames) / (np.square(big_q) * (1 - 1 / n_frames))
    signal = _smooth(signal, spectra.ring_count, width=3)
    # Where the signal is strong its noise is a small difference of large numbers; but noise is smooth, and a ring
    # that seemed to have none would outweigh all others.
    noise = _smooth((power - signal * big_q) / n_frames, spectra.ring_count, width=17)
    whole, most = (np.average(part, weights=spectra.ring_count) for part in (noise, power / n_frames))
    noise = np.maximum(noise, max(0.5 * whole, 0.1 * most))
    # What is not above its own standard error is no signal: else empty ice would look half full.
    error = noise / (big_q * np.sqrt(np.maximum(_smooth_sum(spectra.ring_count, 3), 1)))
    signal = np.maximum(signal - error, 0)
    return signal, noise


def _smooth(
    values: npt.NDArray[np.float64], count: npt.NDArray[np.float64], *, width: int
) -> npt.NDArray[np.float64]:
    """Running mean over `width` rings, each counting as often as it has coefficients."""
    return _smooth_sum(values * count, width) / np.maximum(_smooth_sum(count, width), 1)


def _smooth_sum(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    return np.convolve(values, np.ones(width), "same")
