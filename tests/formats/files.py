"""Files as cameras and other programs write them, built byte by byte and not with the code under test."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import tifffile

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real files beside the checkout, where they are."""
STORED = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def counts(shape: tuple[int, ...], dtype: str = "uint8", mean: float = 2.0, seed: int = 0) -> np.ndarray:
    """Poisson counts without any symmetry; signed and floating-point ones fall below zero too."""
    drawn = np.random.default_rng(seed).poisson(mean, shape)
    lowest = 0 if dtype.startswith("u") else 3
    return (drawn - lowest).astype(dtype)


def mrc_bytes(
    shape: tuple[int, int, int],
    mode: int,
    data: bytes,
    *,
    order: str = "<",
    extended: bytes = b"",
    pixel_size: float = 1.25,
    imod_flags: int | None = None,
    statistics: tuple[float, float, float] = (0.0, -1.0, -2.0),
    stamped: bool = True,
) -> bytes:
    """An MRC file: header by the MRC2014 page, extended header, data as given."""
    n_frames, ny, nx = shape
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, nx, ny, n_frames, mode, 0, 0, 0, nx, ny, 1)
    struct.pack_into(f"{order}3f", header, 40, pixel_size * nx, pixel_size * ny, pixel_size)
    struct.pack_into(f"{order}3i3f", header, 64, 1, 2, 3, *statistics)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    if imod_flags is not None:
        struct.pack_into(f"{order}2i", header, 152, 1146047817, imod_flags)
    if stamped:
        header[208:216] = b"MAP " + (b"DA\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + extended + data


def write_mrc_movie(path: Path, frames: np.ndarray, mode: int, *, order: str = "<", **header: object) -> Path:
    """A movie of a mode whose pixels NumPy knows."""
    data = frames.astype(order + STORED[mode]).tobytes()
    path.write_bytes(mrc_bytes(frames.shape, mode, data, order=order, **header))
    return path


def packed_4_bit(frames: np.ndarray) -> bytes:
    """Two pixels per byte, the first in the low bits, rows padded to whole bytes, by the plainest loop."""
    packed = bytearray()
    for row in frames.reshape(-1, frames.shape[-1]):
        pixels = [int(pixel) for pixel in row] + [0] * (len(row) % 2)
        packed += bytes(low | high << 4 for low, high in zip(pixels[0::2], pixels[1::2], strict=True))
    return bytes(packed)


def write_tiff_movie(
    path: Path, frames: np.ndarray, *, order: str = "<", big: bool = False, **page: object
) -> Path:
    """One page per frame; the pages hold the rows from top to bottom, so frames in MRC order are turned over."""
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as tiff:
        for frame in frames[:, ::-1]:
            tiff.write(frame, contiguous=False, metadata=None, **page)
    return path


def eer_electrons(path: Path) -> list[list[tuple[int, int]]]:
    """Electrons of each raw frame as (y, x) in sub-pixels, bit after bit by the plainest loop."""
    raw_frames = []
    with tifffile.TiffFile(path) as tiff:
        data = path.read_bytes()
        for page in tiff.pages:
            if page.compression not in {65000, 65001, 65002}:
                continue
            run_bits, x_bits, y_bits = {65000: (8, 2, 2), 65001: (7, 2, 2)}.get(
                page.compression, tuple(page.tags.valueof(tag) for tag in (65007, 65008, 65009))
            )
            strip = data[page.dataoffsets[0] :][: page.databytecounts[0]]
            raw_frames.append(_electrons(strip, page.compression, page.shape, run_bits, x_bits, y_bits))
    return raw_frames


def _electrons(
    strip: bytes, compression: int, shape: tuple[int, int], run_bits: int, x_bits: int, y_bits: int
) -> list[tuple[int, int]]:
    bits = [byte >> i & 1 for byte in strip for i in range(8)]

    def take(n_bits: int) -> int:
        taken = [bits.pop() for _ in range(n_bits)]
        return sum(bit << i for i, bit in enumerate(taken))

    bits.reverse()
    electrons, pixel, (ny, nx) = [], 0, shape
    while True:
        run = take(run_bits)
        pixel += run
        if pixel >= ny * nx:
            assert pixel == ny * nx
            return electrons
        if run == (1 << run_bits) - 1:
            take(4 if compression == 65000 else 0)
            continue
        x = take(x_bits) ^ (1 << x_bits >> 1)
        y = take(y_bits) ^ (1 << y_bits >> 1)
        electrons.append(((pixel // nx << y_bits) + y, (pixel % nx << x_bits) + x))
        pixel += 1
