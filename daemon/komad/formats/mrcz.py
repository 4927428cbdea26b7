"""MRCZ: an MRC file whose frames are blosc chunks, with JSON metadata. The archive.

Sources: McLeod, Diogo Righetto, Stewart, Stahlberg 2018 (J. Struct. Biol. 201, 252), sections 2 and 3, and what
python-mrcz 0.6 writes: `1000 * codec + mode` in the mode field, one c-blosc 1 chunk per frame one after the other,
JSON in the extended header. The paper puts the JSON behind the data; it is read from there too.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import blosc
import numpy as np
import numpy.typing as npt
import xxhash

from komad import __version__
from komad.errors import ArchiveError, MovieError, MovieTruncatedError
from komad.formats.atomic import atomic_file
from komad.formats.limits import refuse_impossible
from komad.formats.mrc import CODECS, HEADER_BYTES, LABELS_AT, MrcLayout, build_header, parse_header
from komad.formats.reader import Frames, MovieReader, map_frames
from komad.formats.source import SourceFile, map_in_order
from komad.model import MovieFormat

BLOCK_BYTES = 1 << 20
"""Counts are smallest and fastest with this blosc block size (measured from 16 KiB to 4 MiB); also the paper's."""
CHUNK_HEADER = struct.Struct("<4B3I")
"""Version, codec version, flags, item size; bytes decoded, block size, bytes of the chunk with this header."""
BLOSC_1 = 2
"""Chunk version of c-blosc 1."""
MODES = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "uint16": 6, "int32": 7, "uint32": 8}
"""Type -> mode. uint8 is mode 0 with IMOD's mark for unsigned bytes: other readers see the same bits as int8."""
LABELS = ("MRCZ0.6.0", f"komad {__version__}")
"""The first label is the version of python-mrcz whose layout this is: readers decide by it how to read."""
MOST_METADATA_BYTES = 64 << 20
"""Ours are some kilobytes."""
MOST_KV, MOST_MM = 4000.0, 100.0
"""A voltage or spherical aberration beyond was never set."""
KEPT_OPTICS = ("voltage_kv", "cs_mm", "amplitude_contrast", "frame_time_s")
KEPT_DOSE = ("dose_per_frame", "pre_exposure")
"""Of the acquisition in komad's own metadata: what a movie's header can tell, too."""
CHECKSUMS = "frame_crc32"
"""Metadata key: CRC-32 of each chunk. Blosc itself does not notice every damage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChecksum:
    """A whole file in few bytes."""

    n_bytes: int
    xxh3: str
    """XXH3, 128 bits in hex: what `xxhsum -H128` prints."""


def write_mrcz(
    path: Path,
    frames: Frames,  # (n_frames, ny, nx)
    *,
    pixel_size_angstrom: float | None,
    voltage_kv: float | None,
    cs_mm: float,
    metadata: Mapping[str, Any],
    codec: str = "zstd",
    level: int = 1,
    on_frame: Callable[[int], None] | None = None,
) -> FileChecksum:
    """Write frames, then read the file back from disk and compare, before it appears under its name.

    Frames are int8, uint8, int16, uint16, int32, uint32 or float32; float16 is stored as float32, which the metadata
    then says. Each is asked for once, by a thread of the process's pool, and its pixels are compared by their XXH3 of
    128 bits: frames that are read from a file need no memory beyond a few. `metadata` gains the keys `dtype`,
    `frame_crc32` and, where it differs, `source_dtype`. `on_frame` is called with the index of each frame that was
    written. Gives the checksum of the file as it was read back.

    Raises
    ------
    ArchiveError
        The frames or the metadata cannot be archived, or the file did not read back the same; no file is left.
    DiskFullError, OutputError
        The file cannot be written.
    """
    stored = np.dtype("<f4") if frames.dtype == np.float16 else frames.dtype.newbyteorder("<")
    described = {**metadata, "dtype": stored.name}
    if stored.name != frames.dtype.name:
        described["source_dtype"] = frames.dtype.name
    # The metadata lie before the chunks but tell their checksums: room for the longest text is left, and what of it is
    # not needed filled with spaces, which JSON allows.
    reserved = len(_to_json(path, {**described, CHECKSUMS: [2**32 - 1] * len(frames)}))
    layout = _layout(path, tuple(frames.shape), stored, pixel_size_angstrom, codec, reserved)
    _set_up_blosc()
    with atomic_file(path) as temporary:
        with temporary.open("r+b") as file:
            file.seek(layout.data_offset)
            chunks = _write_chunks(file, frames, stored, codec=codec, level=level, on_frame=on_frame)
            header = build_header(layout, statistics=_statistics(chunks), labels=LABELS)
            # Bytes 132 to 151 as python-mrcz uses them: kV, mm, counts per electron, length of all chunks.
            packed_bytes = file.tell() - layout.data_offset
            struct.pack_into("<3fq", header, 132, voltage_kv or 0.0, cs_mm, 1.0, packed_bytes)
            file.seek(0)
            file.write(header)
            file.write(
                _to_json(path, {**described, CHECKSUMS: [chunk.crc32 for chunk in chunks]}).ljust(reserved)
            )
            file.flush()
            os.fsync(file.fileno())
            # Out of the page cache, so that the comparison sees the disk.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _verify(temporary, path, chunks)


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata of an MRCZ file, from its extended header or from behind its data; empty when it has none.

    Raises
    ------
    MovieError
        The file is no MRCZ, or its metadata are damaged.
    """
    with SourceFile(path) as source:
        return MrczReader(source).metadata


def is_foreign_mrcz(path: Path) -> bool:
    """Whether there is a movie of this name that does not say that komad wrote it."""
    try:
        with SourceFile(path) as source:
            header = source.read(0, HEADER_BYTES)
        parse_header(header, path)
    except MovieError:
        return False  # nothing there, nothing that can be read, or what is left of something
    return b"komad " not in header[LABELS_AT:]


def checksum_mrcz(path: Path) -> FileChecksum:
    """Read an archive from the disk, each frame checked; gives the checksum of the whole file.

    Raises
    ------
    MovieError
        It is gone, no MRCZ, or damaged; the message names the frame.
    """
    with SourceFile(path) as source:
        source.forget_cached()
        return MrczReader(source).checksum()


class MrczReader(MovieReader):
    """An MRCZ movie: any frame is found through an index walked from chunk to chunk."""

    def __init__(self, source: SourceFile) -> None:
        self._layout = parse_header(source.read(0, HEADER_BYTES), source.path)
        super().__init__(source, self._layout.header(MovieFormat.MRCZ))
        self.header = replace(self.header, facts=self._known())
        _set_up_blosc()

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(offset, length) of each frame's chunk.

        Raises
        ------
        MovieTruncatedError
            The file ends before the last chunk does.
        MovieError
            A chunk has another size than the header says, or is of a kind that cannot be read.
        """
        return list(self._walk())

    def _known(self) -> dict[str, float | str]:
        """Optics and dose that komad kept in the archive; doses that differ are no one number and left out."""
        facts: dict[str, float | str] = {}
        kept: object = None
        with suppress(
            MovieError
        ):  # damaged metadata are told when they are asked for, and by `check_complete`
            kept = self.metadata.get("acquisition") if self._layout.has_json else None
        if isinstance(kept, dict):
            differs = kept.get("frame_doses") or kept.get("earlier_exposures")
            names = KEPT_OPTICS if differs else KEPT_OPTICS + KEPT_DOSE
            facts = {name: kept[name] for name in names if isinstance(kept.get(name), float | int)}
        for name, value in zip(("voltage_kv", "cs_mm"), self.optics, strict=True):
            if value is not None:
                facts.setdefault(name, float(f"{value:.6g}"))  # of 32 bits
        return facts

    def count_chunks(self) -> tuple[int, MovieError | None]:
        """Give the number of frames that are found before something is wrong with their order, and what it is.

        These frames can be read then, whatever follows.
        """
        found: list[tuple[int, int]] = []
        try:
            for chunk in self._walk():
                found.append(chunk)  # noqa: PERF402 - those before the error count
        except MovieError as error:
            self.chunks = found
            return len(found), error
        self.chunks = found
        return len(found), None

    def _walk(self) -> Iterator[tuple[int, int]]:
        offset = self._layout.data_offset
        for index in range(self._layout.n_frames):
            raw = self._source.read(offset, CHUNK_HEADER.size)
            if len(raw) < CHUNK_HEADER.size:
                raise MovieTruncatedError(
                    f"{self.path} holds {index} of {self._layout.n_frames} frames and ends at byte {offset + len(raw)}"
                )
            length = self._chunk_length(raw, index, offset)
            if offset + length > self._source.size_bytes:
                raise MovieTruncatedError(
                    f"{self.path} holds {index} of {self._layout.n_frames} frames: "
                    f"{offset + length - self._source.size_bytes} bytes of the next one are missing"
                )
            yield offset, length
            offset += length

    def _chunk_length(self, chunk: bytes, index: int, offset: int) -> int:
        version, _, _, _, decoded, _, length = CHUNK_HEADER.unpack_from(chunk)
        if version != BLOSC_1 or decoded != self._layout.frame_bytes or length < CHUNK_HEADER.size:
            raise MovieError(
                f"{self.path}: {self.frame_name(index)} is damaged: the blosc header at byte {offset} says version "
                f"{version} (must be {BLOSC_1}), {decoded} bytes decoded (must be {self._layout.frame_bytes}) and "
                f"{length} bytes encoded"
            )
        refuse_impossible(f"{self.path}: {self.frame_name(index)}", decoded, length)
        return int(length)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The JSON object in the extended header, else the one behind the last frame, else empty."""
        if self._layout.has_json:
            raw = self._source.read(HEADER_BYTES, min(self._layout.extended_bytes, MOST_METADATA_BYTES + 1))
            return _parse_json(raw, self.path, HEADER_BYTES)
        end = sum(self.chunks[-1])
        raw = self._source.read(end, MOST_METADATA_BYTES + 1).strip(b" \t\r\n\0")
        return _parse_json(raw, self.path, end) if raw.startswith(b"{") else {}

    @property
    def codec(self) -> str:
        """Compressor inside blosc, as the header says."""
        return {number: name for name, number in CODECS.items()}.get(self._layout.codec, "unknown")

    @property
    def optics(self) -> tuple[float | None, float | None]:
        """Voltage in kV and spherical aberration in mm, where python-mrcz and komad keep them; None when not said."""
        kv, cs = struct.unpack_from(self._layout.byte_order + "2f", self._source.read(132, 8))
        return kv if 0 < kv < MOST_KV else None, cs if 0 < cs < MOST_MM else None

    @property
    def has_checksums(self) -> bool:
        """Whether damage of any kind would be noticed."""
        return self._checksums is not None

    def check_frame(self, index: int) -> None:
        """Look whether a frame is as it was written: by its CRC, or, where there is none, by decoding it.

        Raises
        ------
        MovieError
            It is damaged.
        """
        self._check_without_checksum(self._chunk(index), index)

    def _check_without_checksum(self, chunk: bytes, index: int) -> None:
        if self._checksums is None:
            self._decode(chunk, index, np.empty(self._layout.frame_bytes, dtype=np.uint8))

    @cached_property
    def _checksums(self) -> list[int] | None:
        checksums = self.metadata.get(CHECKSUMS)
        return checksums if isinstance(checksums, list) and len(checksums) == self.header.n_frames else None

    def check_complete(self) -> None:
        """Walk all chunks."""
        _ = self.chunks, self.metadata  # each raises where something is missing

    def checksum(self) -> FileChecksum:
        """Read the whole file once and check each frame: its CRC, or, where there is none, whether it decodes.

        Raises
        ------
        MovieError
            A frame or the metadata are damaged.
        """
        digest = xxhash.xxh3_128()
        for block in self._source.blocks(end=self._layout.data_offset):
            digest.update(block)
        for index in range(self.header.n_frames):
            chunk = self._chunk(index)
            digest.update(chunk)
            self._check_without_checksum(chunk, index)
        for block in self._source.blocks(start=sum(self.chunks[-1])):
            digest.update(block)
        return FileChecksum(n_bytes=self._source.size_bytes, xxh3=digest.hexdigest())

    def raw_frame(self, index: int) -> bytes:
        """The chunk of a frame as it lies in the file, not checked."""
        return self._source.read(*self.chunks[index])

    def raw_start(self) -> bytes:
        """What lies before the first chunk: header and metadata."""
        return self._source.read(0, self._layout.data_offset)

    def _chunk(self, index: int) -> bytes:
        """The chunk of a frame, checked."""
        offset, length = self.chunks[index]
        chunk = self._source.read(offset, length)
        # Blosc believes the sizes in its header: they must be the right ones at this moment, not only in the index.
        if len(chunk) < length or self._chunk_length(chunk, index, offset) != length:
            raise MovieTruncatedError(f"{self.path}: {self.frame_name(index)} has changed or ends early")
        if self._checksums is not None and zlib.crc32(chunk) != self._checksums[index]:
            raise MovieError(
                f"{self.path}: {self.frame_name(index)} is damaged: the checksum of bytes {offset} to "
                f"{offset + length - 1} is not the one in the metadata"
            )
        return chunk

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002 - whole
        """Check and decode one chunk straight into `out`, or unpack it."""
        layout = self._layout
        chunk = self._chunk(index)
        target = out if layout.is_direct else np.empty(layout.frame_bytes, dtype=np.uint8)
        self._decode(chunk, index, target)
        if layout.is_direct:
            layout.restore_order(out)
        else:
            layout.unpack(target, out)

    def _decode(self, chunk: bytes, index: int, target: npt.NDArray[Any]) -> None:
        try:
            blosc.decompress_ptr(chunk, target.ctypes.data)
        except blosc.blosc_extension.error as error:
            raise MovieError(
                f"{self.path}: {self.frame_name(index)} is damaged: the blosc chunk at byte {self.chunks[index][0]} "
                "cannot be decoded"
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    data: bytes
    crc32: int
    pixels: bytes
    """XXH3 of the frame, in its type as it is read."""
    minimum: float
    maximum: float
    mean: float


def _write_chunks(
    file: BinaryIO,
    frames: Frames,
    stored: np.dtype[Any],
    *,
    codec: str,
    level: int,
    on_frame: Callable[[int], None] | None,
) -> list[_Chunk]:
    """Compress in parallel and write in order; the result keeps all but the data."""

    def compress(_: int, frame: npt.NDArray[Any]) -> _Chunk:
        frame = np.ascontiguousarray(frame, dtype=stored)
        data = blosc.compress_ptr(
            frame.ctypes.data, frame.size, frame.itemsize, clevel=level, shuffle=blosc.BITSHUFFLE, cname=codec
        )
        return _Chunk(
            data=data,
            crc32=zlib.crc32(data),
            pixels=_digest(frame),
            minimum=float(frame.min()),
            maximum=float(frame.max()),
            mean=float(frame.mean(dtype=np.float64)),
        )

    written = []
    with closing(map_frames(compress, frames)) as chunks:
        for index, chunk in enumerate(chunks):
            file.write(chunk.data)
            written.append(replace(chunk, data=b""))
            if on_frame is not None:
                on_frame(index)
    return written


def _statistics(chunks: list[_Chunk]) -> tuple[float, float, float]:
    return (
        min(chunk.minimum for chunk in chunks),
        max(chunk.maximum for chunk in chunks),
        sum(chunk.mean for chunk in chunks) / len(chunks),
    )


def _digest(frame: npt.NDArray[Any]) -> bytes:
    return xxhash.xxh3_128_digest(frame.data.cast("B"))


def _verify(temporary: Path, path: Path, chunks: list[_Chunk]) -> FileChecksum:
    def compare(index: int) -> bool:
        frame = reader.read_frame(index)
        return _digest(frame.astype(frame.dtype.newbyteorder("<"), copy=False)) == chunks[index].pixels

    try:
        with MrczReader(SourceFile(temporary)) as reader:
            reader.check_complete()
            digest, wrong = xxhash.xxh3_128(reader.raw_start()), []
            with closing(map_in_order(compare, len(chunks))) as same:
                for index, is_same in enumerate(same):
                    digest.update(reader.raw_frame(index))  # out of the page cache: compared a moment ago
                    if not is_same:
                        wrong.append(index + 1)
            n_bytes = sum(reader.chunks[-1])
    except MovieError as error:
        raise ArchiveError(f"the archive {path} cannot be read back after writing: {error}") from error
    if wrong:
        raise ArchiveError(
            f"the archive {path} does not read back as written: frames {wrong} (counted from 1) differ"
        )
    return FileChecksum(n_bytes=n_bytes, xxh3=digest.hexdigest())


def _layout(
    path: Path,
    shape: tuple[int, ...],
    stored: np.dtype[Any],
    pixel_size_angstrom: float | None,
    codec: str,
    extended_bytes: int,
) -> MrcLayout:
    if len(shape) != 3 or min(shape) < 1:
        raise ArchiveError(f"cannot archive {path}: frames of shape {shape}; needed is (n_frames, ny, nx)")
    if stored.name not in MODES:
        raise ArchiveError(
            f"cannot archive {path}: pixels of type {stored.name}; possible are {', '.join(MODES)}"
        )
    layout = MrcLayout(
        byte_order="<",
        mode=MODES[stored.name],
        codec=CODECS[codec],
        n_frames=shape[0],
        ny=shape[1],
        nx=shape[2],
        is_unsigned=stored.name == "uint8",
        extended_bytes=extended_bytes,
        has_json=True,
        pixel_size_angstrom=pixel_size_angstrom,
    )
    if layout.frame_bytes > blosc.MAX_BUFFERSIZE:
        raise ArchiveError(
            f"cannot archive {path}: a frame has {layout.frame_bytes} bytes, blosc's limit is {blosc.MAX_BUFFERSIZE}"
        )
    return layout


def _to_json(path: Path, metadata: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(metadata, allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"cannot archive {path}: its metadata are no JSON: {error}") from error


def _parse_json(raw: bytes, path: Path, offset: int) -> dict[str, Any]:
    if len(raw) > MOST_METADATA_BYTES:
        raise MovieError(
            f"{path}: the JSON metadata at byte {offset} are longer than {MOST_METADATA_BYTES} bytes"
        )
    try:
        metadata = json.loads(raw)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise MovieError(f"{path}: the JSON metadata at byte {offset} are damaged: {error}") from error
    if not isinstance(metadata, dict):
        raise MovieError(f"{path}: the JSON metadata at byte {offset} are no object")
    return metadata


def _set_up_blosc() -> None:
    # Blosc keeps these per process: frames run in parallel, so each call has one thread and frees the interpreter.
    blosc.set_nthreads(1)
    blosc.set_releasegil(True)
    blosc.set_blocksize(BLOCK_BYTES)
