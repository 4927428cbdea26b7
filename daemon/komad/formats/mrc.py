"""MRC: the header of MRC2014 with IMOD's additions, and the reader of uncompressed movies.

Sources: the MRC2014 page of CCP-EM; IMOD's page on the format and its library (unsigned bytes, 4-bit mode 101, 4-bit
pixels in files of bytes); section 17 of MotionCor2's manual, and how the library of its successors reads MRC files
(mode 5, a gain reference behind the extended header).
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

HEADER_BYTES, LABELS_AT = 1024, 224
IMOD_STAMP = 1146047817
"""At byte 152: the int that follows holds IMOD's flags."""
IMOD_SIGNED = 1
"""Flag bit: bytes of mode 0 are signed; without it and with the stamp, they are unsigned."""
IMOD_4_BIT = 16
"""Flag bit: each byte of mode 0 is two pixels, and the header's nx half of what it is."""
PACKED_4_BIT = 101
PACKED = "packed"
"""Fact of a movie whose pixels are not found by its mode alone: how the file is compressed, or two pixels in a byte."""
PACKED_LABEL = b"4 bits packed"
"""In the only label of such files by a SerialEM that did not know the flag yet."""
SUPER_RESOLUTION = ((7676, 7420), (7680, 7424), (11520, 8184))
"""Pixels of a K2 or K3 whose frames it packed so, one side first or the other; off by two at most."""
STORED = {0: "i1", 1: "i2", 2: "f4", 5: "u1", 6: "u2", 7: "i4", 8: "u4", 12: "f2", PACKED_4_BIT: "u1"}
"""Mode -> NumPy type on disk. 5 are unsigned bytes for UCSF's programs; 7 and 8 are in archives of python-mrcz; neither
is in MRC2014."""
CODECS = {"blosclz": 1, "lz4": 2, "lz4hc": 3, "zlib": 5, "zstd": 6}
"""MRCZ keeps `1000 * codec + mode` in the mode field."""
MAX_SIDE = 1 << 20
"""Pixels. A larger number is no width or height, but the sign of a wrong byte order or another kind of file."""
UNKNOWN_FRAMES = 32766
"""nz of Direct Electron's files before, and in gain references after, they are complete."""
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
    packs_bytes: bool = False
    """Mode 0, but each byte is two pixels: nx is what it is, and the header's nx half of that."""
    gain_offset: int | None = None
    """First byte of a gain reference (ny, nx) float32 at the end of the extended header, if there is one."""

    @property
    def is_packed(self) -> bool:
        """A byte is two pixels of 4 bits."""
        return self.packs_bytes or self.mode == PACKED_4_BIT

    @property
    def data_offset(self) -> int:
        """First byte of the pixels."""
        return HEADER_BYTES + self.extended_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, not compressed; rows of 4-bit pixels are padded to whole bytes."""
        if self.is_packed:
            return self.ny * ((self.nx + 1) // 2)
        return self.ny * self.nx * np.dtype(STORED[self.mode]).itemsize

    @property
    def dtype(self) -> str:
        """NumPy name of decoded frames."""
        if self.is_packed or (self.mode == 0 and self.is_unsigned):
            return "uint8"
        return "float32" if self.mode == 12 else np.dtype(STORED[self.mode]).name

    @property
    def is_direct(self) -> bool:
        """The bytes on disk are the decoded frame, except for their order."""
        return self.mode != 12 and not self.is_packed

    def header(self, kind: MovieFormat) -> MovieHeader:
        """What the rest of the program needs to know."""
        facts: dict[str, float | str] = {}
        if self.gain_offset is not None:
            facts["gain_reference"] = "in the extended header"
        if self.packs_bytes:
            facts[PACKED] = "4 bits in bytes"
        return MovieHeader(
            format=kind,
            n_frames=self.n_frames,
            ny=self.ny,
            nx=self.nx,
            dtype=self.dtype,
            pixel_size_angstrom=self.pixel_size_angstrom,
            mrc_mode=self.mode,
            facts=facts,
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

    def empty_gain(self) -> npt.NDArray[np.float32]:
        """Give an array (ny, nx) for the gain reference as it is stored."""
        return np.empty((self.ny, self.nx), dtype=self.byte_order + "f4")

    def pack(self, frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn a frame (ny, nx) into what is stored, contiguous: what `unpack` undoes. Its values must fit."""
        if not self.is_packed:
            stored = "u1" if self.dtype == "uint8" else STORED[self.mode]
            return np.ascontiguousarray(frame, dtype=self.byte_order + stored)
        pairs = np.empty((self.ny, (self.nx + 1) // 2), dtype=np.uint8)
        pairs[:] = frame[:, 0::2]
        pairs[:, : self.nx // 2] |= np.left_shift(frame[:, 1::2], 4, dtype=np.uint8, casting="unsafe")
        return pairs


def plain_layout(
    shape: tuple[int, ...],
    mode: int,
    *,
    pixel_size_angstrom: float | None,
    is_unsigned: bool = True,
    extended_bytes: int = 0,
) -> MrcLayout:
    """Layout of an uncompressed little-endian movie of `shape` (n_frames, ny, nx) that is to be written."""
    n_frames, ny, nx = shape
    return MrcLayout(
        byte_order="<",
        mode=mode,
        codec=0,
        n_frames=n_frames,
        ny=ny,
        nx=nx,
        is_unsigned=is_unsigned,
        extended_bytes=extended_bytes,
        has_json=False,
        pixel_size_angstrom=pixel_size_angstrom,
    )


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
    has_json = raw[104:108] == b"json"
    packs_bytes = mode % 1000 == 0 and _packs_bytes(raw, byte_order)
    is_unsigned = _is_unsigned(raw, byte_order)
    if packs_bytes and _imod_flags(raw, byte_order) & IMOD_SIGNED:
        raise MovieError(
            f"{path} is marked both as signed bytes and as two pixels of 4 bits in a byte, which cannot be: its header "
            "was changed by a program that knows only one of them; take the file as the camera wrote it"
        )
    pixel_size = _pixel_size(raw, byte_order, nx)
    nx *= 2 if packs_bytes else 1
    return MrcLayout(
        byte_order=byte_order,
        mode=mode % 1000,
        codec=mode // 1000,
        n_frames=nz,
        ny=ny,
        nx=nx,
        is_unsigned=is_unsigned,
        extended_bytes=extended_bytes,
        has_json=has_json,
        pixel_size_angstrom=pixel_size,
        packs_bytes=packs_bytes,
        gain_offset=None if has_json else _gain_offset(raw, byte_order, extended_bytes, (nz, ny, nx)),
    )


def largest_in_header(raw: bytes, path: Path) -> float:
    """Give the largest value as the writer of the first 1024 bytes has it; not all writers know. Errors as above."""
    (largest,) = struct.unpack_from(parse_header(raw, path).byte_order + "f", raw, 80)
    return float(largest)


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


def _imod_flags(raw: bytes, byte_order: str) -> int:
    """IMOD's flags; 0 without its stamp."""
    stamp, flags = struct.unpack_from(byte_order + "2i", raw, 152)
    return int(flags) if stamp == IMOD_STAMP else 0


def _packs_bytes(raw: bytes, byte_order: str) -> bool:
    """Whether the bytes of mode 0 are pairs of pixels: SerialEM's frames of K2 and K3 "packed as 4-bits"."""
    if _imod_flags(raw, byte_order) & IMOD_4_BIT:
        return True
    nx, ny = struct.unpack_from(byte_order + "2i", raw)
    (n_labels,) = struct.unpack_from(byte_order + "i", raw, 220)
    return (
        n_labels == 1
        and PACKED_LABEL in raw[224:304]
        and any(
            abs(2 * nx - x) <= 4 and abs(ny - y) <= 2  # two of the header's pixels are four
            for sides in SUPER_RESOLUTION
            for x, y in (sides, sides[::-1])
        )
    )


def _gain_offset(raw: bytes, byte_order: str, extended_bytes: int, shape: tuple[int, int, int]) -> int | None:
    """Where MotionCor2 puts the gain reference: behind the whole numbers and floats that each frame has.

    As there, it is one if what is left of the extended header is exactly as long.
    """
    n_frames, ny, nx = shape
    n_integers, n_floats = struct.unpack_from(byte_order + "2h", raw, 128)
    frames_bytes = n_frames * 4 * (n_integers + n_floats)
    if min(n_integers, n_floats) < 0 or extended_bytes - frames_bytes != 4 * ny * nx:
        return None
    return HEADER_BYTES + frames_bytes


def _is_unsigned(raw: bytes, byte_order: str) -> bool:
    (stamp,) = struct.unpack_from(byte_order + "i", raw, 152)
    if stamp == IMOD_STAMP:
        return not _imod_flags(raw, byte_order) & IMOD_SIGNED
    lowest, highest = struct.unpack_from(byte_order + "2f", raw, 76)
    return bool(lowest >= 0 and 127 < highest <= 255)


def _pixel_size(raw: bytes, byte_order: str, nx: int) -> float | None:
    (sampling,) = struct.unpack_from(byte_order + "i", raw, 28)
    (cell,) = struct.unpack_from(byte_order + "f", raw, 40)
    size = cell / (sampling if sampling > 0 else nx)  # python-mrcz leaves the sampling 0
    low, high = PIXEL_SIZE_RANGE_ANGSTROM
    return float(f"{size:.6g}") if low <= size <= high else None


def build_header(
    layout: MrcLayout,
    *,
    statistics: tuple[float, float, float],
    labels: tuple[str, ...],
    spread: float = -1.0,
) -> bytearray:
    """Build the 1024 bytes of a little-endian stack of 2-D frames.

    `statistics` are minimum, maximum, mean; `spread` is the standard deviation, below zero when it is not known.
    """
    pixel = layout.pixel_size_angstrom or 0.0
    size = (layout.nx, layout.ny, layout.n_frames)
    raw = bytearray(HEADER_BYTES)
    struct.pack_into("<4i", raw, 0, *size, 1000 * layout.codec + layout.mode)
    # MRC2014: one slice per frame. python-mrcz: 0 gives its users an array, 1 would give them a list of frames.
    sampled = (layout.nx, layout.ny, 0 if layout.codec else 1)
    struct.pack_into("<3i", raw, 28, *sampled)
    # MRC2014: of what is sampled. python-mrcz: of all frames.
    cell = size if layout.codec else sampled
    struct.pack_into("<6f", raw, 40, *(pixel * n for n in cell), 90.0, 90.0, 90.0)
    struct.pack_into("<3i3f", raw, 64, 1, 2, 3, *statistics)
    struct.pack_into("<2i", raw, 88, 0, layout.extended_bytes)
    struct.pack_into("<4si", raw, 104, b"json" if layout.has_json else b"", 20140)
    if layout.mode == 0:
        struct.pack_into("<2i", raw, 152, IMOD_STAMP, 0 if layout.is_unsigned else IMOD_SIGNED)
    struct.pack_into("<4s4B f i", raw, 208, b"MAP ", 0x44, 0x41, 0, 0, spread, len(labels))
    for place, label in enumerate(labels):
        struct.pack_into("80s", raw, LABELS_AT + 80 * place, label.encode("ascii"))
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
        if missing > 0 and layout.n_frames == UNKNOWN_FRAMES:
            raise MovieTruncatedError(
                f"{self.path} holds {self.frames_in_file} frames, and nz in its header is {UNKNOWN_FRAMES}, which "
                "Direct Electron's software writes while it does not know their number: it is still being written, or "
                "the header was never brought up to date; then write the number into it (as IMOD's alterheader does)"
            )
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

    def gain(self) -> npt.NDArray[np.float32] | None:
        """That of MotionCor2's archives; errors as every `MovieReader.gain`."""
        layout = self._layout
        if layout.gain_offset is None:
            return None
        gain = layout.empty_gain()
        if self._source.read_into(gain, layout.gain_offset) < gain.nbytes:
            raise MovieTruncatedError(f"{self.path} ends inside of the gain reference of its extended header")
        return gain.astype(np.float32)

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
