"""TIFF movies: tifffile reads the directory of pages and decodes strips and tiles; rows are flipped to MRC order."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.limits import refuse_impossible, refuse_too_large
from komad.formats.mrc import MAX_SIDE, PIXEL_SIZE_RANGE_ANGSTROM
from komad.formats.pages import directories
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile, explained
from komad.model import MovieFormat, MovieHeader

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Classic and big TIFF, little and big endian."""
LZW = 5
COMPRESSIONS = {1: "none", LZW: "LZW", 8: "deflate", 32946: "deflate", 50000: "zstd"}
DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "float16", "float32"})
RESOLUTION_UNIT_ANGSTROM = {2: 2.54e8, 3: 1e8}
"""Inch and centimetre."""
UNREADABLE = (
    RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, MemoryError,
    struct.error,
)  # fmt: skip
"""What tifffile and the codecs raise on damaged data (their own errors are among these)."""


class TiffReader(MovieReader):
    """A multi-page TIFF movie: one page per frame, all of the same size and type."""

    def __init__(self, source: SourceFile) -> None:
        n_pages = sum(1 for _ in directories(source))
        try:
            self._pages = _read_pages(source, n_pages)
            header = _header(source, self._pages)
            self._strips = [_strips(page) for page in self._pages]
            self._chunk_bytes = [_chunk_bytes(page) for page in self._pages]
            self._page_bytes = [_page_bytes(page) for page in self._pages]
        except UNREADABLE as error:
            raise MovieError(f"{source.path}: the directory of TIFF pages is damaged: {error}") from error
        self._is_packed = self._pages[0].compression != 1
        self._is_lzw = self._pages[0].compression == LZW
        if self._is_lzw:  # undone here, before tifffile sees the bytes
            for page in self._pages:
                page.compression = tifffile.COMPRESSION.NONE
        super().__init__(source, header)

    @property
    def max_parts(self) -> int:
        """Strips or tiles of a page."""
        return len(self._strips[0])

    def check_complete(self) -> None:
        """Check that all strips lie inside the file, can hold the picture, and that the very last one decodes."""
        size = self._source.size_bytes
        stored = sum(length for strips in self._strips for _, length in strips)
        if stored > size:
            # Or few bytes would be decoded again and again.
            raise MovieError(f"{self.path} has {size} bytes, its strips {stored}: they lie over each other")
        for index, strips in enumerate(self._strips):
            if any(offset == 0 or length == 0 for offset, length in strips):
                raise MovieTruncatedError(
                    f"{self.path}: {self.frame_name(index)} has strips that were never written"
                )
            end = max(offset + length for offset, length in strips)
            if end > size:
                raise MovieTruncatedError(
                    f"{self.path} ends at byte {size}, inside {self.frame_name(index)}: {end - size} bytes are missing"
                )
            self._check_size(index)
        self._decode(self.header.n_frames - 1, len(self._strips[-1]) - 1)

    def _check_size(self, index: int) -> None:
        stored, needed = sum(length for _, length in self._strips[index]), self._page_bytes[index]
        place = f"{self.path}: {self.frame_name(index)}"
        if self._is_packed:
            refuse_impossible(place, needed, stored)
        elif stored < needed:
            raise MovieError(f"{place} is damaged: its strips have {stored} bytes, its pixels need {needed}")

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:
        """Decode a share of the strips or tiles of a page."""
        n_strips = len(self._strips[index])
        for strip in range(n_strips * part // n_parts, n_strips * (part + 1) // n_parts):
            pixels, y, x = self._decode(index, strip)
            ny, nx = pixels.shape
            top = self.header.ny - y  # the page's first row is the picture's last in MRC order
            out[top - ny : top, x : x + nx] = pixels[::-1]

    def _decode(self, index: int, strip: int) -> tuple[npt.NDArray[Any], int, int]:
        """Pixels of a strip or tile and the row and column of its first pixel in the page."""
        page = self._pages[index]
        offset, length = self._strips[index][strip]
        data = self._source.read(offset, length)
        place = f"{self.path}: {self.frame_name(index)}, strip {strip + 1} at byte {offset},"
        if len(data) < length:
            raise MovieTruncatedError(f"{place} ends {length - len(data)} bytes early")
        refuse_impossible(place, self._chunk_bytes[index], length)
        refuse_too_large(self.path, self._chunk_bytes[index])
        try:
            decodable = _undo_lzw(data, page) if self._is_lzw else data
            pixels, (_, _, y, x, _), _ = page.decode(decodable, strip)
            assert pixels is not None  # only an empty strip has none
            inside = pixels[0, : self.header.ny - y, : self.header.nx - x, 0]  # tiles may reach over the edge
        except UNREADABLE as error:
            raise MovieError(f"{place} cannot be decoded: {error}") from error
        return inside, y, x


def _read_pages(source: SourceFile, n_pages: int) -> list[tifffile.TiffPage]:
    with explained(source.path), source.path.open("rb") as file, tifffile.TiffFile(file) as tiff:
        return [tiff.pages[index].aspage() for index in range(n_pages)]


def _header(source: SourceFile, pages: list[tifffile.TiffPage]) -> MovieHeader:
    first = pages[0]
    if first.compression not in COMPRESSIONS:
        raise MovieError(
            f"{source.path} is compressed with TIFF scheme {int(first.compression)}; known are "
            f"{sorted(set(COMPRESSIONS.values()))}"
        )
    is_picture = len(first.shape) == 2 and math.prod(first.shape) == math.prod(first.shaped)
    if (
        not is_picture
        or not 0 < min(first.shape) <= max(first.shape) < MAX_SIDE
        or str(first.dtype) not in DTYPES
    ):
        raise MovieError(
            f"{source.path}: pages of shape {first.shape} and type {first.dtype} are no frames; needed is one value "
            f"per pixel, of type {', '.join(sorted(DTYPES))}"
        )
    for index, page in enumerate(pages):
        if (page.shaped, page.dtype, page.compression) != (first.shaped, first.dtype, first.compression):
            raise MovieError(
                f"{source.path}: page {index + 1} is {page.shape} {page.dtype} (compression {int(page.compression)}), "
                f"the first is {first.shape} {first.dtype} (compression {int(first.compression)})"
            )
        if not len(page.dataoffsets) == len(page.databytecounts) == math.prod(page.chunked):
            raise MovieError(f"{source.path}: page {index + 1} does not say where all its strips are")
    ny, nx = first.shape
    dtype = "float32" if first.dtype == np.float16 else str(first.dtype)
    return MovieHeader(
        format=MovieFormat.TIFF,
        n_frames=len(pages),
        ny=ny,
        nx=nx,
        dtype=dtype,
        pixel_size_angstrom=_pixel_size(first),
    )


def _strips(page: tifffile.TiffPage) -> list[tuple[int, int]]:
    """(offset, length) of each strip or tile."""
    return [(int(offset), int(n)) for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)]


def _page_bytes(page: tifffile.TiffPage) -> int:
    """Bytes of the picture, decoded."""
    return int(page.imagelength * math.ceil(page.imagewidth * page.bitspersample / 8))


def _chunk_bytes(page: tifffile.TiffPage) -> int:
    """Bytes of a strip or tile, decoded."""
    rows, columns = page.chunks
    return int(min(rows, page.imagelength + page.tilelength) * math.ceil(columns * page.bitspersample / 8))


def _undo_lzw(data: bytes, page: tifffile.TiffPage) -> memoryview:
    from komad.formats.lzw import decode  # noqa: PLC0415 - numba is slow to import, and few processes decode LZW

    decoded = np.empty(_chunk_bytes(page), dtype=np.uint8)
    return decoded[: decode(np.frombuffer(data, dtype=np.uint8), decoded)].data


def _pixel_size(page: tifffile.TiffPage) -> float | None:
    """From the resolution tags, where a camera filled them in (a picture program's 72 per inch is no pixel size)."""
    unit = RESOLUTION_UNIT_ANGSTROM.get(int(page.tags.valueof("ResolutionUnit", 2)))
    resolution = page.tags.valueof("XResolution")
    if unit is None or not isinstance(resolution, tuple) or 0 in resolution[:2]:
        return None
    size = unit * resolution[1] / resolution[0]
    low, high = PIXEL_SIZE_RANGE_ANGSTROM
    return float(f"{size:.6g}") if low <= size <= high else None
