"""Sums and gradients in Fourier space; see `komad.kernels` for what the functions promise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, namespace, to_host
from komad.kernels.cuda import device

_I = np.int32


def aligned_sum(values: Array, ky: Array, kx: Array, shifts: Array) -> Array:
    """See `komad.kernels.aligned_sum`."""
    n_windows, n_frames, my, mx = values.shape
    total = namespace(values).empty((n_windows, my, mx), np.complex64)
    *_, waves = _waves(values, ky, kx, shifts)
    given = (beside(values, values), *waves, total)
    device.launch("alignment.cu", "aligned_sum", total.size, *given, _I(n_frames), _I(my), _I(mx))
    return total


def alignment_gradient(
    values: Array, ky: Array, kx: Array, shifts: Array, pull: Array
) -> npt.NDArray[np.float64]:
    """See `komad.kernels.alignment_gradient`."""
    n_windows, n_frames, my, mx = values.shape
    n_bands = -(-my // device.BAND_ROWS)
    partial = namespace(values).empty((2, n_windows, n_frames, n_bands * device.LANES), np.float32)
    *k, waves = _waves(values, ky, kx, shifts)
    given = (beside(values, values), *waves, *k, beside(values, pull), partial)
    sizes = map(_I, (n_frames, n_bands, my, mx))
    device.launch("alignment.cu", "alignment_gradient", partial.size // 2, *given, *sizes)
    gradient = to_host(partial.sum(axis=3, dtype=np.float64))
    return np.ascontiguousarray(4 * np.pi * np.moveaxis(gradient, 0, 2))


def _waves(values: Array, ky: Array, kx: Array, shifts: Array) -> tuple[Array, Array, list[Array]]:
    """`ky`, `kx`, and the factors of exp(-2 pi i k . shift): (n_windows, n_frames, my) and (..., mx) complex64."""
    given = (np.asarray(shifts, np.float64), np.asarray(ky, np.float32), np.asarray(kx, np.float32))
    there, *k = device.together(values, *given)
    found = []
    for axis, along in enumerate(k):
        wave = namespace(values).empty((*values.shape[:2], len(along)), np.complex64)
        device.launch("alignment.cu", "waves", wave.size, there, along, wave, _I(axis), _I(len(along)))
        found.append(wave)
    return k[0], k[1], found
