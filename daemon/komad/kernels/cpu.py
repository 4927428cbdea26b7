"""The hot loops with numba. Each compiled loop works on a band and releases the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, thread_pool
from komad.compiler import compiled
from komad.kernels.plan import N_DONORS, SUB_PIXEL_STEPS, TAPS, TILE, Outliers, lanczos_weights

FloatArray = npt.NDArray[np.float32]

# Contraction and reordering let LLVM vectorise the sums; NaN and infinity keep their meaning.
_jit = compiled(fastmath=("contract", "reassoc", "nsz", "arcp"))

_WEIGHTS = lanczos_weights()
_BAND_ROWS = 64


def _over_bands(work: Callable[[int, int], Any], n: int, step: int) -> list[Any]:
    """Run `work(start, stop)` over [0, n) on the thread pool; the results in order."""
    return list(thread_pool().map(lambda start: work(start, min(start + step, n)), range(0, n, step)))


def sum_frames(frames: Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """See `komad.kernels.sum_frames`."""
    ny, nx = frames.shape[1:]
    # 32 bits hold the sum of 65,536 frames of 16 bits.
    total = np.empty((ny, nx), {"u": np.uint32, "i": np.int32}.get(frames.dtype.kind, np.float64))
    bands = _over_bands(lambda y0, y1: _sum_band(frames, y0, y1, total), ny, _BAND_ROWS)
    return total, np.sum(bands, axis=0) / (ny * nx)


@_jit
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

    _over_bands(work, ny // factor, max(1, _BAND_ROWS // factor))
    return binned


@_jit
def _donor_value(frames: Any, gain: Any, offset: Any, donors: Any, outlier: int, t: int) -> Any:
    """Corrected value of one of the outlier's good neighbours, another one in each frame."""
    nx = gain.shape[1]
    # Knuth's multiplicative hash over outlier and frame: cheap, and the same on every run.
    pick = ((outlier * 2654435761 + t * 40503) >> 7) % N_DONORS
    y, x = divmod(donors[outlier, pick], nx)
    return np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]


@_jit
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
                        line[x] = before[x] + _donor_value(frames, gain, offset, donors, j, t)
            for xb in range(nx):
                value = np.float32(0)
                for k in range(factor):
                    value += line[xb * factor + k]
                binned[t, yb, xb] = value


def correct(
    frames: Array,
    gain: FloatArray,
    offset: FloatArray,
    outliers: Outliers,
    shifts: FloatArray,
    coefficients: FloatArray,
) -> FloatArray:
    """See `komad.kernels.correct`."""
    ny, nx = gain.shape
    sums = np.empty((coefficients.shape[1], ny, nx), np.float32)
    shifts = np.ascontiguousarray(shifts, np.float32)
    coefficients = np.ascontiguousarray(coefficients, np.float32)

    def work(y0: int, y1: int) -> None:
        _correct_band(
            frames,
            gain,
            offset,
            outliers.row_start,
            outliers.column,
            outliers.donors,
            shifts,
            coefficients,
            _WEIGHTS,
            y0,
            y1,
            sums,
        )

    _over_bands(work, ny, TILE[0])
    return sums


@_jit
def _reflect(index: int, n: int) -> int:
    """Index into [0, n) of a picture mirrored at its edges: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    index %= 2 * n
    return index if index < n else 2 * n - 1 - index


@_jit
def _load_tile(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    column: Any,
    donors: Any,
    t: int,
    top: int,
    left: int,
    width: int,
    tile: Any,
) -> None:
    """Fill the first `width` columns of `tile` with corrected pixels of frame `t`, from row `top`, column `left`."""
    ny, nx = gain.shape
    inside = left >= 0 and left + width <= nx
    for i in range(tile.shape[0]):
        y = _reflect(top + i, ny)
        if inside:
            for j in range(width):
                tile[i, j] = np.float32(frames[t, y, left + j]) * gain[y, left + j] + offset[y, left + j]
        else:
            for j in range(width):
                x = _reflect(left + j, nx)
                tile[i, j] = np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x]
        for k in range(row_start[y], row_start[y + 1]):
            x = column[k]
            if inside:
                if left <= x < left + width:
                    tile[i, x - left] = _donor_value(frames, gain, offset, donors, k, t)
            else:
                for j in range(width):
                    if _reflect(left + j, nx) == x:
                        tile[i, j] = _donor_value(frames, gain, offset, donors, k, t)


# The buffers below are handed over whole, with the width in use beside them: a slice of columns would have strides
# that the compiler does not know, and the inner loops would not be vectorised (2.5 times slower).


@_jit
def _resample(tile: Any, wy: Any, wx: Any, width: int, across: Any, moved: Any) -> None:
    """Separable interpolation of `tile` (5 more pixels each way) into `moved`, one sub-pixel shift for all."""
    height = moved.shape[0]
    for i in range(height + TAPS - 1):
        for x in range(width):
            across[i, x] = (
                wx[0] * tile[i, x]
                + wx[1] * tile[i, x + 1]
                + wx[2] * tile[i, x + 2]
                + wx[3] * tile[i, x + 3]
                + wx[4] * tile[i, x + 4]
                + wx[5] * tile[i, x + 5]
            )
    for i in range(height):
        for x in range(width):
            moved[i, x] = (
                wy[0] * across[i, x]
                + wy[1] * across[i + 1, x]
                + wy[2] * across[i + 2, x]
                + wy[3] * across[i + 3, x]
                + wy[4] * across[i + 4, x]
                + wy[5] * across[i + 5, x]
            )


@_jit
def _accumulate(coefficients: Any, t: int, moved: Any, width: int, local: Any) -> None:
    """local[r] += coefficients[t, r] * moved."""
    height = moved.shape[0]
    for r in range(coefficients.shape[1]):
        c = coefficients[t, r]
        if c != 0:
            for i in range(height):
                for x in range(width):
                    local[r, i, x] += c * moved[i, x]


@_jit
def _correct_band(
    frames: Any,
    gain: Any,
    offset: Any,
    row_start: Any,
    column: Any,
    donors: Any,
    shifts: Any,
    coefficients: Any,
    weights: Any,
    y0: int,
    y1: int,
    sums: Any,
) -> None:
    n_frames, n_sums = coefficients.shape
    nx = gain.shape[1]
    height = y1 - y0
    tile_row = y0 // TILE[0]
    tile = np.empty((height + TAPS - 1, TILE[1] + TAPS - 1), np.float32)
    across = np.empty((height + TAPS - 1, TILE[1]), np.float32)
    moved = np.empty((height, TILE[1]), np.float32)
    local = np.empty((n_sums, height, TILE[1]), np.float32)
    for tile_column in range((nx + TILE[1] - 1) // TILE[1]):
        x0 = tile_column * TILE[1]
        width = min(TILE[1], nx - x0)
        local[:] = 0
        for t in range(n_frames):
            if not np.any(coefficients[t] != 0):
                continue
            # Content moves by +shift, so the value at y comes from y - shift = y + whole + fraction.
            from_y = -shifts[t, tile_row, tile_column, 0]
            from_x = -shifts[t, tile_row, tile_column, 1]
            whole_y, whole_x = int(np.floor(from_y)), int(np.floor(from_x))
            wy = weights[int((from_y - whole_y) * SUB_PIXEL_STEPS + 0.5)]
            wx = weights[int((from_x - whole_x) * SUB_PIXEL_STEPS + 0.5)]
            top, left = y0 + whole_y - 2, x0 + whole_x - 2
            _load_tile(frames, gain, offset, row_start, column, donors, t, top, left, width + TAPS - 1, tile)
            _resample(tile, wy, wx, width, across, moved)
            _accumulate(coefficients, t, moved, width, local)
        sums[:, y0:y1, x0 : x0 + width] = local[:, :, :width]


def shifted_sum(spectra: Any, ky: Any, kx: Any, ring: Any, q: Any, shifts: Any) -> npt.NDArray[np.complex64]:
    """See `komad.kernels.shifted_sum`."""
    wave_y, wave_x = _waves(ky, kx, shifts)
    aligned = np.empty(spectra.shape[1:], np.complex64)
    _over_bands(
        lambda y0, y1: _shifted_sum_band(spectra, wave_y, wave_x, ring, q, y0, y1, aligned),
        len(ky),
        _BAND_ROWS,
    )
    return aligned


def shift_gradient(
    spectra: Any, ky: Any, kx: Any, ring: Any, q: Any, shifts: Any, aligned: Any, weight: Any
) -> npt.NDArray[np.float64]:
    """See `komad.kernels.shift_gradient`."""
    wave_y, wave_x = _waves(ky, kx, shifts)

    def work(y0: int, y1: int) -> Any:
        return _gradient_band(spectra, wave_y, wave_x, ky, kx, ring, q, aligned, weight, y0, y1)

    return np.sum(_over_bands(work, len(ky), _BAND_ROWS), axis=0)


def _waves(ky: Any, kx: Any, shifts: Any) -> tuple[Any, Any]:
    """The separable factors of exp(-2 pi i k . shift): (n_frames, my) and (n_frames, mx) complex64."""
    return tuple(
        np.exp(-2j * np.pi * shifts[:, axis, None] * k[None, :].astype(np.float64)).astype(np.complex64)
        for axis, k in enumerate((ky, kx))
    )


@_jit
def _shifted_sum_band(
    spectra: Any, wave_y: Any, wave_x: Any, ring: Any, q: Any, y0: int, y1: int, aligned: Any
) -> None:
    n_frames, _, mx = spectra.shape
    for y in range(y0, y1):
        aligned[y, :] = 0
        for t in range(n_frames):
            for x in range(mx):
                if ring[y, x] >= 0:
                    aligned[y, x] += q[t, ring[y, x]] * (spectra[t, y, x] * (wave_y[t, y] * wave_x[t, x]))


@_jit
def _gradient_band(
    spectra: Any,
    wave_y: Any,
    wave_x: Any,
    ky: Any,
    kx: Any,
    ring: Any,
    q: Any,
    aligned: Any,
    weight: Any,
    y0: int,
    y1: int,
) -> Any:
    n_frames, _, mx = spectra.shape
    gradient = np.zeros((n_frames, 2))
    for t in range(n_frames):
        for y in range(y0, y1):
            along_y, along_x = np.float32(0), np.float32(0)
            for x in range(mx):
                r = ring[y, x]
                if r >= 0:
                    shifted = spectra[t, y, x] * (wave_y[t, y] * wave_x[t, x])
                    # d|A|^2/ds = 2 Re(conj(A) (-2 pi i k) G) = 4 pi k Im(conj(A) G); a frame's own part is real.
                    slope = q[t, r] * weight[r] * (aligned[y, x].conjugate() * shifted).imag
                    along_y += slope
                    along_x += slope * kx[x]
            gradient[t, 0] += 4 * np.pi * ky[y] * along_y
            gradient[t, 1] += 4 * np.pi * along_x
    return gradient


def add_filtered(total: Any, spectrum: Any, ky: Any, kx: Any, frequency: Any, radial: Any) -> None:
    """See `komad.kernels.add_filtered`."""
    step = float(frequency[1] - frequency[0])
    table = radial.astype(np.float32)
    _over_bands(
        lambda y0, y1: _add_filtered_band(total, spectrum, ky, kx, np.float32(1 / step), table, y0, y1),
        len(ky),
        _BAND_ROWS,
    )


@_jit
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
