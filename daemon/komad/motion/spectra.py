"""Spectra of windows of the small frames, and what signal and noise there is in them.

A window is the whole frame, for the motion of the whole, or a patch of it, for what differs across the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, beside, namespace, parallel_map, portions, rfft2, to_host
from komad.optics.frequency import rfft_frequency

FloatArray = npt.NDArray[np.float64]
Window = tuple[slice, slice]
"""Rows and columns of the small frames."""

LOWEST_RESOLUTION_ANGSTROM = 500.0
"""Coarser structure is illumination and ice thickness, not specimen."""
BYTES_PER_PIXEL = 16
"""What a pixel takes while it is transformed."""
LEAST_LEVEL = 1e-3
"""Noise of a window relative to the mean of all: one behind a grid bar is empty, and nothing can be divided by that."""
SIGNAL_WIDTH = 3
"""Rings over which the signal's spectrum is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rings:
    """How coefficients of a window of some shape fall on rings; what is one number per ring is on the host."""

    ky: npt.NDArray[np.float32]
    """(my,) cycles per small pixel."""
    kx: npt.NDArray[np.float32]
    """(mx,)."""
    index: Array
    """(my, mx) int32, ring of each coefficient, -1 where it takes no part; where the spectra are."""
    plan: Array
    """The same as `kernels.ring_sums` is given it."""
    frequency: FloatArray
    """(n_rings,) mean frequency of each ring, cycles per small pixel."""
    count: FloatArray
    """(n_rings,) coefficients in each ring of one window."""

    def mean(self, pictures: Array) -> FloatArray:
        """(..., n_rings) mean over each ring of (..., my, mx) pictures; 0 where a ring is empty."""
        flat = pictures.reshape(-1, *self.index.shape)
        total = kernels.ring_sums(flat, self.plan, len(self.count)) / np.maximum(self.count, 1)
        return np.asarray(total.reshape(*pictures.shape[:-2], len(self.count)))

    def picture(self, values: npt.NDArray[Any], *, outside: float = 0.0) -> Array:
        """Of (..., n_rings) values (..., my, mx) float32: that of a coefficient's ring, `outside` where it has none."""
        # Ring -1 takes what is put last.
        last = np.full((*values.shape[:-1], 1), outside)
        table = np.concatenate([values, last], axis=-1).astype(np.float32)
        return np.take(beside(self.index, table), self.index, axis=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectra:
    """Fourier transforms of windows of frames, with the rings over which statistics are taken."""

    values: Array
    """(n_windows, n_frames, my, mx) complex64, where the frames are: `rfft2` of the tapered windows, scaled so that
    white noise keeps its variance, times `q`; zero where a coefficient takes no part."""
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
            values=np.take(self.values, beside(self.values, frames), axis=1),
            power=self.power[frames],
            q=self.q[frames],
        )


def make_rings(
    shape: tuple[int, int], *, n_rings: int, low: float, high: float = 0.5, like: Any = None
) -> Rings:
    """Rings of `rfft2` of a window; rows and columns that hold nothing below `high` are left out.

    Left out too: below `low`, beyond Nyquist of either axis (the corners alias), and the axes themselves, on which
    stripes of the detector lie. The index of rings is where `like` is.
    """
    xp = namespace(like)
    ky, kx = rfft_frequency(shape)
    ky, kx = ky[np.abs(ky[:, 0]) <= high], kx[:, kx[0] <= high]
    along_y, along_x = xp.asarray(ky), xp.asarray(kx)
    radius = xp.hypot(along_y, along_x)
    keep = (radius >= low) & (radius < min(high, 0.5)) & (along_y != 0) & (along_x != 0)
    index = xp.where(keep, xp.floor(radius / 0.5 * n_rings), -1).astype(np.int32)
    plan = kernels.ring_plan(index, n_rings)
    ones_and_radius = xp.stack([xp.ones_like(radius), radius])
    count, total = kernels.ring_sums(ones_and_radius, plan, n_rings)
    middle = (np.arange(n_rings) + 0.5) / n_rings * 0.5
    frequency = np.where(count > 0, total / np.maximum(count, 1), middle)
    return Rings(ky=ky[:, 0], kx=kx[0], index=index, plan=plan, frequency=frequency, count=count)


def transform(
    frames: Array,  # (n_frames, y, x) float32
    windows: Sequence[Window],
    taper: Array,  # shape of a window, float32
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
    rings : of that shape, where the frames are.
    q : amplitude left in each frame.
    share : independent coefficients per coefficient.
    phase_only : set all amplitudes to one.
    """
    xp = namespace(frames)
    ny, nx = taper.shape
    taper = beside(frames, taper)
    scaled = taper * (1 / np.sqrt(np.square(taper, dtype=np.float64).sum())).astype(np.float32)
    half = np.count_nonzero(rings.ky < 0)
    weight = rings.picture(q)
    is_fine = rings.frequency > 0.5 * rings.frequency[rings.count > 0].max()
    fine = xp.flatnonzero(rings.picture(is_fine))
    values = xp.empty((len(windows), len(frames), *rings.index.shape), np.complex64)
    total = xp.zeros((len(frames), *rings.index.shape), np.float32)
    level = xp.zeros(len(windows))

    def work(item: tuple[slice, slice]) -> tuple[Array, Array]:
        some, of_frames = item
        window = xp.stack([frames[(of_frames, *place)] for place in windows[some]])
        mean = window.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
        whole = rfft2((window - mean) * scaled)[..., : len(rings.kx)]
        spectrum = xp.concatenate([whole[:, :, : len(rings.ky) - half], whole[:, :, ny - half :]], axis=2)
        if phase_only:
            spectrum = spectrum / np.maximum(np.abs(spectrum), 1e-30)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        np.multiply(spectrum, weight[of_frames], out=values[some, of_frames])
        of_window = power.sum(axis=1).reshape(len(power), -1)
        return power.sum(axis=0), np.take(of_window, fine, axis=1).sum(axis=1)

    bytes_each = BYTES_PER_PIXEL * ny * nx
    items = [
        (some, of_frames)
        for some in portions(frames, len(windows), bytes_each * len(frames))
        for of_frames in portions(frames, len(frames), bytes_each)
    ]
    # Added in order, not as they come: the same frames give the same numbers.
    for (some, of_frames), (power, fine_power) in zip(items, parallel_map(frames, work, items), strict=True):
        total[of_frames] += power
        level[some] += fine_power
    level = to_host(level)
    return Spectra(
        values=values,
        power=rings.mean(total) / len(windows),
        level=np.maximum(level / max(float(level.mean()), 1e-30), LEAST_LEVEL),
        rings=rings,
        q=q,
        share=share,
        shape=(ny, nx),
    )


def aligned_power(aligned: Array, spectra: Spectra) -> FloatArray:
    """(n_windows, n_rings) mean over each ring of |A|²."""
    return spectra.rings.mean(np.square(aligned.real) + np.square(aligned.imag))


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
