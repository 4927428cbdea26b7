"""Counts to corrected pixels, binned or moved and added; see `komad.kernels` for what the functions promise."""

from __future__ import annotations

from typing import Any

import numpy as np

from komad.arrays import Array, DeviceFrames, beside, namespace, some_frames, to_host
from komad.kernels.cpu.filling import spots_and_scales
from komad.kernels.cpu.vector import BLOCK
from komad.kernels.cuda import device
from komad.kernels.plan import TILE, FrameSums, Outliers, lanczos_weights

_I = np.int32
_SOURCE = 5  # whole numbers of a Source in fused.cu


def sum_frames(frames: Array) -> FrameSums:
    """See `komad.kernels.sum_frames`; all on the host, where outliers are looked for."""
    wide = {"u": np.uint32, "i": np.int32}.get(frames.dtype.kind, np.float64)
    means = frames.mean(axis=(1, 2), dtype=np.float64)
    return FrameSums(*map(to_host, (frames.sum(axis=0, dtype=wide), means, frames.max(axis=0))))


def reduce(
    frames: Array, gain: Array, offset: Array, outliers: Outliers, factor: int, first_frame: int
) -> Array:
    """See `komad.kernels.reduce`."""
    n_frames, ny, nx = frames.shape
    binned = namespace(frames).empty((n_frames, ny // factor, nx // factor), np.float32)
    corrected = _Corrected(frames, gain, offset, outliers, first_frame)
    for group in corrected.groups(np.arange(n_frames)):
        part = binned[group[0] : group[-1] + 1]
        sizes = (_I(factor), *map(_I, (ny, nx, *binned.shape[1:])))
        device.launch(
            "frames.cu", "bin", part.size, corrected.planes(group), part, *sizes, **corrected.defines
        )
    return binned


def correct(
    frames: Array,
    gain: Array,
    offset: Array,
    outliers: Outliers,
    shifts: Array,
    coefficients: Array,
    first_frame: int,
) -> Array:
    """See `komad.kernels.correct`."""
    xp = namespace(frames)
    ny, nx = gain.shape
    used = np.flatnonzero(np.asarray(coefficients).any(axis=1)).astype(_I)
    # The kernels do not check what they are given.
    assert shifts.shape == (len(frames), -(-ny // TILE[0]) + 1, -(-nx // TILE[1]) + 1, 2)
    assert np.isfinite(shifts[used]).all()
    nodes = tuple(map(_I, (*shifts.shape[1:3], ny, nx)))
    shifts, coefficients, weights = (
        beside(frames, it, np.float32) for it in (shifts, coefficients, lanczos_weights())
    )
    n_sums = coefficients.shape[1]
    sums = xp.zeros((n_sums, ny, nx), np.float32)
    plain, n_covering = xp.zeros((ny, nx), np.float32), xp.empty((ny, nx), np.int32)
    everyone = (beside(frames, used), _I(len(used)))

    def launch(kernel: str, n_items: int, *arguments: Any) -> None:
        device.launch("fused.cu", kernel, n_items, *arguments, N_SUMS=n_sums)

    launch("count_covering", ny * nx, shifts, *everyone, *nodes, n_covering)
    corrected = _Corrected(frames, gain, offset, outliers, first_frame)
    blocks = (-(-ny // BLOCK[0]), -(-nx // BLOCK[1]))
    n_blocks = tuple(map(_I, blocks))
    for group in corrected.groups(used):
        frame = beside(frames, group)
        sources = xp.empty((len(group), *blocks, _SOURCE), np.int32)
        launch("positions", sources.size // _SOURCE, shifts, frame, *nodes, *n_blocks, sources)
        given = (corrected.planes(group), sources, shifts, coefficients, frame, _I(len(group)))
        where = (n_covering, _I(len(used)), weights, *nodes, *n_blocks)
        launch("accumulate", ny * nx, *given, *where, sums, plain)
    tiles_y, tiles_x = -(-ny // TILE[0]), -(-nx // TILE[1])
    partial = xp.empty((2, tiles_y * tiles_x, device.LANES), np.float64)
    launch("tile_sums", partial.size // 2, plain, n_covering, _I(tiles_x), _I(ny), _I(nx), partial)
    total, n_values = partial.sum(axis=2)
    level = (total / xp.maximum(n_values, 1)).astype(np.float32)
    given = (shifts, coefficients, *everyone, n_covering, plain, level, _I(tiles_x), *nodes)
    launch("fill_in", ny * nx, *given, sums)
    return sums


class _Corrected:
    """Corrected frames, a few at a time: gain and outliers; what is moved or binned of them is read often."""

    def __init__(
        self, frames: Array, gain: Array, offset: Array, outliers: Outliers, first_frame: int
    ) -> None:
        xp = namespace(frames)
        spots, scale = spots_and_scales(outliers, gain, offset, first_frame)
        row = np.repeat(np.arange(gain.shape[0], dtype=np.int32), np.diff(outliers.row_start))
        self._frames = frames
        self._references = tuple(beside(frames, it, np.float32) for it in (gain, offset))
        # Records as bytes: CuPy has no structured types.
        self._row, self._spots, self._scale = (
            beside(frames, it) for it in (row, spots.view(np.uint8), scale)
        )
        self._draw = outliers.draw
        self._at_a_time = frames.at_a_time if isinstance(frames, DeviceFrames) else len(frames)
        self._planes = xp.empty((0, *gain.shape), np.float32)
        self.defines = {"COUNT": device.C_TYPES[frames.dtype.name]}

    def groups(self, used: Any) -> list[Any]:
        """Indices of the frames in each group: few enough to fit, and successive ones, read in one go."""
        runs = np.split(used, np.flatnonzero(np.diff(used) != 1) + 1) if len(used) else []
        step = self._at_a_time
        return [run[i : i + step] for run in runs for i in range(0, len(run), step)]

    def planes(self, group: Any) -> Array:
        """(len(group), ny, nx) float32; valid until the next call."""
        xp, (ny, nx) = namespace(self._frames), self._planes.shape[1:]
        if len(self._planes) < len(group):
            self._planes = xp.empty((len(group), ny, nx), np.float32)
        planes = self._planes[: len(group)]
        frames = some_frames(self._frames, int(group[0]), int(group[-1]) + 1)
        given = (frames, *self._references, planes)
        device.launch("frames.cu", "calibrate", ny * nx, *given, _I(len(group)), **self.defines)
        n_spots = len(self._row)
        if n_spots:
            how = (_I(self._draw), _I(group[0]), _I(n_spots), _I(ny), _I(nx))
            found = (self._row, self._spots, self._scale)
            device.launch("frames.cu", "fill", n_spots * len(group), *given, *found, *how, **self.defines)
        return planes
