"""Sums over the raw counts, and the small stack on which motion is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from komad.arrays import Array
from komad.kernels.cpu.bands import BAND_ROWS, FloatArray, jit, over_bands
from komad.kernels.cpu.filling import is_replaced, replaced_value, spots_and_scales
from komad.kernels.plan import FrameSums, Outliers


def sum_frames(frames: Array) -> FrameSums:
    """See `komad.kernels.sum_frames`."""
    ny, nx = frames.shape[1:]
    # 32 bits hold the sum of 65,536 frames of 16 bits.
    total = np.empty((ny, nx), {"u": np.uint32, "i": np.int32}.get(frames.dtype.kind, np.float64))
    largest = np.empty((ny, nx), frames.dtype)
    bands = over_bands(lambda y0, y1: _sum_band(frames, y0, y1, total, largest), ny, BAND_ROWS)
    return FrameSums(total, np.sum(bands, axis=0) / (ny * nx), largest)


@jit
def _sum_band(frames: Any, y0: int, y1: int, total: Any, largest: Any) -> Any:
    n_frames, _, nx = frames.shape
    frame_sums = np.zeros(n_frames)
    for y in range(y0, y1):
        total[y, :] = 0
        largest[y, :] = frames[0, y, :]
        for t in range(n_frames):
            # Each frame's row sum is kept in the type of `total`: exact for counts.
            row_sum = total[y, 0] * 0
            for x in range(nx):
                value = frames[t, y, x]
                total[y, x] += value
                row_sum += value
            for x in range(nx):
                largest[y, x] = max(largest[y, x], frames[t, y, x])
            frame_sums[t] += row_sum
    return frame_sums


def reduce(
    frames: Array, gain: FloatArray, offset: FloatArray, outliers: Outliers, factor: int, first_frame: int
) -> FloatArray:
    """See `komad.kernels.reduce`."""
    frames, gain, offset = (np.ascontiguousarray(array) for array in (frames, gain, offset))
    n_frames, ny, nx = frames.shape
    binned = np.empty((n_frames, ny // factor, nx // factor), np.float32)
    spots, scale = spots_and_scales(outliers, gain, offset, first_frame)

    def work(start: int, stop: int) -> None:
        _reduce_band(
            frames, gain, offset, outliers.row_start, spots, scale, outliers.draw, factor, start, stop, binned
        )

    over_bands(work, ny // factor, max(1, BAND_ROWS // factor))
    return binned


@jit
def _reduce_band(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    spots: Any,
    scale: Any,
    draw: bool,
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
            top, bottom = yb * factor, (yb + 1) * factor
            _add_rows(frames, gain, offset, row_start, spots, scale, draw, t, top, bottom, line, before)
            for xb in range(nx):
                value = np.float32(0)
                for k in range(factor):
                    value += line[xb * factor + k]
                binned[t, yb, xb] = value


@jit
def _add_rows(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    spots: Any,
    scale: Any,
    draw: bool,
    t: int,
    top: int,
    bottom: int,
    line: Any,
    before: Any,
) -> None:
    """Sum of some corrected rows of frame `t` into `line`; `before` is room for as much."""
    nx = len(line)
    line[:] = 0
    for y in range(top, bottom):
        # An outlier's own value may be no number, so what was there is put back and not subtracted.
        for k in range(row_start[y], row_start[y + 1]):
            if spots[k].x < nx:
                before[spots[k].x] = line[spots[k].x]
        for x in range(nx):
            line[x] += np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]
        for k in range(row_start[y], row_start[y + 1]):
            if spots[k].x < nx and is_replaced(spots, k, t):
                line[spots[k].x] = before[spots[k].x]
    # When the rows around are in the cache.
    for y in range(top, bottom):
        for k in range(row_start[y], row_start[y + 1]):
            if spots[k].x < nx and is_replaced(spots, k, t):
                line[spots[k].x] += replaced_value(frames, gain, offset, spots, scale, draw, k, t, y)
