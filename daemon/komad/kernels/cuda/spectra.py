"""Filters over spectra; see `komad.kernels` for what the functions promise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, namespace, to_host
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


def ring_plan(index: Array, n_rings: int) -> Array:
    """See `komad.kernels.ring_plan`: where each ring begins (n_rings + 1,), then coefficients, ring after ring."""
    xp, ring = namespace(index), index.ravel()
    counts = xp.bincount(ring + 1, minlength=n_rings + 1)
    return xp.concatenate([xp.cumsum(counts), xp.argsort(ring)]).astype(np.int32)


def ring_sums(pictures: Array, plan: Array, n_rings: int) -> npt.NDArray[np.float64]:
    """See `komad.kernels.ring_sums`. Without atomic operations, whose order is another one each time."""
    flat = beside(pictures, pictures.reshape(len(pictures), -1), np.float32)
    partial = namespace(flat).empty((len(flat), n_rings, device.RING_LANES), np.float64)
    sizes = map(np.int32, (n_rings, flat.shape[1]))
    device.launch("spectra.cu", "ring_sums", partial.size, flat, plan, *sizes, partial)
    return to_host(partial.sum(axis=2))
