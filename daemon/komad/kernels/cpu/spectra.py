"""Sums and filters over spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.kernels.cpu.bands import BAND_ROWS, jit, over_bands


def shifted_sum(spectra: Any, ky: Any, kx: Any, ring: Any, q: Any, shifts: Any) -> npt.NDArray[np.complex64]:
    """See `komad.kernels.shifted_sum`."""
    wave_y, wave_x = _waves(ky, kx, shifts)
    aligned = np.empty(spectra.shape[1:], np.complex64)
    over_bands(
        lambda y0, y1: _shifted_sum_band(spectra, wave_y, wave_x, ring, q, y0, y1, aligned),
        len(ky),
        BAND_ROWS,
    )
    return aligned


def shift_gradient(
    spectra: Any, ky: Any, kx: Any, ring: Any, q: Any, shifts: Any, aligned: Any, weight: Any
) -> npt.NDArray[np.float64]:
    """See `komad.kernels.shift_gradient`."""
    wave_y, wave_x = _waves(ky, kx, shifts)

    def work(y0: int, y1: int) -> Any:
        return _gradient_band(spectra, wave_y, wave_x, ky, kx, ring, q, aligned, weight, y0, y1)

    return np.sum(over_bands(work, len(ky), BAND_ROWS), axis=0)


def _waves(ky: Any, kx: Any, shifts: Any) -> tuple[Any, Any]:
    """The separable factors of exp(-2 pi i k . shift): (n_frames, my) and (n_frames, mx) complex64."""
    return tuple(
        np.exp(-2j * np.pi * shifts[:, axis, None] * k[None, :].astype(np.float64)).astype(np.complex64)
        for axis, k in enumerate((ky, kx))
    )


@jit
def _shifted_sum_band(
    spectra: Any, wave_y: Any, wave_x: Any, ring: Any, q: Any, y0: int, y1: int, aligned: Any
) -> None:
    n_frames, _, mx = spectra.shape
    for y in range(y0, y1):
        aligned[y, :] = 0
        for t in range(n_frames):
            for x in range(mx):
                if ring[y, x] >= 0:
                    aligned[y, x] += q[t, ring[y, x]] * (spectra[t, y, x] * (wave_y[t, y] * wave_x[t, x]))


@jit
def _gradient_band(
    spectra: Any,
    wave_y: Any,
    wave_x: Any,
    ky: Any,
    kx: Any,
    ring: Any,
    q: Any,
    aligned: Any,
    weight: Any,
    y0: int,
    y1: int,
) -> Any:
    n_frames, _, mx = spectra.shape
    gradient = np.zeros((n_frames, 2))
    for t in range(n_frames):
        for y in range(y0, y1):
            along_y, along_x = np.float32(0), np.float32(0)
            for x in range(mx):
                r = ring[y, x]
                if r >= 0:
                    shifted = spectra[t, y, x] * (wave_y[t, y] * wave_x[t, x])
                    # d|A|^2/ds = 2 Re(conj(A) (-2 pi i k) G) = 4 pi k Im(conj(A) G); a frame's own part is real.
                    slope = q[t, r] * weight[r] * (aligned[y, x].conjugate() * shifted).imag
                    along_y += slope
                    along_x += slope * kx[x]
            gradient[t, 0] += 4 * np.pi * ky[y] * along_y
            gradient[t, 1] += 4 * np.pi * along_x
    return gradient


def add_filtered(total: Any, spectrum: Any, ky: Any, kx: Any, frequency: Any, radial: Any) -> None:
    """See `komad.kernels.add_filtered`."""
    step = float(frequency[1] - frequency[0])
    table = radial.astype(np.float32)
    over_bands(
        lambda y0, y1: _add_filtered_band(total, spectrum, ky, kx, np.float32(1 / step), table, y0, y1),
        len(ky),
        BAND_ROWS,
    )


@jit
def _add_filtered_band(
    total: Any, spectrum: Any, ky: Any, kx: Any, per_step: Any, table: Any, y0: int, y1: int
) -> None:
    last = len(table) - 1
    for y in range(y0, y1):
        for x in range(len(kx)):
            position = min(np.sqrt(ky[y] * ky[y] + kx[x] * kx[x]) * per_step, np.float32(last))
            i = min(int(position), last - 1)
            fraction = position - np.float32(i)
            total[y, x] += spectrum[y, x] * (table[i] + fraction * (table[i + 1] - table[i]))
