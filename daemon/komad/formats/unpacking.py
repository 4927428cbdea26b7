"""Compressed files, unpacked from the start as a stream: gzip, bzip2, xz and zstd.

Sources: RFC 1952 (gzip) with the BGZF blocks of htslib, RFC 8878 (zstd), the .xz file format 1.2; bzip2 as its own
recovery program takes it apart: blocks begin at any bit, with the digits of pi.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, ClassVar, cast

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.source import SourceFile, map_in_order

CHUNK_BYTES = 4 << 20
"""Of unpacked data that is made at a time, whatever the packed bytes stand for."""
READ_BYTES, FIRST_BYTES = 1 << 20, 1 << 16
"""Of packed data that is read at a time; less for a start."""
MOST_DICTIONARY_BYTES = 128 << 20
"""Memory of an xz or zstd decoder: `xz -9` takes half of it, `zstd --ultra` just this."""
MOST_BLOCK_BYTES = 64 << 20
"""An xz block that is larger is unpacked as a stream and not beside others: `xz -6` makes them of 24 MiB."""


class Packing(ABC):
    """A compressed file. Nothing is unpacked before it is asked for."""

    name: ClassVar[str]
    signature: ClassVar[bytes]

    def __init__(self, source: SourceFile) -> None:
        self._source = source

    @classmethod
    def is_of(cls, start: bytes) -> bool:
        """Tell by the first bytes of a file whether it is compressed so."""
        return start.startswith(cls.signature)

    @abstractmethod
    def unpacked_bytes(self) -> int | None:
        """Look, cheaply, whether the file has its end; gives the bytes that it unpacks to, where it tells.

        Raises
        ------
        MovieTruncatedError
            Its end is missing.
        MovieError
            Its structure is damaged.
        """

    @abstractmethod
    def _stream(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        """All of it, `most` bytes at a time at most, in this thread; raises what the decoder raises."""

    def chunks(self) -> Generator[bytes, None, None]:
        """All unpacked bytes in their order, some megabytes at a time.

        Raises
        ------
        MovieTruncatedError, MovieError
            The file ends early, is damaged, or has other bytes behind its end.
        """
        with self._explained():
            yield from self._stream()

    def start(self, n_bytes: int) -> bytes:
        """The first unpacked bytes; fewer when there are no more. Errors as `chunks`."""
        found = b""
        with self._explained():
            for chunk in self._stream(n_bytes):
                found += chunk
                if len(found) >= n_bytes:
                    break
        return found[:n_bytes]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise self._truncated() from error
        except Exception as error:
            if isinstance(error, MovieError) or not isinstance(error, _decoding_errors()):
                raise
            raise self._damaged(str(error)) from error

    def _truncated(self) -> MovieTruncatedError:
        return MovieTruncatedError(
            f"{self._source.path} ends at byte {self._source.size_bytes}, and its {self.name} data do not end there: "
            "it is still being written, its copy was cut off, or something was added behind it"
        )

    def _damaged(self, reason: str) -> MovieError:
        return MovieError(f"{self._source.path}: its {self.name} data are damaged ({reason})")

    def _decode(self, begin: Callable[[], Any], most: int) -> Iterator[bytes]:
        """Unpack streams that follow one another with decoders as the standard library's. Raises EOFError at a cut."""
        decoder, raw, at = begin(), b"", 0
        while True:
            if not raw and (decoder.needs_input or decoder.eof):
                raw = self._source.read(at, READ_BYTES if at else FIRST_BYTES)
                at += len(raw)
                if not raw:
                    if not decoder.eof:
                        raise EOFError
                    return
            if decoder.eof:
                raw = self._next_stream(raw, at - len(raw))
                if not raw:
                    return
                decoder = begin()
            chunk = decoder.decompress(raw, most)
            raw = decoder.unused_data if decoder.eof else b""
            if chunk:
                yield chunk

    def _next_stream(self, raw: bytes, at: int) -> bytes:
        """What begins behind the end of a stream: another one, or nothing."""
        whole = raw + self._source.read(at + len(raw), len(self.signature))
        if not whole.startswith(self.signature):
            raise MovieError(
                f"{self._source.path}: at byte {at}, behind the end of its {self.name} data, other bytes follow; "
                "unpack it, and look whether all of the movie is there"
            )
        return raw


def _decoding_errors() -> tuple[type[Exception], ...]:
    import zstandard  # noqa: PLC0415 - with isal, for the few processes that unpack
    from isal import isal_zlib  # noqa: PLC0415

    isal_error = cast("Any", isal_zlib).IsalError  # its stub has an instance
    return (OSError, ValueError, MemoryError, lzma.LZMAError, isal_error, zstandard.ZstdError)


class Gzip(Packing):
    """RFC 1952. Its end tells the length of the last member, which is the only one but in files of bgzip."""

    name = "gzip"
    signature = b"\x1f\x8b"

    BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

    def unpacked_bytes(self) -> int | None:
        """The length as it stands at the end, which is that of the movie modulo 4 GiB; None for bgzip."""
        size = self._source.size_bytes
        if self._source.read(size - len(self.BGZF_END), len(self.BGZF_END)) == self.BGZF_END:
            return None
        return int.from_bytes(self._source.read(size - 4, 4), "little") if size >= 18 else None

    def _stream(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        return self._decode(_GzipDecoder, most)


class _GzipDecoder:
    """isal's decoder with the attributes that those of the standard library have."""

    def __init__(self) -> None:
        from isal import isal_zlib  # noqa: PLC0415

        self._decoder = isal_zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, raw: bytes, most: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + raw, most)


class Bzip2(Packing):
    """Blocks of at most 900 kB, which threads unpack beside each other: each becomes a stream of its own."""

    name = "bzip2"
    signature = b"BZh"

    BLOCK, END = 0x314159265359, 0x177245385090
    """Of 48 bits: pi, at the start of a block; its square root, at the end of a stream. A checksum follows each."""
    HEADER = re.compile(rb"BZh[1-9]")
    SCAN_BYTES = 4 << 20

    def unpacked_bytes(self) -> None:
        """Look for the end of a stream in the file's last bytes; how much it unpacks to, nothing tells."""
        if self._end_of_stream(self._source.size_bytes) is None:
            raise self._truncated()

    def _stream(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        return self._decode(bz2.BZ2Decompressor, most)

    def chunks(self) -> Generator[bytes, None, None]:
        """As of every packing. The file is read once more before, to find the blocks."""
        n_given = 0
        with self._explained():
            try:
                blocks = self._blocks()
                with closing(map_in_order(lambda k: self._unpack(*blocks[k]), len(blocks))) as unpacked:
                    for chunk in unpacked:
                        n_given += len(chunk)
                        yield chunk
            except (OSError, EOFError):
                # Damage, or what looks like the start of a block by chance: who reads bit after bit knows.
                for chunk in self._stream():
                    if n_given < len(chunk):
                        yield chunk[n_given:]
                    n_given = max(0, n_given - len(chunk))

    def _unpack(self, start: int, end: int) -> bytes:
        """Unpack the block between two bits, as a stream: header, block, end, and its checksum as that of all."""
        bits = self._bits(start, end - start)
        checksum = self._bits(start + 48, 32)
        n_bits = end - start + 80
        stream = ((bits << 48 | self.END) << 32 | checksum) << -n_bits % 8
        decoder = bz2.BZ2Decompressor()
        unpacked = decoder.decompress(b"BZh9" + stream.to_bytes((n_bits + 7) // 8, "big"), CHUNK_BYTES)
        if not decoder.eof:  # cut off; or of bytes all alike, of which 46 MB fit into a block
            raise EOFError
        return unpacked

    def _blocks(self) -> list[tuple[int, int]]:
        """(first bit, bit behind the last one) of each block. Raises EOFError when there is no telling."""
        n_pieces = -(-self._source.size_bytes // self.SCAN_BYTES)
        with closing(map_in_order(self._find_starts, n_pieces)) as found:
            starts = [start for piece in found for start in piece]
        blocks: list[tuple[int, int]] = []
        checksum = 0
        for start, following in zip(starts, [*starts[1:], 8 * (self._source.size_bytes + 4)], strict=True):
            checksum = (checksum << 1 & 0xFFFFFFFF | checksum >> 31) ^ self._bits(start + 48, 32)
            next_stream = following // 8 - 4
            is_last = following % 8 == 0 and (
                following == 8 * (self._source.size_bytes + 4)
                or self.HEADER.match(self._source.read(next_stream, 4)) is not None
            )
            end = self._end_of_stream(next_stream) if is_last else following
            if end is None or (is_last and self._bits(end + 48, 32) != checksum):
                raise EOFError
            if is_last:
                checksum = 0
            blocks.append((start, end))
        if not blocks or blocks[0][0] != 32:
            raise EOFError
        return blocks

    def _find_starts(self, piece: int) -> list[int]:
        """Bits at which blocks seem to start, of those that start in one piece of the file."""
        offset = piece * self.SCAN_BYTES
        raw = self._source.read(offset, self.SCAN_BYTES + 6)
        starts = []
        for shift in range(8):
            # Of the mark, shifted by some bits, five bytes are whole.
            whole = (self.BLOCK << 8 - shift).to_bytes(7, "big")[1:6]
            at = raw.find(whole, 1 if shift else 0)
            while at >= 0:
                start = 8 * (at - 1) + shift
                if 0 <= start < 8 * self.SCAN_BYTES and (
                    int.from_bytes(raw[at - 1 : at + 6].ljust(7, b"\0"), "big") >> 8 - shift & (1 << 48) - 1
                    == self.BLOCK
                ):
                    starts.append(8 * offset + start)
                at = raw.find(whole, at + 1)
        return sorted(starts)

    def _end_of_stream(self, end: int) -> int | None:
        """Bit at which the end of the stream is marked whose last byte is before byte `end`."""
        raw = int.from_bytes(self._source.read(max(0, end - 11), min(11, end)), "big")
        for padding in range(8):
            if raw >> 32 + padding & (1 << 48) - 1 == self.END:
                return 8 * end - padding - 80
        return None

    def _bits(self, start: int, n_bits: int) -> int:
        last = start + n_bits
        raw = self._source.read(start // 8, (last + 7) // 8 - start // 8)
        if 8 * len(raw) < last - start // 8 * 8:
            raise EOFError
        return int.from_bytes(raw, "big") >> -last % 8 & (1 << n_bits) - 1


class Xz(Packing):
    """Streams of blocks with an index of their sizes at the end; threads unpack blocks beside each other."""

    name = "xz"
    signature = b"\xfd7zXZ\0"

    FRAME_BYTES = 12
    """Header and footer of a stream."""
    PADDING = bytes(4)
    """May follow each stream, any number of times."""

    def unpacked_bytes(self) -> int:
        """The sum of the sizes in the index, which must account for each byte of the file."""
        return sum(unpacked for _, _, unpacked, _ in self._blocks())

    def _stream(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        return self._decode(_xz_decoder, most)

    def chunks(self) -> Generator[bytes, None, None]:
        """As of every packing."""
        with self._explained():
            blocks = self._blocks()
            if len(blocks) < 2 or max(unpacked for _, _, unpacked, _ in blocks) > MOST_BLOCK_BYTES:
                yield from self._stream()
                return
            with closing(map_in_order(lambda k: self._unpack(*blocks[k]), len(blocks))) as unpacked_blocks:
                yield from unpacked_blocks

    def _next_stream(self, raw: bytes, at: int) -> bytes:
        while raw.startswith(self.PADDING):
            raw = raw[4:] or self._source.read(at := at + 4, READ_BYTES)
        return super()._next_stream(raw, at) if raw else raw

    def _unpack(self, offset: int, packed: int, unpacked: int, flags: bytes) -> bytes:
        """Unpack a block as a stream of its own, with an index of one entry."""
        padded = packed + -packed % 4
        index = b"\0\1" + _number(packed) + _number(unpacked)
        index += bytes(-len(index) % 4)
        index += struct.pack("<I", zlib.crc32(index))
        tail = struct.pack("<I", len(index) // 4 - 1) + flags
        stream = (
            self.signature + flags + struct.pack("<I", zlib.crc32(flags)),
            self._source.read(offset, padded),
            index,
            struct.pack("<I", zlib.crc32(tail)) + tail + b"YZ",
        )
        decoder = _xz_decoder()
        data = decoder.decompress(b"".join(stream), unpacked + 1)
        if not decoder.eof:
            raise EOFError
        return data

    def _blocks(self) -> list[tuple[int, int, int, bytes]]:
        """(offset, bytes without padding, bytes unpacked, flags of the stream) of each block.

        Raises MovieTruncatedError, MovieError.
        """
        blocks: list[tuple[int, int, int, bytes]] = []
        end = self._source.size_bytes
        while end > 0:
            if self._source.read(end - 4, 4) == self.PADDING:
                end -= 4
                continue
            end, found = self._stream_before(end)
            blocks[:0] = found
        return blocks

    def _stream_before(self, end: int) -> tuple[int, list[tuple[int, int, int, bytes]]]:
        """Where the stream begins that ends at byte `end`, and its blocks."""
        footer = self._source.read(max(0, end - self.FRAME_BYTES), self.FRAME_BYTES)
        if (
            len(footer) < self.FRAME_BYTES
            or footer[10:] != b"YZ"
            or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little")
        ):
            raise self._truncated()
        index_bytes = 4 * (int.from_bytes(footer[4:8], "little") + 1)
        index_at = end - self.FRAME_BYTES - index_bytes
        if index_at < self.FRAME_BYTES:
            raise self._damaged("its index is longer than the file")
        index = self._source.read(index_at, index_bytes)
        if index[:1] != b"\0" or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise self._damaged("the checksum of its index differs")
        numbers = _numbers(index[1:-4])
        records = list(zip(numbers[1::2], numbers[2::2], strict=False))[: numbers[0] if numbers else 0]
        start = index_at - sum(packed + -packed % 4 for packed, _ in records) - self.FRAME_BYTES
        if not numbers or len(records) != numbers[0] or start < 0:
            raise self._damaged("its index and its length do not fit")
        if self._source.read(start, 8) != self.signature + footer[8:10]:
            raise self._damaged("its index does not lead to its beginning")
        offset, blocks = start + self.FRAME_BYTES, []
        for packed, unpacked in records:
            blocks.append((offset, packed, unpacked, footer[8:10]))
            offset += packed + -packed % 4
        return start, blocks


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * MOST_DICTIONARY_BYTES)


def _number(value: int) -> bytes:
    """Write a number as an index does: seven bits in a byte, the lowest first."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _numbers(raw: bytes) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


class Zstd(Packing):
    """RFC 8878: frames of blocks, each of which tells its length."""

    name = "zstd"
    signature = b"\x28\xb5\x2f\xfd"

    SKIPPABLE = 0x184D2A50
    """The lowest four bits are free; `pzstd` puts such a frame before each of its others."""

    @classmethod
    def is_of(cls, start: bytes) -> bool:
        """Tell by the first bytes of a file whether it is compressed so."""
        return super().is_of(start) or int.from_bytes(start[:4], "little") & ~0xF == cls.SKIPPABLE

    def unpacked_bytes(self) -> int | None:
        """Walk from block to block; None unless each frame tells its length, as it does unless zstd read a pipe."""
        at, total = 0, 0
        is_told = True
        while at < self._source.size_bytes:
            at, unpacked = self._frame_end(at)
            is_told &= unpacked is not None
            total += unpacked or 0
        return total if is_told else None

    def _frame_end(self, at: int) -> tuple[int, int | None]:
        """The byte behind a frame, and the bytes that it unpacks to, if it tells."""
        raw = self._source.read(at, 18)
        if len(raw) < 8:
            raise self._truncated()
        magic = int.from_bytes(raw[:4], "little")
        if magic & ~0xF == self.SKIPPABLE:
            end = at + 8 + int.from_bytes(raw[4:8], "little")
            if end > self._source.size_bytes:
                raise self._truncated()
            return end, 0
        if not raw.startswith(self.signature):
            raise self._damaged(f"at byte {at} there is no frame")
        descriptor = raw[4]
        is_single, has_checksum = descriptor & 0x20, descriptor & 0x04
        size_bytes = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
        size_at = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3]
        unpacked = int.from_bytes(raw[size_at : size_at + size_bytes], "little") if size_bytes else None
        if size_bytes == 2:
            unpacked = (unpacked or 0) + 256
        at += size_at + size_bytes
        while True:
            block = int.from_bytes(self._source.read(at, 3), "little")
            at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)  # one byte, repeated
            if at + (4 if has_checksum else 0) > self._source.size_bytes:
                raise self._truncated()
            if block & 1:
                return at + (4 if has_checksum else 0), unpacked

    def _stream(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        import zstandard  # noqa: PLC0415

        decoder = zstandard.ZstdDecompressor(max_window_size=MOST_DICTIONARY_BYTES)
        file = cast("Any", _Reading(self._source))
        with decoder.stream_reader(
            file, read_size=max(most // 8, 1 << 12), read_across_frames=True
        ) as stream:
            while chunk := stream.read(most):
                yield chunk


class _Reading:
    """A source as a file that is read from its start."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._at = 0

    def read(self, n_bytes: int) -> bytes:
        raw = self._source.read(self._at, n_bytes)
        self._at += len(raw)
        return raw


PACKINGS: tuple[type[Packing], ...] = (Gzip, Bzip2, Xz, Zstd)


def packing_of(source: SourceFile, start: bytes) -> Packing | None:
    """Tell by the first bytes of a file how it is compressed; None when it is not."""
    for packing in PACKINGS:
        if packing.is_of(start):
            return packing(source)
    return None
