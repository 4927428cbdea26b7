"""Sums and gradients in Fourier space; see `komad.kernels` for what the functions promise."""

from __future__ import annotations

from typing import Any

import numpy as np

from komad.arrays import Array, namespace, to_host
from komad.kernels.cuda import device

_I = np.int32


def aligned_sum(values: Array, ky: Array, kx: Array, shifts: Array) -> Array:
    """See `komad.kernels.aligned_sum`."""
    xp = namespace(values)
    n_windows, n_frames, my, mx = values.shape
    total = xp.empty((n_windows, my, mx), np.complex64)
    given = (xp.ascontiguousarray(values), *_waves(xp, ky, kx, shifts), total)
    device.launch("alignment.cu", "aligned_sum", total.size, *given, _I(n_frames), _I(my), _I(mx))
    return total


def alignment_gradient(values: Array, ky: Array, kx: Array, shifts: Array, pull: Array) -> Array:
    """See `komad.kernels.alignment_gradient`."""
    xp = namespace(values)
    n_windows, n_frames, my, mx = values.shape
    partial = xp.empty((n_windows, n_frames, my, 2), np.float64)
    waves, k = _waves(xp, ky, kx, shifts), (xp.asarray(ky), xp.asarray(kx))
    given = (xp.ascontiguousarray(values), *waves, *k, xp.ascontiguousarray(pull), partial)
    n_items = n_windows * n_frames * my
    device.launch("alignment.cu", "alignment_gradient", n_items, *given, _I(n_frames), _I(my), _I(mx))
    return to_host(partial.sum(axis=2))


def _waves(xp: Any, ky: Array, kx: Array, shifts: Array) -> tuple[Array, Array]:
    """The separable factors of exp(-2 pi i k . shift): (n_windows, n_frames, my) and (..., mx) complex64."""
    turns = (
        xp.exp(-2j * np.pi * xp.asarray(shifts)[:, :, axis, None] * xp.asarray(k).astype(np.float64))
        for axis, k in enumerate((ky, kx))
    )
    wave_y, wave_x = (xp.ascontiguousarray(turn.astype(np.complex64)) for turn in turns)
    return wave_y, wave_x
