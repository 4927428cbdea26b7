"""MRC: the header of MRC2014 with IMOD's additions, and the reader of uncompressed movies.

Sources: the MRC2014 page of CCP-EM; IMOD's page on the format (unsigned bytes, 4-bit mode 101).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile
from komad.model import MovieFormat, MovieHeader

HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
"""At byte 152: the int that follows holds IMOD's flags."""
IMOD_SIGNED = 1
"""Flag bit: bytes of mode 0 are signed; without it and with the stamp, they are unsigned."""
PACKED_4_BIT = 101
STORED = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 7: "i4", 8: "u4", 12: "f2", PACKED_4_BIT: "u1"}
"""Mode -> NumPy type on disk. 7 and 8 are not in MRC2014, but in the archives of python-mrcz."""
CODECS = {"blosclz": 1, "lz4": 2, "lz4hc": 3, "zlib": 5, "zstd": 6}
"""MRCZ keeps `1000 * codec + mode` in the mode field."""
MAX_SIDE = 1 << 20
"""Pixels. A larger number is no width or height, but the sign of a wrong byte order or another kind of file."""
PIXEL_SIZE_RANGE_ANGSTROM = (0.05, 50.0)
"""A pixel size outside was never set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MrcLayout:
    """Where the pixels are in an MRC or MRCZ file, and how they are stored."""

    byte_order: str
    """'<' or '>'."""
    mode: int
    """Without the codec."""
    codec: int
    """0: not compressed."""
    n_frames: int
    ny: int
    nx: int
    is_unsigned: bool
    """Mode 0 holds unsigned bytes."""
    extended_bytes: int
    has_json: bool
    """The extended header is marked as JSON text."""
    pixel_size_angstrom: float | None

    @property
    def data_offset(self) -> int:
        """First byte of the pixels."""
        return HEADER_BYTES + self.extended_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, not compressed; rows of 4-bit pixels are padded to whole bytes."""
        if self.mode == PACKED_4_BIT:
            return self.ny * ((self.nx + 1) // 2)
        return self.ny * self.nx * np.dtype(STORED[self.mode]).itemsize

    @property
    def dtype(self) -> str:
        """NumPy name of decoded frames."""
        if self.mode == 0 and self.is_unsigned:
            return "uint8"
        return "float32" if self.mode == 12 else np.dtype(STORED[self.mode]).name

    @property
    def is_direct(self) -> bool:
        """The bytes on disk are the decoded frame, except for their order."""
        return self.mode not in {12, PACKED_4_BIT}

    def header(self, kind: MovieFormat) -> MovieHeader:
        """What the rest of the program needs to know."""
        return MovieHeader(
            format=kind,
            n_frames=self.n_frames,
            ny=self.ny,
            nx=self.nx,
            dtype=self.dtype,
            pixel_size_angstrom=self.pixel_size_angstrom,
            mrc_mode=self.mode,
        )

    def restore_order(self, frame: npt.NDArray[Any]) -> None:
        """Bring a directly read frame to native byte order, in place."""
        if not np.dtype(self.byte_order + STORED[self.mode]).isnative:
            frame.byteswap(inplace=True)

    def unpack(self, raw: npt.NDArray[np.uint8], out: npt.NDArray[Any]) -> None:
        """Turn the bytes of a frame that is not direct (4-bit, 16-bit float) into `out` (ny, nx)."""
        if self.mode == 12:
            out[:] = raw.view(self.byte_order + "f2").reshape(self.ny, self.nx)
            return
        pairs = raw.reshape(self.ny, -1)
        np.bitwise_and(pairs, 0x0F, out=out[:, 0::2])  # the first pixel of a pair is in the low bits
        np.right_shift(pairs[:, : self.nx // 2], 4, out=out[:, 1::2])


def parse_header(raw: bytes, path: Path) -> MrcLayout:
    """Read the first 1024 bytes. The byte order is the one in which the numbers make sense.

    Mode 0 is int8 as MRC2014 says, unless IMOD's stamp marks the bytes as unsigned or the header's maximum is one that
    int8 cannot hold: a camera that writes counts above 127 into unmarked bytes must set one of the two.

    Raises
    ------
    MovieTruncatedError
        The header is not complete or not yet written.
    MovieError
        It is no MRC header, or of a kind that is not read.
    """
    if len(raw) < HEADER_BYTES:
        raise MovieTruncatedError(f"{path} ends after {len(raw)} bytes: an MRC header has {HEADER_BYTES}")
    if not any(raw[:16]):
        raise MovieTruncatedError(
            f"{path} begins with zeros: space is reserved, the header is not written yet"
        )
    byte_order = _byte_order(raw)
    if byte_order is None:
        *sizes, mode = struct.unpack_from("<4i", raw)
        raise MovieError(
            f"{path} is no MRC file that can be read: nx, ny, nz {sizes} and mode {mode} at bytes 0 to 15; "
            f"known modes are {sorted(STORED)}, with 1000 x codec added in MRCZ"
        )
    nx, ny, nz, mode = struct.unpack_from(byte_order + "4i", raw)
    (extended_bytes,) = struct.unpack_from(byte_order + "i", raw, 92)
    if extended_bytes < 0:
        raise MovieError(
            f"{path} has an extended header of {extended_bytes} bytes (at byte 92): the header is damaged"
        )
    if nz == 0:
        raise MovieTruncatedError(f"{path} has no frames yet: nz is 0 in the header")
    return MrcLayout(
        byte_order=byte_order,
        mode=mode % 1000,
        codec=mode // 1000,
        n_frames=nz,
        ny=ny,
        nx=nx,
        is_unsigned=_is_unsigned(raw, byte_order),
        extended_bytes=extended_bytes,
        has_json=raw[104:108] == b"json",
        pixel_size_angstrom=_pixel_size(raw, byte_order, nx),
    )


def _byte_order(raw: bytes) -> str | None:
    # The machine stamp at byte 212 is wrong in files of several programs, so it only says what to try first.
    orders = "><" if raw[212] == 0x11 else "<>"
    for order in orders:
        nx, ny, nz, mode = struct.unpack_from(order + "4i", raw)
        if (
            0 < nx < MAX_SIDE
            and 0 < ny < MAX_SIDE
            and nz >= 0
            and 0 <= mode < 16000
            and mode % 1000 in STORED
        ):
            return order
    return None


def _is_unsigned(raw: bytes, byte_order: str) -> bool:
    stamp, flags = struct.unpack_from(byte_order + "2i", raw, 152)
    if stamp == IMOD_STAMP:
        return not flags & IMOD_SIGNED
    lowest, highest = struct.unpack_from(byte_order + "2f", raw, 76)
    return bool(lowest >= 0 and 127 < highest <= 255)


def _pixel_size(raw: bytes, byte_order: str, nx: int) -> float | None:
    (sampling,) = struct.unpack_from(byte_order + "i", raw, 28)
    (cell,) = struct.unpack_from(byte_order + "f", raw, 40)
    size = cell / (sampling if sampling > 0 else nx)  # python-mrcz leaves the sampling 0
    low, high = PIXEL_SIZE_RANGE_ANGSTROM
    return float(f"{size:.6g}") if low <= size <= high else None


def build_header(
    layout: MrcLayout, *, statistics: tuple[float, float, float], labels: tuple[str, ...]
) -> bytearray:
    """Build the 1024 bytes of a little-endian stack of 2-D frames; `statistics` are minimum, maximum, mean."""
    pixel = layout.pixel_size_angstrom or 0.0
    size = (layout.nx, layout.ny, layout.n_frames)
    raw = bytearray(HEADER_BYTES)
    struct.pack_into("<4i", raw, 0, *size, 1000 * layout.codec + layout.mode)
    # MRC2014: one slice per frame. python-mrcz: 0 gives its users an array, 1 would give them a list of frames.
    struct.pack_into("<3i", raw, 28, layout.nx, layout.ny, 0 if layout.codec else 1)
    struct.pack_into("<6f", raw, 40, *(pixel * n for n in size), 90.0, 90.0, 90.0)
    struct.pack_into("<3i3f", raw, 64, 1, 2, 3, *statistics)
    struct.pack_into("<2i", raw, 88, 0, layout.extended_bytes)
    struct.pack_into("<4si", raw, 104, b"json" if layout.has_json else b"", 20140)
    if layout.mode == 0:
        struct.pack_into("<2i", raw, 152, IMOD_STAMP, 0 if layout.is_unsigned else IMOD_SIGNED)
    struct.pack_into("<4s4B f i", raw, 208, b"MAP ", 0x44, 0x41, 0, 0, -1.0, len(labels))
    for place, label in enumerate(labels):
        struct.pack_into("80s", raw, 224 + 80 * place, label.encode("ascii"))
    return raw


class MrcReader(MovieReader):
    """An uncompressed MRC movie.

    Bytes after the last frame are allowed (the MRCZ paper puts metadata there), but not a whole further frame: then
    the writer has not brought its header up to date.
    """

    def __init__(self, source: SourceFile) -> None:
        self._layout = parse_header(source.read(0, HEADER_BYTES), source.path)
        super().__init__(source, self._layout.header(MovieFormat.MRC))

    @property
    def frames_in_file(self) -> int:
        """Number of whole frames for which the file has bytes, whatever the header says."""
        return max(0, self._source.size_bytes - self._layout.data_offset) // self._layout.frame_bytes

    def check_complete(self) -> None:
        """Compare the length of the file with its header."""
        layout, size = self._layout, self._source.size_bytes
        missing = layout.data_offset + layout.n_frames * layout.frame_bytes - size
        if missing > 0:
            raise MovieTruncatedError(
                f"{self.path} holds {self.frames_in_file} of {layout.n_frames} frames and ends at byte {size}: "
                f"{missing} bytes are missing; it is still being written, or its copy was cut off"
            )
        if self.frames_in_file > layout.n_frames:
            raise MovieTruncatedError(
                f"{self.path} holds {self.frames_in_file} frames, its header says {layout.n_frames}: it is still being "
                "written, or its writer stopped before the header was brought up to date"
            )

    @property
    def bytes_behind(self) -> int:
        """Less than a frame: with more the file is not complete."""
        layout = self._layout
        return max(0, self._source.size_bytes - layout.data_offset - layout.n_frames * layout.frame_bytes)

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002 - whole
        """Read a frame straight into `out`, or unpack it."""
        layout = self._layout
        target = out if layout.is_direct else np.empty(layout.frame_bytes, dtype=np.uint8)
        done = self._source.read_into(target, layout.data_offset + index * layout.frame_bytes)
        if done < layout.frame_bytes:
            raise MovieTruncatedError(
                f"{self.path}: {self.frame_name(index)} ends {layout.frame_bytes - done} bytes early"
            )
        if layout.is_direct:
            layout.restore_order(out)
        else:
            layout.unpack(target, out)
