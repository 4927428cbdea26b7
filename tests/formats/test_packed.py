"""MRC movies in compressed files: read as the movie inside, proven complete as far as each format allows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from komad.arrays import thread_pool
from komad.errors import MovieError, MovieTruncatedError
from komad.formats import limits, movies, unpacking
from komad.model import MovieFormat
from tests.formats.files import counts, mrc_bytes, packed_4_bit, write_tiff_movie


def xz_blocks(data: bytes, size: int) -> bytes:
    """As `xz -T` writes it: one stream of several blocks; built from one-block streams by the .xz format 1.2."""
    header, footer_flags, blocks, records = b"", b"", b"", b""

    def number(value: int) -> bytes:
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    for start in range(0, len(data), size):
        part = data[start : start + size]
        one = lzma.compress(part)
        index_bytes = 4 * (struct.unpack("<I", one[-8:-4])[0] + 1)
        index = one[-12 - index_bytes : -12]
        packed = shift = 0
        for byte in index[2:]:
            packed |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        header, footer_flags = one[:12], one[-4:-2]
        blocks += one[12 : 12 + packed + -packed % 4]
        records += number(packed) + number(len(part))
    index = b"\0" + number(-(-len(data) // size)) + records
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", lzma_crc(index))
    tail = struct.pack("<I", len(index) // 4 - 1) + footer_flags
    return header + blocks + index + struct.pack("<I", lzma_crc(tail)) + tail + b"YZ"


def lzma_crc(data: bytes) -> int:
    """CRC-32, which xz shares with gzip."""
    import zlib

    return zlib.crc32(data)


def halves(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Two streams one after the other."""
    return lambda data: compress(data[: len(data) // 2]) + compress(data[len(data) // 2 :])


def zstd_pipe(data: bytes) -> bytes:
    """As zstd writes what it reads from a pipe: the frame does not tell its length."""
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return packer.compress(data) + packer.flush()


def bgzip(data: bytes) -> bytes:
    """Members of some kilobytes, and an empty one at the end that marks it."""
    parts = [gzip.compress(data[start : start + 9000]) for start in range(0, len(data), 9000)]
    return b"".join(parts) + unpacking.Gzip.BGZF_END


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "gz, bgzip": bgzip,
    "bz2": lambda data: bz2.compress(data, 1),
    "bz2, pbzip2": halves(lambda data: bz2.compress(data, 1)),
    "xz": lzma.compress,
    "xz, threads": lambda data: xz_blocks(data, 50_000),
    "xz, two streams": lambda data: halves(lzma.compress)(data) + bytes(8),
    "zst": zstandard.ZstdCompressor().compress,
    "zst, pipe": zstd_pipe,
    "zst, pzstd": halves(lambda data: b"\x50\x2a\x4d\x18\4\0\0\0size" + zstandard.compress(data)),
}
SHAPE = (5, 200, 301)
FRAMES = counts(SHAPE)
MOVIE = mrc_bytes(SHAPE, 0, FRAMES.tobytes(), imod_flags=0, extended=bytes(256))


@pytest.fixture(params=PACKERS)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The movie, compressed; under a name that does not say how."""
    path = tmp_path / "movie.mrc"
    path.write_bytes(PACKERS[request.param](MOVIE))
    return path


def test_the_movie_inside_is_read(packed: Path) -> None:
    """Header, all frames in order, and the word that it is complete are those of the movie inside."""
    told: list[int] = []
    movies.check_complete(packed)
    assert movies.identify(packed) is MovieFormat.MRC
    assert movies.read_header(packed).shape == SHAPE
    assert np.array_equal(movies.read_frames(packed, on_frame=told.append), FRAMES)
    assert told == list(range(5))


def test_single_frames(packed: Path) -> None:
    """Frames come in any order, from threads of the pool too; nothing lies behind the last."""
    with movies.open_movie(packed) as movie:
        for index in (3, 4, 0, 2):
            assert np.array_equal(movie.read_frame(index), FRAMES[index])
        assert np.array_equal(list(thread_pool().map(movie.read_frame, range(5))), FRAMES)
        assert movie.bytes_behind == 0


def test_threads_of_the_pool_go_on_with_a_stream(tmp_path: Path) -> None:
    """A stream whose blocks the pool unpacks, begun by one thread, does not wait for itself in those of the pool."""
    frames = np.random.default_rng(1).integers(0, 255, (10, 300, 512)).astype(np.uint8)
    path = tmp_path / "a.mrc"
    raw = mrc_bytes(frames.shape, 0, frames.tobytes(), imod_flags=0)
    path.write_bytes(bz2.compress(raw, 1))  # blocks of 100 kB
    with movies.open_movie(path) as movie:
        assert np.array_equal(movie.read_frame(0), frames[0])
        rest = [thread_pool().submit(movie.read_frame, index) for index in range(1, 10)]
        assert np.array_equal([each.result(timeout=20) for each in rest], frames[1:])


def test_every_cut_is_found(packed: Path) -> None:
    """Cut anywhere, the movie is truncated and never damaged or whole; mostly that is seen without reading it."""
    whole, missed = packed.read_bytes(), 0
    n_bytes = len(whole.rstrip(b"\0"))  # padding of xz, and of the mark at the end of bgzip's files
    cuts = [*range(1, 40, 7), *range(100, n_bytes, n_bytes // 13), *range(n_bytes - 9, n_bytes)]
    for cut in cuts:
        packed.write_bytes(whole[:cut])
        with pytest.raises(MovieTruncatedError):
            movies.read_frames(packed)
        try:
            movies.check_complete(packed)
            missed += 1
        except MovieTruncatedError:
            pass
    assert missed <= 1


@pytest.mark.parametrize("name", ["bz2", "zst", "gz", "xz"])
def test_damage_is_told(tmp_path: Path, name: str) -> None:
    """A wrong byte in the middle is found by a checksum, and never gives other counts."""
    path = tmp_path / "a"
    pack = zstd_pipe if name == "zst" else PACKERS[name]
    data = bytearray(pack(MOVIE))
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(
        MovieError, match=f"its {unpacking.packing_of(None, bytes(data)).name} data"
    ) as caught:  # type: ignore[arg-type,union-attr]
        movies.read_frames(path)
    assert str(path) in str(caught.value)


def test_garbage_behind_the_end(packed: Path) -> None:
    """What was added behind the end is not taken for a movie, nor passed over."""
    packed.write_bytes(packed.read_bytes() + b"more text")
    with pytest.raises(MovieError):
        movies.check_complete(packed)
    with pytest.raises(MovieError):
        movies.read_frames(packed)


def test_a_movie_that_was_cut_before_it_was_compressed(tmp_path: Path) -> None:
    """A whole file that unpacks to too little is truncated: seen at once where the file tells its length."""
    for name, pack in PACKERS.items():
        path = tmp_path / "a"
        path.write_bytes(pack(MOVIE[:-1000]))
        if name not in {"bz2", "bz2, pbzip2", "gz, bgzip", "zst, pipe"}:
            with pytest.raises(MovieTruncatedError):
                movies.check_complete(path)
        with pytest.raises(MovieTruncatedError, match=r"1000 bytes|length of its 5 frames"):
            movies.read_frames(path)


def test_a_bomb_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that unpacks to more than its header says, no more than a frame and a few blocks is unpacked."""
    given = 0
    chunks = unpacking._Reading.read

    def counted(self: unpacking._Reading, n_bytes: int) -> bytes:
        nonlocal given
        given += (data := chunks(self, n_bytes)).__len__()
        return data

    monkeypatch.setattr(unpacking._Reading, "read", counted)
    path = tmp_path / "a.mrc.zst"
    path.write_bytes(zstd_pipe(MOVIE + bytes(300 << 20)))
    with pytest.raises(MovieError, match="unpacks to more than the 5 frames") as caught:
        movies.read_frames(path)
    assert not caught.value.retry
    path.write_bytes(zstandard.compress(MOVIE + bytes(1 << 20)))
    with pytest.raises(MovieError, match="unpacks to more than the 5 frames"):
        movies.check_complete(path)


def test_a_header_that_announces_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is taken for frames that no compressor makes of so few bytes, or that the machine cannot hold."""
    path = tmp_path / "a.mrc.bz2"
    path.write_bytes(bz2.compress(mrc_bytes((9000, 9000, 9000), 0, b"")))
    with pytest.raises(MovieError, match="which no codec"):
        movies.read_frames(path)
    path.write_bytes(bz2.compress(MOVIE))
    monkeypatch.setattr(limits, "machine_memory_bytes", lambda: FRAMES.nbytes)
    with pytest.raises(MovieError, match="this machine has room"):
        movies.read_frames(path)


def test_what_else_is_compressed(tmp_path: Path) -> None:
    """Texts, movies that are compressed by themselves, and files that are compressed twice: each is said."""
    path = tmp_path / "a.bz2"
    for content, message in (
        (b"some text " * 300, "no MRC file that can be read.*compressed with bzip2"),
        (gzip.compress(MOVIE), "compressed twice"),
        (write_tiff_movie(tmp_path / "a.tif", FRAMES).read_bytes(), "kind tiff.*unpack it"),
        (b"<?xml version='1.0'?>" + b" " * 2000, "an XML text.*compressed with bzip2"),
        (MOVIE[:500], "an MRC header has 1024"),
        (b"", "is empty"),
    ):
        path.write_bytes(bz2.compress(content))
        with pytest.raises(MovieError, match=message):
            movies.read_header(path)


@pytest.mark.parametrize(("mode", "dtype"), [(101, "uint8"), (12, "float16"), (6, "uint16"), (1, "int16")])
def test_pixels_that_are_not_bytes(tmp_path: Path, mode: int, dtype: str) -> None:
    """4-bit pixels, 16-bit floats and the other byte order come as from an uncompressed movie."""
    frames = counts((3, 21, 33), dtype)
    data = packed_4_bit(frames) if mode == 101 else frames.astype(np.dtype(dtype).newbyteorder(">")).tobytes()
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(mrc_bytes(frames.shape, mode, data, order="<" if mode == 101 else ">")))
    assert np.array_equal(movies.read_frames(path), frames)
    path.write_bytes(
        gzip.compress(mrc_bytes(frames.shape, mode, data, order="<" if mode == 101 else ">") + b"tail")
    )
    with pytest.raises(MovieTruncatedError, match="something follows its frames"):
        movies.check_complete(path)


def test_a_mark_of_bzip2_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like the start of a block and is none does not matter: the file is read bit after bit then."""
    path = tmp_path / "a.mrc.bz2"
    path.write_bytes(bz2.compress(MOVIE, 1))
    find = unpacking.Bzip2._find_starts
    monkeypatch.setattr(
        unpacking.Bzip2, "_find_starts", lambda self, piece: sorted([*find(self, piece), 321_987])
    )
    assert np.array_equal(movies.read_frames(path), FRAMES)
