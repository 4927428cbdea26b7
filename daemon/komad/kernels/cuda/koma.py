"""The running total of stack sums in whole numbers, and the pattern that it shares with a movie.

See `komad.kernels` for what the functions promise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, namespace, to_host
from komad.kernels.cpu.koma import FILTER_ROWS, SAMPLED_BANDS
from komad.kernels.cuda import device
from komad.kernels.stack import BadPixels, RelativeStack

_I, _F = np.int32, np.float32


def add_fixed_point(total: Array, stack: RelativeStack, *, unit: int, limit: int, sign: int) -> None:
    """See `komad.kernels.add_fixed_point`."""
    bad, (ny, nx) = stack.bad, total.shape
    own = _own(total, stack, unit)
    given = (total, *own, _F(limit), _I(sign))
    launch = _launcher(stack)
    launch("add_whole", total.size, *given)
    where = (beside(total, it) for it in (_row_of(bad), bad.column, bad.keep))
    launch("mix_bad", len(bad.column), *given, _I(unit), *where, _plane(total, bad), _I(ny), _I(nx))


def line_means(
    total: Array, inverse: float, own: RelativeStack, n_segments: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """See `komad.kernels.line_means`."""
    xp, (ny, nx) = namespace(total), total.shape
    along_y, along_x = n_segments
    height, width = -(-ny // along_y), -(-nx // along_x)
    columns = xp.empty((3, along_y, nx), np.float32)
    rows = xp.empty((3, ny, along_x, device.LANES), np.float32)
    given = (total, _F(inverse), *_own(total, own), _plane(total, own.bad))
    launch = _launcher(own)
    launch("column_sums", along_y * nx, *given, _I(height), _I(ny), _I(nx), columns)
    launch("row_sums", rows[0].size, *given, _I(along_x), _I(width), _I(nx), rows)
    of_columns, of_rows = to_host(columns), to_host(rows.sum(axis=3))
    return of_columns[:2] / np.maximum(of_columns[2], 1), of_rows[:2] / np.maximum(of_rows[2], 1)


def pixel_moments(
    total: Array,
    inverse: float,
    own: RelativeStack,
    lines: tuple[Array, Array, Array, Array],
    taps: Array,
) -> npt.NDArray[np.float64]:
    """See `komad.kernels.pixel_moments`."""
    xp, (ny, nx) = namespace(total), total.shape
    reach = len(taps) // 2
    n_bands = -(-ny // FILTER_ROWS)
    first = np.arange(0, n_bands, max(1, n_bands // SAMPLED_BANDS)) * FILTER_ROWS
    with_margins = beside(total, _rows(first, FILTER_ROWS, reach, ny))
    shared_rows, shared_columns, own_rows, own_columns = (beside(total, it, np.float32) for it in lines)
    is_bad = _plane(total, own.bad)
    shared = _shared_residue(total, inverse, (shared_rows, shared_columns), with_margins)
    residue = xp.empty(shared.shape, np.float32)
    given = (*_own(total, own), is_bad, own_rows, own_columns, with_margins, _I(nx), residue)
    _launcher(own)("own_residue", residue.size, *given)
    sharp = (_sharp(picture, taps, FILTER_ROWS) for picture in (shared, residue))
    rows = (first[:, None] + np.arange(FILTER_ROWS)).ravel()
    # The last band may be a shorter one.
    rows = beside(total, rows[rows < ny].astype(_I))
    partial = xp.empty((4, len(rows) * device.LANES), np.float32)
    device.launch("pattern.cu", "products", partial.size // 4, *sharp, is_bad, rows, _I(nx), partial)
    return to_host(partial.sum(axis=1, dtype=np.float64))


def shared_pattern(
    total: Array,
    inverse: float,
    bad: BadPixels,
    lines: tuple[Array, Array],
    taps: Array,
    *,
    scales: tuple[float, float, float],
) -> Array:
    """See `komad.kernels.shared_pattern`."""
    ny, nx = total.shape
    pixels, *of_lines = scales
    with_margins = beside(total, _rows(np.zeros(1, int), ny, len(taps) // 2, ny))
    there = [beside(total, it, np.float32) for it in lines]
    relative = _sharp(_shared_residue(total, inverse, there, with_margins), taps, ny)
    added = (beside(total, _F(scale) * line) for scale, line in zip(of_lines, lines, strict=True))
    given = (relative, _F(pixels), *added, _plane(total, bad), _I(nx))
    device.launch("pattern.cu", "add_lines", relative.size, *given)
    return relative


def block_moments(values: Array, block: int) -> npt.NDArray[np.float64]:
    """See `komad.kernels.block_moments`."""
    xp, (n_frames, ny, nx) = namespace(values), values.shape
    values = beside(values, values, np.float32)
    blocks_y, blocks_x = -(-ny // block), -(-nx // block)
    blocks, size = (_I(block), _I(blocks_y)), (_I(ny), _I(nx))
    columns = xp.empty((n_frames, blocks_y, nx), np.float32)
    means = xp.empty((n_frames, blocks_y, blocks_x), np.float32)
    of_sum = xp.empty((ny, nx), np.float32)

    def launch(kernel: str, n_items: int, *arguments: Any) -> None:
        device.launch("pattern.cu", kernel, n_items, *arguments)

    launch("block_columns", columns.size, values, *blocks, *size, columns)
    launch("block_means", means.size, columns, *blocks, _I(blocks_x), *size, means)
    launch("block_squares", columns.size, values, means, *blocks, _I(blocks_x), *size, columns)
    given = (values, means, _I(n_frames), *blocks, _I(blocks_x), _I(nx), of_sum)
    launch("square_of_sum", of_sum.size, *given)
    moments = (columns.sum(axis=(1, 2), dtype=np.float64), of_sum.sum(dtype=np.float64).reshape(1))
    return to_host(xp.concatenate(moments))


def _launcher(stack: RelativeStack) -> Any:
    """Launches kernels that read this stack sum."""
    count = device.C_TYPES[stack.total.dtype.name]
    return lambda kernel, n_items, *given: device.launch("koma.cu", kernel, n_items, *given, COUNT=count)


def _own(like: Array, stack: RelativeStack, unit: int = 1) -> tuple[Any, ...]:
    """A stack sum as the kernels take it: raw, gain, offset, and the two scales, times `unit`."""
    there = (beside(like, it) for it in (stack.total, stack.gain, stack.offset))
    return (*there, _F(unit * stack.scale), _F(unit * stack.offset_scale))


def _row_of(bad: BadPixels) -> npt.NDArray[np.int32]:
    """(n,) y."""
    return np.repeat(np.arange(len(bad.row_start) - 1, dtype=_I), np.diff(bad.row_start))


def _plane(like: Array, bad: BadPixels) -> Array:
    """(ny, nx) uint8, 1 at bad pixels."""
    plane = namespace(like).zeros(like.shape, np.uint8)
    plane[beside(like, _row_of(bad)), beside(like, bad.column)] = 1
    return plane


def _rows(first: npt.NDArray[Any], height: int, reach: int, ny: int) -> npt.NDArray[np.int32]:
    """Rows of bands that begin at `first`, with their margins, mirrored at the edges."""
    rows = np.abs(first[:, None] + np.arange(-reach, height + reach)).ravel()
    return np.clip(np.where(rows >= ny, 2 * (ny - 1) - rows, rows), 0, ny - 1).astype(_I)


def _shared_residue(total: Array, inverse: float, lines: Any, rows: Array) -> Array:
    """(len(rows), nx): total * inverse - 1 without its lines, rows and columns, in some rows."""
    nx = total.shape[1]
    residue = namespace(total).empty((len(rows), nx), np.float32)
    given = (total, _F(inverse), *lines, rows, _I(nx), residue)
    device.launch("pattern.cu", "shared_residue", residue.size, *given)
    return residue


def _sharp(picture: Array, taps: Array, height: int) -> Array:
    """What is left of bands of `height` rows, given with margins, without what the taps make of them."""
    xp, (n_rows, nx) = namespace(picture), picture.shape
    reach = len(taps) // 2
    there = (beside(picture, taps, np.float32), _I(reach))
    smooth = xp.empty(picture.shape, np.float32)
    device.launch("pattern.cu", "smooth_along_rows", smooth.size, picture, *there, _I(nx), smooth)
    sharp = xp.empty((n_rows // (height + 2 * reach) * height, nx), np.float32)
    given = (picture, smooth, *there, _I(height), _I(nx), sharp)
    device.launch("pattern.cu", "take_smooth_off", sharp.size, *given)
    return sharp
