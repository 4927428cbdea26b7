"""Sums over the raw counts, and the small stack on which motion is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array
from komad.kernels.cpu.bands import BAND_ROWS, FloatArray, jit, over_bands
from komad.kernels.plan import N_DONORS, Outliers


def sum_frames(frames: Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """See `komad.kernels.sum_frames`."""
    ny, nx = frames.shape[1:]
    # 32 bits hold the sum of 65,536 frames of 16 bits.
    total = np.empty((ny, nx), {"u": np.uint32, "i": np.int32}.get(frames.dtype.kind, np.float64))
    bands = over_bands(lambda y0, y1: _sum_band(frames, y0, y1, total), ny, BAND_ROWS)
    return total, np.sum(bands, axis=0) / (ny * nx)


@jit
def _sum_band(frames: Any, y0: int, y1: int, total: Any) -> Any:
    n_frames, _, nx = frames.shape
    frame_sums = np.zeros(n_frames)
    for y in range(y0, y1):
        total[y, :] = 0
        for t in range(n_frames):
            # Each frame's row sum is kept in the type of `total`: exact for counts.
            row_sum = total[y, 0] * 0
            for x in range(nx):
                value = frames[t, y, x]
                total[y, x] += value
                row_sum += value
            frame_sums[t] += row_sum
    return frame_sums


def reduce(
    frames: Array, gain: FloatArray, offset: FloatArray, outliers: Outliers, factor: int
) -> FloatArray:
    """See `komad.kernels.reduce`."""
    n_frames, ny, nx = frames.shape
    binned = np.empty((n_frames, ny // factor, nx // factor), np.float32)

    def work(start: int, stop: int) -> None:
        _reduce_band(
            frames,
            gain,
            offset,
            outliers.row_start,
            outliers.column,
            outliers.donors,
            factor,
            start,
            stop,
            binned,
        )

    over_bands(work, ny // factor, max(1, BAND_ROWS // factor))
    return binned


@jit
def donor_value(frames: Any, gain: Any, offset: Any, donors: Any, outlier: int, t: int) -> Any:
    """Corrected value of one of the outlier's good neighbours, another one in each frame."""
    nx = gain.shape[1]
    # Knuth's multiplicative hash over outlier and frame: cheap, and the same on every run.
    pick = ((outlier * 2654435761 + t * 40503) >> 7) % N_DONORS
    y, x = divmod(donors[outlier, pick], nx)
    return np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]


@jit
def _reduce_band(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    column: Any,
    donors: Any,
    factor: int,
    y0: int,
    y1: int,
    binned: Any,
) -> None:
    n_frames, nx = frames.shape[0], binned.shape[2]
    line = np.empty(nx * factor, np.float32)
    before = np.empty(nx * factor, np.float32)
    for yb in range(y0, y1):
        # Frames inside, rows outside: the gain of these rows stays in the cache.
        for t in range(n_frames):
            line[:] = 0
            for y in range(yb * factor, (yb + 1) * factor):
                # An outlier's own value may be no number, so it is put back and not subtracted.
                for j in range(row_start[y], row_start[y + 1]):
                    if column[j] < nx * factor:
                        before[column[j]] = line[column[j]]
                for x in range(nx * factor):
                    line[x] += np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]
                for j in range(row_start[y], row_start[y + 1]):
                    x = column[j]
                    if x < nx * factor:
                        line[x] = before[x] + donor_value(frames, gain, offset, donors, j, t)
            for xb in range(nx):
                value = np.float32(0)
                for k in range(factor):
                    value += line[xb * factor + k]
                binned[t, yb, xb] = value
