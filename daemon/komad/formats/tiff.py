"""TIFF movies: tifffile reads the directory of pages and decodes strips and tiles; rows are flipped to MRC order."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.mrc import PIXEL_SIZE_RANGE_ANGSTROM
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile, explained
from komad.model import MovieFormat, MovieHeader

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Classic and big TIFF, little and big endian."""
COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 50000: "zstd"}
EER = frozenset({65000, 65001, 65002})
"""Compressions that make a TIFF an EER movie."""
DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "float16", "float32"})
RESOLUTION_UNIT_ANGSTROM = {2: 2.54e8, 3: 1e8}
"""Inch and centimetre."""
UNREADABLE = (RuntimeError, ValueError, TypeError, IndexError, KeyError, struct.error)
"""What tifffile and the codecs raise on damaged data (their own errors are among these)."""


class TiffReader(MovieReader):
    """A multi-page TIFF movie: one page per frame, all of the same size and type."""

    def __init__(self, source: SourceFile) -> None:
        self._pages = _read_pages(source)
        super().__init__(source, _header(source, self._pages))

    @property
    def max_parts(self) -> int:
        """Strips or tiles of a page."""
        return len(self._pages[0].dataoffsets)

    def check_complete(self) -> None:
        """Check that all strips lie inside the file and that the very last one decodes."""
        for index, page in enumerate(self._pages):
            end = max(
                offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            )
            if min(page.databytecounts) == 0 or min(page.dataoffsets) == 0:
                raise MovieTruncatedError(
                    f"{self.path}: {self.frame_name(index)} has strips that were never written"
                )
            if end > self._source.size_bytes:
                raise MovieTruncatedError(
                    f"{self.path} ends at byte {self._source.size_bytes}, inside {self.frame_name(index)}: "
                    f"{end - self._source.size_bytes} bytes are missing"
                )
        last = self.header.n_frames - 1
        self._decode(last, len(self._pages[last].dataoffsets) - 1)

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:
        """Decode a share of the strips or tiles of a page."""
        n_segments = len(self._pages[index].dataoffsets)
        for segment in range(n_segments * part // n_parts, n_segments * (part + 1) // n_parts):
            pixels, y, x = self._decode(index, segment)
            ny, nx = pixels.shape
            top = self.header.ny - y  # the page's first row is the picture's last in MRC order
            out[top - ny : top, x : x + nx] = pixels[::-1]

    def _decode(self, index: int, segment: int) -> tuple[npt.NDArray[Any], int, int]:
        """Pixels of a strip or tile and the row and column of its first pixel in the page."""
        page = self._pages[index]
        offset, count = page.dataoffsets[segment], page.databytecounts[segment]
        data = self._source.read(offset, count)
        place = f"{self.path}: {self.frame_name(index)}, strip {segment + 1} at byte {offset},"
        if len(data) < count:
            raise MovieTruncatedError(f"{place} ends {count - len(data)} bytes early")
        try:
            pixels, (_, _, y, x, _), _ = page.decode(data, segment)
        except UNREADABLE as error:
            raise MovieError(f"{place} cannot be decoded: {error}") from error
        assert pixels is not None  # only an empty strip has none
        return pixels[0, : self.header.ny - y, : self.header.nx - x, 0], y, x  # tiles may reach over the edge


def _read_pages(source: SourceFile) -> list[tifffile.TiffPage]:
    n_pages = _count_pages(source)
    try:
        with explained(source.path), source.path.open("rb") as file, tifffile.TiffFile(file) as tiff:
            return [tiff.pages[index].aspage() for index in range(n_pages)]
    except UNREADABLE as error:
        raise MovieError(f"{source.path}: the directory of TIFF pages is damaged: {error}") from error


def _count_pages(source: SourceFile) -> int:
    """Walk the chain of page directories to its end (tifffile stops at a broken link without an error)."""
    start = source.read(0, 16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = 43 in start[2:4]
    n_tags_format, tag_bytes, link_format = (
        (f"{order}Q", 20, f"{order}Q") if is_big else (f"{order}H", 12, f"{order}I")
    )

    def number(form: str, at: int, what: str) -> int:
        raw = source.read(at, struct.calcsize(form))
        if len(raw) < struct.calcsize(form):
            raise MovieTruncatedError(
                f"{source.path} ends at byte {source.size_bytes}; {what} should be at byte {at}: it is still being "
                "written, or its copy was cut off"
            )
        return int(struct.unpack(form, raw)[0])

    offset = number(link_format, 8 if is_big else 4, "the place of the first page")
    if offset == 0:
        raise MovieTruncatedError(f"{source.path} has no pages yet: its TIFF header names no first page")
    visited: set[int] = set()
    while offset:
        if offset in visited:
            raise MovieError(
                f"{source.path}: the chain of TIFF pages runs in a circle after page {len(visited)}"
            )
        visited.add(offset)
        n_tags = number(n_tags_format, offset, f"page {len(visited)}")
        link_at = offset + struct.calcsize(n_tags_format) + n_tags * tag_bytes
        offset = number(link_format, link_at, f"the end of the directory of page {len(visited)}")
    return len(visited)


def _header(source: SourceFile, pages: list[tifffile.TiffPage]) -> MovieHeader:
    first = pages[0]
    if first.compression in EER:
        raise MovieError(
            f"{source.path} is an EER movie, which this version cannot read; export it as TIFF or MRC"
        )
    if first.compression not in COMPRESSIONS:
        raise MovieError(
            f"{source.path} is compressed with TIFF scheme {int(first.compression)}; known are "
            f"{sorted(set(COMPRESSIONS.values()))}"
        )
    if len(first.shape) != 2 or str(first.dtype) not in DTYPES:
        raise MovieError(
            f"{source.path}: pages of shape {first.shape} and type {first.dtype} are no frames; needed is one value "
            f"per pixel, of type {', '.join(sorted(DTYPES))}"
        )
    for index, page in enumerate(pages):
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            raise MovieError(
                f"{source.path}: page {index + 1} is {page.shape} {page.dtype}, "
                f"the first is {first.shape} {first.dtype}"
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


def _pixel_size(page: tifffile.TiffPage) -> float | None:
    """From the resolution tags, where a camera filled them in (a picture program's 72 per inch is no pixel size)."""
    unit = RESOLUTION_UNIT_ANGSTROM.get(int(page.tags.valueof("ResolutionUnit", 2)))
    resolution = page.tags.valueof("XResolution")
    if unit is None or not isinstance(resolution, tuple) or 0 in resolution[:2]:
        return None
    size = unit * resolution[1] / resolution[0]
    low, high = PIXEL_SIZE_RANGE_ANGSTROM
    return float(f"{size:.6g}") if low <= size <= high else None
