"""Filters over spectra."""

from __future__ import annotations

from typing import Any

import numpy as np

from komad.arrays import portions
from komad.kernels.cpu.bands import BAND_ROWS, jit, over_bands

BYTES_PER_COEFFICIENT = 16
"""What a coefficient takes while it is laid on its ring."""


def ring_plan(index: Any, n_rings: int) -> Any:  # noqa: ARG001
    """See `komad.kernels.ring_plan`: the bin of each coefficient. Ring -1 becomes bin 0, which is dropped."""
    return index.ravel() + 1


def ring_sums(pictures: Any, plan: Any, n_rings: int) -> Any:
    """See `komad.kernels.ring_sums`."""
    flat, n_bins = pictures.reshape(-1, plan.size), n_rings + 1
    totals = np.empty((len(flat), n_bins))
    for some in portions(flat, len(flat), BYTES_PER_COEFFICIENT * plan.size):
        n = some.stop - some.start
        bins = np.arange(n)[:, None] * n_bins + plan
        totals[some] = np.bincount(bins.ravel(), flat[some].ravel(), n * n_bins).reshape(n, n_bins)
    return totals[:, 1:]


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
