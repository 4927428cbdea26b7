"""Filters over spectra."""

from __future__ import annotations

from typing import Any

import numpy as np

from komad.kernels.cpu.bands import BAND_ROWS, jit, over_bands


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
