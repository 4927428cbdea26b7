"""Sums and gradients in Fourier space, over many windows at a time: what alignment spends its time on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.kernels.cpu.bands import jit

_BAND_ROWS = 128


def aligned_sum(values: Any, ky: Any, kx: Any, shifts: Any) -> npt.NDArray[np.complex64]:
    """See `komad.kernels.aligned_sum`."""
    values = np.ascontiguousarray(values)
    n_windows, _, my, mx = values.shape
    total = np.empty((n_windows, my, mx), np.complex64)

    def work(item: tuple[int, int, int]) -> None:
        w, y0, y1 = item
        wave_y, wave_x = _waves(ky, kx, shifts[w])
        _aligned_band(values[w], wave_y, wave_x, y0, y1, total[w])

    list(thread_pool().map(work, _bands(n_windows, my)))
    return total


def alignment_gradient(values: Any, ky: Any, kx: Any, shifts: Any, pull: Any) -> npt.NDArray[np.float64]:
    """See `komad.kernels.alignment_gradient`."""
    values, pull = np.ascontiguousarray(values), np.ascontiguousarray(pull)
    n_windows, n_frames, my, _ = values.shape

    def work(item: tuple[int, int, int]) -> Any:
        w, y0, y1 = item
        wave_y, wave_x = _waves(ky, kx, shifts[w])
        return _gradient_band(values[w], wave_y, wave_x, ky, kx, pull[w], y0, y1)

    gradient = np.zeros((n_windows, n_frames, 2))
    items = list(_bands(n_windows, my))
    for (w, _, _), part in zip(items, thread_pool().map(work, items), strict=True):
        gradient[w] += part
    return gradient


def _bands(n_windows: int, my: int) -> Iterator[tuple[int, int, int]]:
    """Window, first and last row of each piece of work."""
    for w in range(n_windows):
        for y0 in range(0, my, _BAND_ROWS):
            yield w, y0, min(y0 + _BAND_ROWS, my)


def _waves(ky: Any, kx: Any, shifts: Any) -> tuple[Any, Any]:
    """The separable factors of exp(-2 pi i k . shift): (n_frames, my) and (n_frames, mx) complex64.

    All arrays are handed to the loops row by row: for another order in memory they would be compiled a second time.
    """
    turns = (
        np.exp(-2j * np.pi * shifts[:, axis, None] * k.astype(np.float64)) for axis, k in enumerate((ky, kx))
    )
    wave_y, wave_x = (np.ascontiguousarray(turn, np.complex64) for turn in turns)
    return wave_y, wave_x


@jit
def _aligned_band(values: Any, wave_y: Any, wave_x: Any, y0: int, y1: int, total: Any) -> None:
    n_frames, _, mx = values.shape
    for y in range(y0, y1):
        total[y, :] = 0
        for t in range(n_frames):
            up = wave_y[t, y]
            for x in range(mx):
                total[y, x] += values[t, y, x] * (up * wave_x[t, x])


@jit
def _gradient_band(
    values: Any, wave_y: Any, wave_x: Any, ky: Any, kx: Any, pull: Any, y0: int, y1: int
) -> Any:
    n_frames, _, mx = values.shape
    gradient = np.zeros((n_frames, 2))
    for y in range(y0, y1):
        for t in range(n_frames):
            up = wave_y[t, y]
            along_y, along_x = np.float32(0), np.float32(0)
            for x in range(mx):
                shifted = values[t, y, x] * (up * wave_x[t, x])
                # d|A|^2/ds = 2 Re(conj(A) (-2 pi i k) G) = 4 pi k Im(conj(A) G); a frame's own part is real.
                slope = pull[y, x].real * shifted.imag - pull[y, x].imag * shifted.real
                along_y += slope
                along_x += slope * kx[x]
            gradient[t, 0] += 4 * np.pi * ky[y] * along_y
            gradient[t, 1] += 4 * np.pi * along_x
    return gradient
