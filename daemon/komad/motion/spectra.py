"""Spectra of windows of the small frames, and what signal and noise there is in them.

A window is the whole frame, for the motion of the whole, or a patch of it, for what differs across the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from komad.arrays import thread_pool
from komad.optics.frequency import rfft_frequency

FloatArray = npt.NDArray[np.float64]
Window = tuple[slice, slice]
"""Rows and columns of the small frames."""

LOWEST_RESOLUTION_ANGSTROM = 500.0
"""Coarser structure is illumination and ice thickness, not specimen."""
PIXELS_AT_A_TIME = 2**18
"""Of as many frames of a window as this holds: they stay in the cache, and there is work for all threads."""
LEAST_LEVEL = 1e-3
"""Noise of a window relative to the mean of all: one behind a grid bar is empty, and nothing can be divided by that."""
SIGNAL_WIDTH = 3
"""Rings over which the signal's spectrum is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rings:
    """How coefficients of a window of some shape fall on rings."""

    ky: npt.NDArray[np.float32]
    """(my,) cycles per small pixel."""
    kx: npt.NDArray[np.float32]
    """(mx,)."""
    index: npt.NDArray[np.int32]
    """(my, mx) ring of each coefficient, -1 where it takes no part."""
    frequency: FloatArray
    """(n_rings,) mean frequency of each ring, cycles per small pixel."""
    count: FloatArray
    """(n_rings,) coefficients in each ring of one window."""

    def mean(self, picture: npt.NDArray[Any]) -> FloatArray:
        """(n_rings,) mean over each ring of a (my, mx) picture; 0 where a ring is empty."""
        # Ring -1 becomes bin 0, which is dropped.
        total = np.bincount(self.index.ravel() + 1, weights=picture.ravel(), minlength=len(self.count) + 1)[
            1:
        ]
        return np.asarray(total / np.maximum(self.count, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectra:
    """Fourier transforms of windows of frames, with the rings over which statistics are taken."""

    values: npt.NDArray[np.complex64]
    """(n_windows, n_frames, my, mx): `rfft2` of the tapered windows, scaled so that white noise keeps its variance,
    times `q`; zero where a coefficient takes no part."""
    power: FloatArray
    """(n_frames, n_rings) mean over each ring and all windows of |F|², before the factor q."""
    level: FloatArray
    """(n_windows,) noise of each window relative to the mean, from the finer half of the rings: thick ice and carbon
    let fewer electrons through."""
    rings: Rings
    """How the coefficients of a window fall on rings."""
    q: FloatArray
    """(n_frames, n_rings) amplitude left after radiation damage; 1 without a dose."""
    share: float
    """Independent coefficients per coefficient: less than 1 because of the taper and of windows that overlap."""
    shape: tuple[int, int]
    """(y, x) of a window."""

    @property
    def total_q(self) -> FloatArray:
        """(n_rings,) sum over frames of q²."""
        return np.asarray(np.square(self.q).sum(axis=0))

    def part(self, frames: npt.NDArray[np.intp]) -> Spectra:
        """Some of the frames only."""
        return replace(
            self,
            values=np.ascontiguousarray(self.values[:, frames]),
            power=self.power[frames],
            q=self.q[frames],
        )


def make_rings(shape: tuple[int, int], *, n_rings: int, low: float, high: float = 0.5) -> Rings:
    """Rings of `rfft2` of a window; rows and columns that hold nothing below `high` are left out.

    Left out too: below `low`, beyond Nyquist of either axis (the corners alias), and the axes themselves, on which
    stripes of the detector lie.
    """
    ky, kx = rfft_frequency(shape)
    rows, columns = np.abs(ky[:, 0]) <= high, kx[0] <= high
    ky, kx = ky[rows], kx[:, columns]
    radius = np.hypot(ky, kx)
    keep = (radius >= low) & (radius < min(high, 0.5)) & (ky != 0) & (kx != 0)
    index = np.where(keep, np.floor(radius / 0.5 * n_rings), -1).astype(np.int32)
    count = np.bincount(index[keep], minlength=n_rings).astype(np.float64)
    total = np.bincount(index[keep], weights=radius[keep], minlength=n_rings)
    middle = (np.arange(n_rings) + 0.5) / n_rings * 0.5
    frequency = np.where(count > 0, total / np.maximum(count, 1), middle)
    return Rings(ky=ky[:, 0], kx=kx[0], index=index, frequency=frequency, count=count)


def transform(
    frames: npt.NDArray[np.float32],  # (n_frames, y, x)
    windows: Sequence[Window],
    taper: npt.NDArray[np.float32],  # shape of a window
    rings: Rings,
    q: FloatArray,  # (n_frames, n_rings)
    *,
    share: float,
    phase_only: bool = False,
) -> Spectra:
    """Taper and transform each window of each frame.

    Parameters
    ----------
    frames : small frames.
    windows : rows and columns of each window, all of the same shape.
    taper : what a window is multiplied with after its mean was taken off.
    rings : of that shape.
    q : amplitude left in each frame.
    share : independent coefficients per coefficient.
    phase_only : set all amplitudes to one.
    """
    ny, nx = taper.shape
    scaled = taper * np.float32(1 / np.sqrt(np.square(taper, dtype=np.float64).sum()))
    half = np.count_nonzero(rings.ky < 0)
    weight = np.where(rings.index >= 0, q[:, rings.index], 0).astype(np.float32)
    fine = rings.index >= 0
    fine &= rings.frequency[rings.index] > 0.5 * rings.frequency[rings.count > 0].max()
    values = np.empty((len(windows), len(frames), *rings.index.shape), np.complex64)
    total = np.zeros((len(frames), *rings.index.shape), np.float32)
    level = np.zeros(len(windows))

    def work(item: tuple[int, int]) -> npt.NDArray[np.float32]:
        w, first = item
        some = slice(first, first + step)
        window = frames[(some, *windows[w])]
        window = (
            window - window.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        ) * scaled
        whole = scipy.fft.rfft2(window)[:, :, : len(rings.kx)]
        spectrum = np.concatenate([whole[:, : len(rings.ky) - half], whole[:, ny - half :]], axis=1)
        if phase_only:
            spectrum = spectrum / np.maximum(np.abs(spectrum), 1e-30)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        np.multiply(spectrum, weight[some], out=values[w, some])
        return np.asarray(power, np.float32)

    step = max(1, PIXELS_AT_A_TIME // taper.size)
    items = [(w, first) for w in range(len(windows)) for first in range(0, len(frames), step)]
    # Added in order, not as they come: the same frames give the same numbers.
    for (w, first), power in zip(items, thread_pool().map(work, items), strict=True):
        total[first : first + step] += power
        level[w] += float(power.sum(axis=0)[fine].sum())
    return Spectra(
        values=values,
        power=np.stack([rings.mean(frame) for frame in total]) / len(windows),
        level=np.maximum(level / max(float(level.mean()), 1e-30), LEAST_LEVEL),
        rings=rings,
        q=q,
        share=share,
        shape=(ny, nx),
    )


def aligned_power(aligned: npt.NDArray[np.complex64], spectra: Spectra) -> FloatArray:
    """(n_windows, n_rings) mean over each ring of |A|²."""
    power = np.square(aligned.real) + np.square(aligned.imag)
    return np.stack([spectra.rings.mean(window) for window in power])


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Power spectra so that E|F|² = q² S + N in every window."""

    signal: FloatArray
    """(n_windows, n_rings)."""
    noise: FloatArray
    """(n_windows, n_rings)."""

    def weight(self, spectra: Spectra) -> FloatArray:
        """(n_windows, n_rings) of |A|² in log L = sum over k of |A|² / (N (Q + N / S)): w = S / (N (Q S + N))."""
        return np.asarray(self.signal / (self.noise * (spectra.total_q * self.signal + self.noise)))


def statistics(power_of_sum: FloatArray, spectra: Spectra) -> Statistics:
    """Signal and noise from two measured powers: of the aligned sum, and of the frames.

    With Q = sum over t of q²: E|A|² = S Q² + N Q and E sum|F|² = S Q + n N. The noise and the shape of the signal are
    those of all windows together; how much of the signal a window has is one number, because its rings alone are too
    noisy.
    """
    n_frames, total_q = spectra.values.shape[1], spectra.total_q
    mean_sum, mean_power = power_of_sum.mean(axis=0), spectra.power.sum(axis=0)
    # Independent coefficients: what errors go by.
    count = spectra.rings.count * len(spectra.values) * spectra.share
    if n_frames == 1:
        return Statistics(
            signal=np.zeros_like(power_of_sum), noise=np.tile(mean_power, (len(power_of_sum), 1))
        )
    signal = (mean_sum - total_q * mean_power / n_frames) / (np.square(total_q) * (1 - 1 / n_frames))
    signal = _smooth(signal, count, width=SIGNAL_WIDTH)
    # Where the signal is strong its noise is a small difference of large numbers; but noise is smooth, and a ring
    # that seemed to have none would outweigh all others.
    noise = _smooth((mean_power - signal * total_q) / n_frames, count, width=len(count) // 8 + 1)
    whole, most = (np.average(part, weights=count) for part in (noise, mean_power / n_frames))
    noise = np.maximum(noise, max(0.5 * whole, 0.1 * most))
    # What is not above its own standard error is no signal: else empty ice would look half full.
    error = noise / (total_q * np.sqrt(np.maximum(_smooth_sum(count, SIGNAL_WIDTH), 1)))
    signal = np.maximum(signal - error, 0)
    noise = spectra.level[:, None] * noise
    return Statistics(signal=_signal_share(power_of_sum, signal, noise, spectra) * signal, noise=noise)


MAX_SIGNAL_SHARE = 4.0
"""A window counts as having at most this many times the mean signal: a carbon edge must not outweigh all else."""


def _signal_share(
    power_of_sum: FloatArray, signal: FloatArray, noise: FloatArray, spectra: Spectra
) -> FloatArray:
    """(n_windows, 1) signal of each window relative to the mean, less its standard error; 1 for a single window."""
    if len(power_of_sum) == 1:
        return np.ones((1, 1))
    total_q = spectra.total_q
    expected = signal * np.square(total_q)
    variance = np.square(noise * total_q + expected) / np.maximum(spectra.rings.count * spectra.share, 1e-9)
    information = np.where(spectra.rings.count > 0, expected / variance, 0)
    strength = np.maximum((information * expected).sum(axis=1), 1e-30)
    share = ((power_of_sum - noise * total_q) * information).sum(axis=1) / strength
    return np.asarray(np.clip(share - 1 / np.sqrt(strength), 0, MAX_SIGNAL_SHARE))[:, None]


def _smooth(values: FloatArray, count: FloatArray, *, width: int) -> FloatArray:
    """Running mean over `width` rings, each counting as often as it has coefficients."""
    return _smooth_sum(values * count, width) / np.maximum(_smooth_sum(count, width), 1e-9)


def _smooth_sum(values: FloatArray, width: int) -> FloatArray:
    return np.convolve(values, np.ones(width), "same")
