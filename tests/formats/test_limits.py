"""Headers that announce more than can be: refused before memory is taken."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import blosc
import numpy as np
import pytest

from komad.errors import KomadError, MovieError, ReferenceFileError
from komad.formats import limits, movies
from komad.formats.defects import read_defects
from komad.formats.images import read_image
from komad.formats.mrcz import MOST_METADATA_BYTES, read_metadata
from komad.formats.source import SourceFile
from tests.formats.files import counts, mrc_bytes, write_mrc_movie, write_tiff_movie
from tests.formats.test_tiff import page_directories, tag_value_at


@contextmanager
def refused(message: str, error: type[KomadError] = MovieError) -> Iterator[None]:
    """The block raises this, and takes less than a mebibyte on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def set_tag(path: Path, tag: int, value: int, page: int = 0) -> None:
    """Change the value of a tag."""
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, tag_value_at(raw, page_directories(raw)[page], tag), value)
    path.write_bytes(raw)


def test_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A movie whose frames do not fit into three quarters of the memory is refused with both sizes."""
    path = write_mrc_movie(tmp_path / "m.mrc", counts((4, 500, 1000)), 0)
    monkeypatch.setattr(limits, "machine_memory_bytes", lambda: 2_000_000)
    with refused(r"announces 0\.00 GB of pixels, and this machine has room for 0\.00 GB"):
        movies.read_frames(path)
    monkeypatch.setattr(limits, "machine_memory_bytes", lambda: 2_700_000)
    assert movies.read_frames(path).shape == (4, 500, 1000)


def test_the_memory_of_this_machine() -> None:
    """It is what the kernel tells, or less."""
    (total,) = (
        line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    )
    assert 0 < limits.machine_memory_bytes() <= 1024 * int(total)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "adobe_deflate", None])
def test_tiff_with_an_absurd_width(tmp_path: Path, compression: str | None) -> None:
    """A reference of a thousand bytes that announces 25 GB asked for 25 GB; now for nothing."""
    path = write_tiff_movie(tmp_path / "gain.tif", counts((1, 12, 17), "float32"), compression=compression)
    read_image(path)
    for width in (518_186_137, 1_000_000):
        set_tag(path, 256, width)
        with refused(r"cannot be used: .*(no codec makes|are no frames|its pixels need)", ReferenceFileError):
            read_image(path)


def test_a_picture_without_beam_is_no_bomb(tmp_path: Path) -> None:
    """The same count everywhere compresses by some thousands, and is read."""
    dark = np.zeros((1, 4096, 4096), np.uint8)
    path = write_tiff_movie(tmp_path / "m.tif", dark, compression="zstd", rowsperstrip=4096)
    assert dark.size > 5_000 * path.stat().st_size
    assert not movies.read_frames(path).any()


def test_strips_that_lie_over_each_other(tmp_path: Path) -> None:
    """Many strips of the same bytes would be decoded for hours."""
    path = write_tiff_movie(tmp_path / "m.tif", counts((8, 60, 60)))
    raw = bytearray(path.read_bytes())
    for directory in page_directories(raw):
        struct.pack_into("<I", raw, tag_value_at(raw, directory, 273), 0x10)
        struct.pack_into("<I", raw, tag_value_at(raw, directory, 279), len(raw) - 16)
    path.write_bytes(raw)
    with refused("lie over each other"):
        movies.check_complete(path)


def test_tiff_whose_samples_are_none(tmp_path: Path) -> None:
    """A page of no sample per pixel is an error of the file, not of the program."""
    path = write_tiff_movie(tmp_path / "m.tif", counts((2, 20, 33)), tile=(16, 16), compression="lzw")
    for page in (1, 0):
        set_tag(path, 277, 0, page)
        with pytest.raises(MovieError):
            movies.read_frames(path)


def test_more_frames_than_any_movie(tmp_path: Path) -> None:
    """100,001 frames of one pixel are a mistake in the header."""
    (tmp_path / "m.mrc").write_bytes(mrc_bytes((100_001, 1, 1), 0, bytes(100_001)))
    with refused("announces 100001 frames, which no movie has"):
        movies.read_header(tmp_path / "m.mrc")


def mrcz_bytes(chunk: bytes, side: int, metadata: bytes = b"{}", kind: bytes = b"json") -> bytes:
    """One frame of bytes with this chunk."""
    data = bytearray(mrc_bytes((1, side, side), 6000, chunk, extended=metadata))
    data[104:108] = kind
    return bytes(data)


def test_a_chunk_that_no_codec_makes(tmp_path: Path) -> None:
    """A gigabyte of 40 bytes is refused by the header of the chunk."""
    side = 1 << 15
    chunk = struct.pack("<4B3I", 2, 1, 0x91, 1, side * side, 1 << 20, 40) + bytes(24)
    (tmp_path / "m.mrcz").write_bytes(mrcz_bytes(chunk, side))
    with refused("40 bytes are said to hold 1073741824 bytes of pixels, which no codec makes"):
        movies.read_frames(tmp_path / "m.mrcz")


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b"[]", b"null"])
@pytest.mark.parametrize("kind", [b"json", bytes(4)])
def test_metadata_that_are_no_object(tmp_path: Path, text: bytes, kind: bytes) -> None:
    """Depth, digits, bytes and types that no description has: damaged metadata, or none."""
    chunk = blosc.compress(counts((64, 64)).tobytes(), 1)
    before = kind == b"json"
    data = mrcz_bytes(chunk, 64, text if before else b"", kind) + (b"" if before else b"{" + text)
    (tmp_path / "m.mrcz").write_bytes(data)
    with pytest.raises(MovieError, match=r"the JSON metadata at byte \d+ are"):
        read_metadata(tmp_path / "m.mrcz")


def test_metadata_that_are_too_long(tmp_path: Path) -> None:
    """They are not parsed: a parsed text is many times as large."""
    with (tmp_path / "m.mrcz").open("wb") as file:
        file.write(mrcz_bytes(b"", 64))
        length = MOST_METADATA_BYTES + 1
        file.seek(92)
        file.write(struct.pack("<i", length))
        file.truncate(2048 + length)
    with pytest.raises(MovieError, match="are longer than 67108864 bytes"):
        read_metadata(tmp_path / "m.mrcz")


def test_reading_takes_no_memory_for_what_is_not_there(tmp_path: Path) -> None:
    """A damaged length asks for 2^62 bytes and gets those of the file."""
    (tmp_path / "a").write_bytes(b"abc")
    with SourceFile(tmp_path / "a") as source:
        assert source.read(1, 1 << 62) == b"bc"
        assert source.read(1 << 62, 5) == b""


@pytest.mark.parametrize("number", ["9" * 400, "99999999999", "-" + "9" * 400])
def test_defects_far_away(tmp_path: Path, number: str) -> None:
    """Places that cannot be computed with are no places."""
    for text in (
        f"1 1 {number} 2\n",
        f"CameraSizeX {number}\nCameraSizeY 12\n",
        f"CameraSizeX 17\nBadRows {number}\n",
    ):
        (tmp_path / "d.txt").write_text(text)
        with pytest.raises(ReferenceFileError, match=r"line [12]"):
            read_defects(tmp_path / "d.txt", (12, 17))
