"""The fused pass: gain, outliers, displacement and accumulation, tile by tile over the raw counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from komad.arrays import Array
from komad.kernels.cpu.bands import FloatArray, jit, over_bands
from komad.kernels.cpu.filling import Records, is_replaced, replaced_value, spots_and_scales
from komad.kernels.cpu.vector import BLOCK, RUN, calibrate_run, filter_block
from komad.kernels.plan import SUB_PIXEL_STEPS, TAPS, TILE, Outliers, lanczos_weights

_WEIGHTS = lanczos_weights()
_AT_ONCE = 4
"""Frames that are added to the running sums together, so that these pass through the cache less often."""


class _Movie(NamedTuple):
    """What a pixel is made from; see `komad.kernels.correct`."""

    frames: Array
    gain: FloatArray
    offset: FloatArray
    row_start: npt.NDArray[np.int32]
    spots: Records
    scale: FloatArray
    draw: bool


class _Buffers(NamedTuple):
    """Working memory of one tile. Whole blocks are computed: beyond the tile's own size it holds what nobody reads."""

    source: FloatArray
    """Corrected pixels of one frame, with the halo that taps and displacements need."""
    across: FloatArray
    """Its rows after the x pass."""
    moved: FloatArray
    """(_AT_ONCE, pixels of a tile): resampled frames."""
    sums: FloatArray
    """(n_sums, pixels of a tile)."""
    missing: FloatArray
    """(n_sums, pixels of a tile): sum of the coefficients of frames that do not cover a pixel."""
    plain: FloatArray
    """(pixels of a tile): sum of the frames that do."""
    n_covering: npt.NDArray[np.int32]
    """(pixels of a tile): their number."""


def correct(
    frames: Array,
    gain: FloatArray,
    offset: FloatArray,
    outliers: Outliers,
    shifts: FloatArray,
    coefficients: FloatArray,
    first_frame: int,
) -> FloatArray:
    """See `komad.kernels.correct`."""
    frames, gain, offset = (np.ascontiguousarray(array) for array in (frames, gain, offset))
    ny, nx = gain.shape
    sums = np.empty((coefficients.shape[1], ny, nx), np.float32)
    shifts = np.ascontiguousarray(shifts, np.float32)
    coefficients = np.ascontiguousarray(coefficients, np.float32)
    used = np.flatnonzero(coefficients.any(axis=1))
    # The compiled loops do not check what they are given.
    assert shifts.shape == (len(frames), -(-ny // TILE[0]) + 1, -(-nx // TILE[1]) + 1, 2)
    assert np.isfinite(shifts[used]).all()
    spots, scale = spots_and_scales(outliers, gain, offset, first_frame)
    movie = _Movie(frames, gain, offset, outliers.row_start, spots, scale, outliers.draw)

    def work(y0: int, y1: int) -> None:
        buffers = _buffers(shifts[used, y0 // TILE[0] : y0 // TILE[0] + 2], len(sums), y1 - y0)
        _correct_band(movie, shifts, coefficients, used, _WEIGHTS, y0, y1, buffers, sums)

    over_bands(work, ny, TILE[0])
    return sums


def _buffers(nodes: FloatArray, n_sums: int, height: int) -> _Buffers:
    """Room for the tiles between two rows of nodes (n_used, 2, nodes_x, 2)."""
    rows = -(-height // BLOCK[0]) * BLOCK[0]
    corners = np.stack([nodes[:, :, :-1], nodes[:, :, 1:]])
    # Positions in a tile differ by this much; one for the taps of a position between two pixels, one for rounding.
    variation = np.ptp(corners, axis=(0, 2)).max(axis=(0, 1), initial=0)
    more_rows, more_columns = (int(np.ceil(v)) + 2 for v in variation)
    pixels = rows * TILE[1]
    source_rows = rows + TAPS + more_rows + BLOCK[0]
    return _Buffers(
        source=np.zeros((source_rows, TILE[1] + TAPS + more_columns + BLOCK[1]), np.float32),
        across=np.zeros((source_rows, TILE[1]), np.float32),
        moved=np.zeros((_AT_ONCE, pixels), np.float32),
        sums=np.empty((n_sums, pixels), np.float32),
        missing=np.empty((n_sums, pixels), np.float32),
        plain=np.empty(pixels, np.float32),
        n_covering=np.empty(pixels, np.int32),
    )


@jit
def _correct_band(
    movie: Any,
    shifts: Any,
    coefficients: Any,
    used: Any,
    weights: Any,
    y0: int,
    y1: int,
    buffers: Any,
    sums: Any,
) -> None:
    """All tiles between two rows of nodes."""
    # Taken apart here, once: in the inner loops each look into a tuple of arrays costs.
    frames, gain, offset = movie.frames, movie.gain, movie.offset
    row_start, spots, scale, draw = movie.row_start, movie.spots, movie.scale, movie.draw
    source, across, moved = buffers.source, buffers.across, buffers.moved
    ny, nx = gain.shape
    for tile_column in range((nx + TILE[1] - 1) // TILE[1]):
        x0 = tile_column * TILE[1]
        # First pixel, size in pixels, and distance between the nodes; the last node is at the last pixel.
        place = (y0, x0, y1 - y0, min(TILE[1], nx - x0), min(TILE[0], ny - 1 - y0), min(TILE[1], nx - 1 - x0))
        is_open = _count_covering(shifts, used, place, (ny, nx), buffers.n_covering)
        buffers.sums[:] = 0
        if is_open:
            buffers.missing[:] = 0
            buffers.plain[:] = 0
        group = 0
        for k in range(len(used)):
            t = used[k]
            from_y, from_x = _nodes(shifts, t, place)
            _load_tile(frames, gain, offset, row_start, spots, scale, draw, t, from_y, from_x, place, source)
            _resample(source, across, moved, from_y, from_x, place, weights, k - group)
            if is_open:
                _leave_out(coefficients, t, from_y, from_x, place, (ny, nx), buffers, k - group)
            if k + 1 - group == _AT_ONCE or k + 1 == len(used):
                _accumulate(coefficients, used[group : k + 1], buffers.moved, buffers.sums)
                group = k + 1
        if is_open:
            _fill_in(len(used), place, buffers)
        for r in range(len(sums)):
            for i in range(y1 - y0):
                sums[r, y0 + i, x0 : x0 + place[3]] = buffers.sums[r, i * TILE[1] : i * TILE[1] + place[3]]


@jit
def _nodes(shifts: Any, t: int, place: Any) -> Any:
    """How far from each corner of a tile its content comes, (y, x); each as upper and lower, left and right."""
    row, column = place[0] // TILE[0], place[1] // TILE[1]
    # Content moves by +shift, so the value at y comes from y - shift.
    return (
        (
            -np.float64(shifts[t, row, column, 0]),
            -np.float64(shifts[t, row, column + 1, 0]),
            -np.float64(shifts[t, row + 1, column, 0]),
            -np.float64(shifts[t, row + 1, column + 1, 0]),
        ),
        (
            -np.float64(shifts[t, row, column, 1]),
            -np.float64(shifts[t, row, column + 1, 1]),
            -np.float64(shifts[t, row + 1, column, 1]),
            -np.float64(shifts[t, row + 1, column + 1, 1]),
        ),
    )


@jit
def _between(nodes: Any, v: float, u: float) -> float:
    """Bilinear between nodes: v goes from row to row, u from column to column, both from 0 to 1."""
    left = nodes[0] + v * (nodes[2] - nodes[0])
    right = nodes[1] + v * (nodes[3] - nodes[1])
    return left + u * (right - left)


@jit
def _span(nodes: Any) -> Any:
    """The positions in a tile: the whole pixel before all of them, and the last one in sub-pixel steps from it."""
    whole = int(np.floor(min(nodes)))
    return whole, int((max(nodes) - whole) * SUB_PIXEL_STEPS + 0.5)


@jit
def _reflect(index: int, n: int) -> int:
    """Index into [0, n) of a picture mirrored at its edges: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    index %= 2 * n
    return index if index < n else 2 * n - 1 - index


@jit
def _load_tile(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    spots: Any,
    scale: Any,
    draw: bool,
    t: int,
    from_y: Any,
    from_x: Any,
    place: Any,
    source: Any,
) -> None:
    """Fill `source` with the corrected pixels of frame `t` of which a tile is made, reflected at the frame's edges."""
    ny, nx = gain.shape
    whole_y, last_y = _span(from_y)
    whole_x, last_x = _span(from_x)
    top, left = place[0] + whole_y - 2, place[1] + whole_x - 2
    width = place[3] + TAPS - 1 + last_x // SUB_PIXEL_STEPS
    # Columns from `first` to `last` lie inside the frame and are loaded in runs, if there is room for one.
    first = min(max(-left, 0), width)
    last = max(min(nx - left, width), first)
    if last - first < RUN:
        last = first
    n_rows = place[2] + TAPS - 1 + last_y // SUB_PIXEL_STEPS
    for i in range(n_rows):
        y = _reflect(top + i, ny)
        row, into = y * nx + left, i * source.shape[1]
        start = t * ny * nx + row
        for j in range(first, last, RUN):
            j = min(j, last - RUN)  # noqa: PLW2901 - the last run overlaps the one before
            calibrate_run(frames, start + j, gain, offset, row + j, source, into + j)
        begin, end = row_start[y], row_start[y + 1]
        for j in range(first):
            x = _reflect(left + j, nx)
            source[i, j] = _pixel(frames, gain, offset, spots, scale, draw, begin, end, t, y, x)
        for j in range(last, width):
            x = _reflect(left + j, nx)
            source[i, j] = _pixel(frames, gain, offset, spots, scale, draw, begin, end, t, y, x)
    # When the rows around are in the cache.
    for i in range(n_rows):
        y = _reflect(top + i, ny)
        end = row_start[y + 1]
        for k in range(_first_from(spots, row_start[y], end, left + first), end):
            if spots[k].x >= left + last:
                break
            if is_replaced(spots, k, t):
                value = replaced_value(frames, gain, offset, spots, scale, draw, k, t, y)
                source[i, spots[k].x - left] = value


@jit
def _pixel(
    frames: Any,
    gain: Any,
    offset: Any,
    spots: Any,
    scale: Any,
    draw: bool,
    begin: int,
    end: int,
    t: int,
    y: int,
    x: int,
) -> Any:
    """One corrected pixel of a row whose outliers are those from `begin` to `end`."""
    for k in range(_first_from(spots, begin, end, x), end):
        if spots[k].x > x:
            break
        if is_replaced(spots, k, t):
            return replaced_value(frames, gain, offset, spots, scale, draw, k, t, y)
    return np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]


@jit
def _first_from(spots: Any, low: int, high: int, x: int) -> int:
    """The first of the outliers from `low` to `high`, all of one row, that is not left of `x`."""
    while low < high:
        middle = (low + high) // 2
        if spots[middle].x < x:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _resample(
    source: Any, across: Any, moved: Any, from_y: Any, from_x: Any, place: Any, weights: Any, slot: int
) -> None:
    """Separable interpolation of the source into `moved[slot]`, one sub-pixel position for each BLOCK.

    The x pass goes over rows of the source, displaced by what holds in the row of the tile to which they go.
    """
    _, _, height, width, step_y, step_x = place
    whole_y, last_y = _span(from_y)
    whole_x, last_x = _span(from_x)
    per_row, per_column = 1 / max(1, step_y), 1 / max(1, step_x)
    middle_y, middle_x = 0.5 * (BLOCK[0] - 1), 0.5 * (BLOCK[1] - 1)
    # Row of the tile to which row 0 of the source goes, at the left and at the right end.
    left_y = whole_y - 2 - _between(from_y, 0.5, 0.0)
    right_y = whole_y - 2 - _between(from_y, 0.5, 1.0)
    pitch = source.shape[1]
    for i in range(0, height + TAPS - 1 + last_y // SUB_PIXEL_STEPS, BLOCK[0]):
        left = _between(from_x, min(max((left_y + i + middle_y) * per_row, 0.0), 1.0), 0.0) - whole_x
        right = _between(from_x, min(max((right_y + i + middle_y) * per_row, 0.0), 1.0), 1.0) - whole_x
        slope = (right - left) * per_column
        for x in range(0, width, BLOCK[1]):
            step = min(max(int((left + slope * (x + middle_x)) * SUB_PIXEL_STEPS + 0.5), 0), last_x)
            start = i * pitch + x + step // SUB_PIXEL_STEPS
            tap = step % SUB_PIXEL_STEPS * TAPS
            filter_block(source, start, pitch, 1, weights, tap, across, i * TILE[1] + x, TILE[1])
    into = slot * moved.shape[1]
    for i in range(0, height, BLOCK[0]):
        v = min((i + middle_y) * per_row, 1.0)
        left = _between(from_y, v, 0.0) - whole_y
        slope = (_between(from_y, v, 1.0) - whole_y - left) * per_column
        for x in range(0, width, BLOCK[1]):
            step = min(max(int((left + slope * (x + middle_x)) * SUB_PIXEL_STEPS + 0.5), 0), last_y)
            start = (i + step // SUB_PIXEL_STEPS) * TILE[1] + x
            tap = step % SUB_PIXEL_STEPS * TAPS
            at = into + i * TILE[1] + x
            filter_block(across, start, TILE[1], TILE[1], weights, tap, moved, at, TILE[1])


@jit
def _accumulate(coefficients: Any, group: Any, moved: Any, sums: Any) -> None:
    """sums[r] += coefficients[t, r] * moved frame t, for the frames t of `group`."""
    for r in range(len(sums)):
        if len(group) == _AT_ONCE:
            a, b = coefficients[group[0], r], coefficients[group[1], r]
            c, d = coefficients[group[2], r], coefficients[group[3], r]
            for k in range(sums.shape[1]):
                sums[r, k] += a * moved[0, k] + b * moved[1, k] + c * moved[2, k] + d * moved[3, k]
        else:
            for i in range(len(group)):
                a = coefficients[group[i], r]
                for k in range(sums.shape[1]):
                    sums[r, k] += a * moved[i, k]


@jit
def _is_inside(y: float, x: float, shape: Any) -> bool:
    """Whether a position lies within the outer edges of a frame's pixels."""
    return -0.5 <= y < shape[0] - 0.5 and -0.5 <= x < shape[1] - 0.5


@jit
def _covers(from_y: Any, from_x: Any, place: Any, shape: Any) -> bool:
    """Whether a whole tile comes from inside a frame: its corners do, where positions are extreme."""
    y0, x0, _, _, step_y, step_x = place
    for corner in range(4):
        y = y0 + corner // 2 * step_y + from_y[corner]
        x = x0 + corner % 2 * step_x + from_x[corner]
        if not _is_inside(y, x, shape):
            return False
    return True


@jit
def _position(from_y: Any, from_x: Any, place: Any, i: int, j: int) -> Any:
    """Where the content of pixel (i, j) of a tile comes from."""
    v, u = i / max(1, place[4]), j / max(1, place[5])
    return place[0] + i + _between(from_y, v, u), place[1] + j + _between(from_x, v, u)


@jit
def _count_covering(shifts: Any, used: Any, place: Any, shape: Any, n_covering: Any) -> bool:
    """Whether any frame leaves a pixel of the tile uncovered; if so, count for each pixel how many cover it."""
    n_covering[:] = len(used)
    is_open = False
    for t in used:
        from_y, from_x = _nodes(shifts, t, place)
        if not _covers(from_y, from_x, place, shape):
            is_open = True
            for i in range(place[2]):
                for j in range(place[3]):
                    y, x = _position(from_y, from_x, place, i, j)
                    n_covering[i * TILE[1] + j] -= not _is_inside(y, x, shape)
    return is_open


@jit
def _leave_out(
    coefficients: Any, t: int, from_y: Any, from_x: Any, place: Any, shape: Any, buffers: Any, slot: int
) -> None:
    """Take out of `moved[slot]` what frame `t` does not cover but others do, and note what is missing there."""
    moved, missing, n_covering = buffers.moved, buffers.missing, buffers.n_covering
    if not _covers(from_y, from_x, place, shape):
        for i in range(place[2]):
            for j in range(place[3]):
                k = i * TILE[1] + j
                y, x = _position(from_y, from_x, place, i, j)
                if n_covering[k] > 0 and not _is_inside(y, x, shape):
                    moved[slot, k] = 0
                    for r in range(coefficients.shape[1]):
                        missing[r, k] += coefficients[t, r]
    plain = buffers.plain
    for k in range(len(plain)):
        plain[k] += moved[slot, k]


@jit
def _fill_in(n_used: int, place: Any, buffers: Any) -> None:
    """Put the mean of the frames that cover a pixel in place of those that do not.

    Where fewer than half cover it, the mean of the few is drawn to that of the tile: one frame repeated n times would
    be a speckle of sqrt(n) times the noise around it.
    """
    sums, missing, plain, n_covering = buffers.sums, buffers.missing, buffers.plain, buffers.n_covering
    total, n_values = 0.0, 0
    for i in range(place[2]):
        for k in range(i * TILE[1], i * TILE[1] + place[3]):
            # A pixel that no frame covers has all frames' reflections in it.
            if n_covering[k] > 0:
                total += plain[k]
                n_values += n_covering[k]
    level = np.float32(total / max(1, n_values))
    for k in range(len(n_covering)):
        if 0 < n_covering[k] < n_used:
            trust = min(np.float32(1), np.float32(n_covering[k] / (n_used - n_covering[k])))
            value = level + trust * (plain[k] / np.float32(n_covering[k]) - level)
            for r in range(len(sums)):
                sums[r, k] += missing[r, k] * value
