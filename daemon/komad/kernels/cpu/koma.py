"""The running total of stack sums in whole numbers, and the pattern that it shares with a movie."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.kernels.cpu.bands import BAND_ROWS, FloatArray, exact, jit, over_bands
from komad.kernels.stack import BadPixels, RelativeStack

SAMPLED_BANDS = 32
"""Bands that are enough to see how much of a pattern a movie shows: a million pixels of a frame 4096 wide."""
FILTER_ROWS = 32


def add_fixed_point(
    total: npt.NDArray[np.int32], stack: RelativeStack, *, unit: int, limit: int, sign: int
) -> None:
    """See `komad.kernels.add_fixed_point`."""
    scale, offset_scale = np.float32(unit * stack.scale), np.float32(unit * stack.offset_scale)
    bad = stack.bad

    def work(y0: int, y1: int) -> None:
        _add_band(
            stack.total,
            stack.gain,
            stack.offset,
            scale,
            offset_scale,
            bad.row_start,
            bad.column,
            bad.keep,
            np.int32(unit),
            np.float32(limit),
            np.int32(sign),
            y0,
            y1,
            total,
        )

    over_bands(work, len(total), BAND_ROWS)


@exact
def _add_band(
    raw: Any,
    gain: Any,
    offset: Any,
    scale: Any,
    offset_scale: Any,
    row_start: Any,
    column: Any,
    keep: Any,
    unit: Any,
    limit: Any,
    sign: Any,
    y0: int,
    y1: int,
    total: Any,
) -> None:
    ny, nx = raw.shape
    for y in range(y0, y1):
        for x in range(nx):
            value = np.float32(raw[y, x]) * gain[y, x] * scale + offset[y, x] * offset_scale
            total[y, x] += sign * _whole(value, limit)
        for j in range(row_start[y], row_start[y + 1]):
            x = column[j]
            own = _whole(np.float32(raw[y, x]) * gain[y, x] * scale + offset[y, x] * offset_scale, limit)
            fill, n_good = np.float32(0), np.float32(0)
            for yy in range(max(y - 2, 0), min(y + 3, ny)):
                for xx in range(max(x - 2, 0), min(x + 3, nx)):
                    if not _is_bad(row_start, column, yy, xx):
                        near = np.float32(raw[yy, xx]) * gain[yy, xx] * scale
                        fill += np.float32(_whole(near + offset[yy, xx] * offset_scale, limit))
                        n_good += np.float32(1)
            fill = fill / n_good if n_good > 0 else np.float32(unit)
            mixed = keep[j] * np.float32(own) + (np.float32(1) - keep[j]) * fill
            total[y, x] += sign * (_whole(mixed, limit) - own)


@exact
def _whole(value: Any, limit: Any) -> Any:
    """Nearest whole number within the limits; what is no number becomes the lower one."""
    # Not max() and min(): of what is no number, they may give what is no number.
    value = value if value > -limit else -limit  # noqa: FURB136
    value = value if value < limit else limit  # noqa: FURB136
    return np.int32(np.floor(value + np.float32(0.5)))


@exact
def _is_bad(row_start: Any, column: Any, y: int, x: int) -> bool:
    low, high = row_start[y], row_start[y + 1]
    while low < high:
        middle = (low + high) // 2
        if column[middle] < x:
            low = middle + 1
        else:
            high = middle
    return bool(low < row_start[y + 1] and column[low] == x)


def line_means(
    total: npt.NDArray[np.int32], inverse: float, own: RelativeStack, n_segments: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """See `komad.kernels.line_means`."""
    ny, nx = total.shape
    along_y, along_x = n_segments
    height, width = -(-ny // along_y), -(-nx // along_x)
    columns = np.zeros((3, along_y, nx), np.float32)
    rows = np.zeros((3, ny, along_x), np.float32)

    def work(y0: int, y1: int) -> None:
        _line_band(
            total,
            np.float32(inverse),
            *_arguments(own),
            width,
            y0,
            y1,
            columns[:, y0 // height],
            rows,
        )

    over_bands(work, ny, height)
    return columns[:2] / np.maximum(columns[2], 1), rows[:2] / np.maximum(rows[2], 1)


def _arguments(stack: RelativeStack) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """A stack sum as the loops below take it: raw, gain, offset, the two scales, and where its bad pixels are."""
    scales = np.float32(stack.scale), np.float32(stack.offset_scale)
    return stack.total, stack.gain, stack.offset, *scales, stack.bad.row_start, stack.bad.column


@jit
def _line_band(
    total: Any,
    inverse: Any,
    raw: Any,
    gain: Any,
    offset: Any,
    scale: Any,
    offset_scale: Any,
    row_start: Any,
    column: Any,
    width: int,
    y0: int,
    y1: int,
    columns: Any,
    rows: Any,
) -> None:
    nx = raw.shape[1]
    shared, own, good = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32)
    one = np.float32(1)
    for y in range(y0, y1):
        for x in range(nx):
            shared[x] = np.float32(total[y, x]) * inverse - one
            own[x] = np.float32(raw[y, x]) * gain[y, x] * scale + offset[y, x] * offset_scale - one
            good[x] = one
        for j in range(row_start[y], row_start[y + 1]):
            shared[column[j]] = own[column[j]] = good[column[j]] = np.float32(0)
        for x in range(nx):
            columns[0, x] += shared[x]
            columns[1, x] += own[x]
            columns[2, x] += good[x]
        for segment in range(rows.shape[2]):
            a, b, n = np.float32(0), np.float32(0), np.float32(0)
            for x in range(segment * width, min((segment + 1) * width, nx)):
                a += shared[x]
                b += own[x]
                n += good[x]
            rows[0, y, segment], rows[1, y, segment], rows[2, y, segment] = a, b, n


def pixel_moments(
    total: npt.NDArray[np.int32],
    inverse: float,
    own: RelativeStack,
    lines: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    taps: FloatArray,
) -> npt.NDArray[np.float64]:
    """See `komad.kernels.pixel_moments`."""
    ny = len(total)
    n_bands = -(-ny // FILTER_ROWS)
    step = max(1, n_bands // SAMPLED_BANDS)

    def work(band: int, _: int) -> Any:
        y0 = band * FILTER_ROWS
        return _moments_band(
            total,
            np.float32(inverse),
            *_arguments(own),
            *lines,
            taps,
            y0,
            min(y0 + FILTER_ROWS, ny),
        )

    return np.asarray(np.sum(over_bands(work, n_bands, step), axis=0))


@jit
def _moments_band(
    total: Any,
    inverse: Any,
    raw: Any,
    gain: Any,
    offset: Any,
    scale: Any,
    offset_scale: Any,
    row_start: Any,
    column: Any,
    shared_rows: Any,
    shared_columns: Any,
    own_rows: Any,
    own_columns: Any,
    taps: Any,
    y0: int,
    y1: int,
) -> Any:
    ny, nx = raw.shape
    reach = len(taps) // 2
    shared = np.empty((y1 - y0 + 2 * reach, nx + 2 * reach), np.float32)
    own = np.empty(shared.shape, np.float32)
    one = np.float32(1)
    for i in range(len(shared)):
        y = _mirrored(y0 + i - reach, ny)
        for x in range(nx):
            shared[i, x + reach] = (
                np.float32(total[y, x]) * inverse - one - shared_rows[y] - shared_columns[x]
            )
            value = np.float32(raw[y, x]) * gain[y, x] * scale + offset[y, x] * offset_scale
            own[i, x + reach] = value - one - own_rows[y] - own_columns[x]
        for j in range(row_start[y], row_start[y + 1]):
            own[i, column[j] + reach] = np.float32(0)
        _pad(shared[i], reach)
        _pad(own[i], reach)
    _take_smooth_off(shared, taps)
    _take_smooth_off(own, taps)
    moments = np.zeros(4)
    for y in range(y0, y1):
        a, b = shared[y - y0], own[y - y0]
        for j in range(row_start[y], row_start[y + 1]):
            a[column[j]] = b[column[j]] = np.float32(0)
        aa, ab, bb = np.float32(0), np.float32(0), np.float32(0)
        for x in range(nx):
            aa += a[x] * a[x]
            ab += a[x] * b[x]
            bb += b[x] * b[x]
        moments[0] += aa
        moments[1] += ab
        moments[2] += bb
        moments[3] += nx - (row_start[y + 1] - row_start[y])
    return moments


def shared_pattern(
    total: npt.NDArray[np.int32],
    inverse: float,
    bad: BadPixels,
    lines: tuple[FloatArray, FloatArray],
    taps: FloatArray,
    *,
    scales: tuple[float, float, float],
) -> FloatArray:
    """See `komad.kernels.shared_pattern`."""
    relative = np.empty(total.shape, np.float32)
    pixels, of_rows, of_columns = scales
    shared_rows, shared_columns = lines
    added_rows, added_columns = np.float32(of_rows) * shared_rows, np.float32(of_columns) * shared_columns

    def work(y0: int, y1: int) -> None:
        _pattern_band(
            total,
            np.float32(inverse),
            bad.row_start,
            bad.column,
            shared_rows,
            shared_columns,
            added_rows,
            added_columns,
            np.float32(pixels),
            taps,
            y0,
            y1,
            relative,
        )

    over_bands(work, len(total), FILTER_ROWS)
    return relative


@jit
def _pattern_band(
    total: Any,
    inverse: Any,
    row_start: Any,
    column: Any,
    shared_rows: Any,
    shared_columns: Any,
    added_rows: Any,
    added_columns: Any,
    pixels: Any,
    taps: Any,
    y0: int,
    y1: int,
    relative: Any,
) -> None:
    ny, nx = total.shape
    reach = len(taps) // 2
    shared = np.empty((y1 - y0 + 2 * reach, nx + 2 * reach), np.float32)
    for i in range(len(shared)):
        y = _mirrored(y0 + i - reach, ny)
        level = np.float32(1) + shared_rows[y]
        for x in range(nx):
            shared[i, x + reach] = np.float32(total[y, x]) * inverse - level - shared_columns[x]
        _pad(shared[i], reach)
    _take_smooth_off(shared, taps)
    for y in range(y0, y1):
        for x in range(nx):
            relative[y, x] = pixels * shared[y - y0, x] + added_rows[y] + added_columns[x]
        for j in range(row_start[y], row_start[y + 1]):
            relative[y, column[j]] = np.float32(0)


@jit
def _mirrored(index: int, length: int) -> int:
    """The index itself, or its mirror image about the first or last one."""
    if index < 0:
        index = -index
    if index >= length:
        index = 2 * (length - 1) - index
    return min(max(index, 0), length - 1)


@jit
def _pad(line: Any, reach: int) -> None:
    """Fill the first and last `reach` values with the mirror image of the others, in place."""
    nx = len(line) - 2 * reach
    for i in range(reach):
        line[i] = line[reach + _mirrored(i - reach, nx)]
        line[reach + nx + i] = line[reach + _mirrored(nx + i, nx)]


@jit
def _take_smooth_off(band: Any, taps: Any) -> None:
    """Subtract what `taps` make of the band along both axes; the rest lies at [0, 0], without the margins, in place."""
    n = len(taps)
    reach = n // 2
    ny, nx = band.shape[0] - 2 * reach, band.shape[1] - 2 * reach
    smooth = np.empty((band.shape[0], nx), np.float32)
    for y in range(len(band)):
        for x in range(nx):
            value = taps[reach] * band[y, x + reach]
            for k in range(reach):
                value += taps[k] * (band[y, x + k] + band[y, x + n - 1 - k])
            smooth[y, x] = value
    for y in range(ny):
        for x in range(nx):
            value = taps[reach] * smooth[y + reach, x]
            for k in range(reach):
                value += taps[k] * (smooth[y + k, x] + smooth[y + n - 1 - k, x])
            # Row y + reach is read for the last time here: only rows above y + reach are written.
            band[y, x] = band[y + reach, x + reach] - value


def block_moments(values: FloatArray, block: int) -> npt.NDArray[np.float64]:
    """See `komad.kernels.block_moments`."""
    bands = over_bands(lambda y0, y1: _block_moments_band(values, block, y0, y1), values.shape[1], block)
    return np.asarray(np.sum(bands, axis=0))


@jit
def _block_moments_band(values: Any, block: int, y0: int, y1: int) -> Any:
    n_frames, _, nx = values.shape
    moments = np.zeros(n_frames + 1)
    summed = np.zeros((y1 - y0, nx), np.float32)
    level = np.empty(nx, np.float32)
    for t in range(n_frames):
        level[:] = 0
        for y in range(y0, y1):
            for x in range(nx):
                level[x] += values[t, y, x]
        for x0 in range(0, nx, block):
            x1 = min(x0 + block, nx)
            level[x0:x1] = level[x0:x1].sum() / np.float32((y1 - y0) * (x1 - x0))
        for y in range(y0, y1):
            square = np.float32(0)
            for x in range(nx):
                value = values[t, y, x] - level[x]
                square += value * value
                summed[y - y0, x] += value
            moments[t] += square
    # Every frame's mean was taken off, so that of the sum is zero.
    for y in range(y1 - y0):
        square = np.float32(0)
        for x in range(nx):
            square += summed[y, x] * summed[y, x]
        moments[n_frames] += square
    return moments
