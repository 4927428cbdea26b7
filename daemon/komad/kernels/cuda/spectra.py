"""Filters over spectra; see `komad.kernels` for what the functions promise."""

from __future__ import annotations

import numpy as np

from komad.arrays import Array, beside
from komad.kernels.cuda import device


def add_filtered(
    total: Array, spectrum: Array, ky: Array, kx: Array, frequency: Array, radial: Array
) -> None:
    """See `komad.kernels.add_filtered`."""
    per_step = np.float32(1 / float(frequency[1] - frequency[0]))
    ky, kx, table = (beside(total, it, np.float32) for it in (ky, kx, radial))
    given = (total, beside(total, spectrum), ky, kx, table)
    device.launch(
        "spectra.cu", "add_filtered", total.size, *given, per_step, np.int32(len(table)), np.int32(len(kx))
    )
