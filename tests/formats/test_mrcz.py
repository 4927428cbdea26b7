"""MRCZ archives, against python-mrcz in both directions."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc
import mrcz
import numpy as np
import pytest

from komad.arrays import thread_count
from komad.errors import ArchiveError, DiskFullError, MovieError, MovieTruncatedError
from komad.formats import movies
from komad.formats import mrcz as archive
from komad.model import MovieFormat
from tests.formats.files import counts

CODECS = ["zstd", "lz4", "lz4hc", "zlib", "blosclz"]
PIXELS = {"pixel_size_angstrom": 0.885, "voltage_kv": 300.0, "cs_mm": 2.7}


def write(path: Path, frames: np.ndarray, metadata: dict[str, Any] | None = None, **options: Any) -> Path:
    """Archive with the usual optics."""
    archive.write_mrcz(path, frames, metadata=metadata or {}, **PIXELS, **options)
    return path


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32", "int32", "float32"])
def test_python_mrcz_reads_ours(tmp_path: Path, dtype: str, codec: str) -> None:
    """python-mrcz gives the same frames (uint8 as the same bits), metadata and numbers of the header."""
    frames = counts((3, 9, 14), dtype)
    write(tmp_path / "a.mrcz", frames, {"source": {"name": "a.tif"}}, codec=codec)
    read, header = mrcz.readMRC(str(tmp_path / "a.mrcz"))
    assert isinstance(read, np.ndarray)
    np.testing.assert_array_equal(read.view(dtype), frames)
    assert header["compressor"] == codec
    assert header["source"] == {"name": "a.tif"}
    np.testing.assert_allclose(header["pixelsize"], 0.885, rtol=1e-6)
    assert (header["voltage"], header["C3"], header["gain"]) == (300.0, pytest.approx(2.7), 1.0)
    assert header["packedBytes"] == (tmp_path / "a.mrcz").stat().st_size - 1024 - header["extendedBytes"]


@pytest.mark.parametrize("metadata", [None, {"note": "µ Å", "stage": [1.5, {"tilt": -3}]}])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
def test_we_read_what_python_mrcz_writes(
    tmp_path: Path, dtype: str, codec: str, metadata: dict[str, Any] | None
) -> None:
    """Frames, metadata and pixel size survive, whether the frames were given as a list or as one array."""
    frames = counts((3, 9, 14), dtype)
    for given in (frames, list(frames)):
        mrcz.writeMRC(given, str(tmp_path / "p.mrcz"), meta=metadata, compressor=codec, pixelsize=1.06)
        header = movies.read_header(tmp_path / "p.mrcz")
        assert (header.format, header.dtype, header.pixel_size_angstrom) == (MovieFormat.MRCZ, dtype, 1.06)
        np.testing.assert_array_equal(movies.read_frames(tmp_path / "p.mrcz"), frames)
        assert archive.read_metadata(tmp_path / "p.mrcz") == (metadata or {})


def test_big_endian_archive_of_python_mrcz(tmp_path: Path) -> None:
    """The byte order of header and pixels is followed."""
    frames = counts((2, 9, 14), "int16")
    mrcz.writeMRC(frames.astype(">i2"), str(tmp_path / "p.mrcz"), compressor="zstd", endian="be", dtype=">i2")
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "p.mrcz"), frames)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32", "float32"])
def test_round_trip_keeps_type_and_bits(tmp_path: Path, dtype: str) -> None:
    """What was archived comes back with its own type, the extreme values too."""
    frames = counts((4, 8, 6), dtype)
    limits = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    frames[1, 2, 3], frames[3, 7, 5] = limits.max, limits.min
    read = movies.read_frames(write(tmp_path / "a.mrcz", frames))
    assert read.dtype == frames.dtype
    np.testing.assert_array_equal(read, frames)


def test_nan_is_kept(tmp_path: Path) -> None:
    """Verification compares bits: pixels that are not numbers do not make it fail."""
    frames = counts((2, 8, 6), "float32")
    frames[0, 0, 0] = np.nan
    np.testing.assert_array_equal(movies.read_frames(write(tmp_path / "a.mrcz", frames)), frames)


def test_float16_is_stored_as_float32_and_says_so(tmp_path: Path) -> None:
    """No reader of MRCZ knows mode 12; the metadata tell where the frames came from."""
    frames = counts((2, 8, 6), "float16")
    read = movies.read_frames(write(tmp_path / "a.mrcz", frames))
    metadata = archive.read_metadata(tmp_path / "a.mrcz")
    assert (read.dtype, metadata["dtype"], metadata["source_dtype"]) == (np.float32, "float32", "float16")
    np.testing.assert_array_equal(read, frames)


def test_optics_and_dose_that_are_kept(tmp_path: Path) -> None:
    """What the acquisition in the metadata tells is among the header's facts; doses that differ are no one number."""
    acquisition: dict[str, Any] = {
        "voltage_kv": 200.0,
        "dose_per_frame": 1.2,
        "frame_doses": None,
        "cs_mm": "?",
    }
    path = write(tmp_path / "a.mrcz", counts((2, 8, 6), "uint8"), {"acquisition": acquisition})
    assert movies.read_header(path).facts == {"voltage_kv": 200.0, "dose_per_frame": 1.2, "cs_mm": 2.7}
    acquisition["frame_doses"] = [1.0, 1.4]
    path = write(tmp_path / "b.mrcz", counts((2, 8, 6), "uint8"), {"acquisition": acquisition})
    assert movies.read_header(path).facts == {"voltage_kv": 200.0, "cs_mm": 2.7}


def test_frames_that_are_views(tmp_path: Path) -> None:
    """Frames that do not lie contiguously in memory are archived right, and not changed."""
    whole = counts((8, 8, 12), "uint16")
    frames = whole[::2, ::-1, ::3]
    before = whole.copy()
    np.testing.assert_array_equal(movies.read_frames(write(tmp_path / "a.mrcz", frames)), frames)
    np.testing.assert_array_equal(whole, before)


def test_big_endian_frames(tmp_path: Path) -> None:
    """Frames in foreign byte order are stored in the order that the header says."""
    frames = counts((2, 8, 6), "int16", mean=300)
    write(tmp_path / "a.mrcz", frames.astype(">i2"))
    np.testing.assert_array_equal(mrcz.readMRC(str(tmp_path / "a.mrcz"))[0], frames)
    assert archive.read_metadata(tmp_path / "a.mrcz")["dtype"] == "int16"


def test_statistics_of_all_frames(tmp_path: Path) -> None:
    """Minimum, maximum and mean in the header are those of the whole movie."""
    frames = counts((5, 8, 6), "int16", mean=100)
    frames[4, 1, 1] = 999
    _, header = mrcz.readMRC(str(write(tmp_path / "a.mrcz", frames)))
    assert (header["minImage"], header["maxImage"]) == (frames.min(), 999)
    assert header["meanImage"] == pytest.approx(frames.mean(), rel=1e-6)


def test_header_fields_of_the_format(tmp_path: Path) -> None:
    """The places that readers look at: mode with codec, slices, mark of the metadata, stamp, label."""
    raw = write(tmp_path / "a.mrcz", counts((3, 9, 14))).read_bytes()
    assert struct.unpack_from("<4i", raw) == (14, 9, 3, 6000)
    assert struct.unpack_from("<3i", raw, 28) == (14, 9, 0)
    assert raw[104:108] == b"json"
    assert struct.unpack_from("<2i", raw, 152) == (1146047817, 0)
    assert raw[208:216] == b"MAP DA\0\0"
    assert raw[224:304].rstrip(b"\0") == b"MRCZ0.6.0"


def test_optics_may_be_unknown(tmp_path: Path) -> None:
    """Without a pixel size the header says none."""
    archive.write_mrcz(
        tmp_path / "a.mrcz",
        counts((1, 4, 4)),
        pixel_size_angstrom=None,
        voltage_kv=None,
        cs_mm=2.7,
        metadata={},
    )
    assert movies.read_header(tmp_path / "a.mrcz").pixel_size_angstrom is None


def test_metadata_in_the_footer(tmp_path: Path) -> None:
    """Metadata behind the data, as in the paper, are found; a footer that is no JSON is none."""
    frames = counts((3, 9, 14), "int16")
    mrcz.writeMRC(frames, str(tmp_path / "p.mrcz"), compressor="zstd")
    raw = (tmp_path / "p.mrcz").read_bytes()
    for footer, found in ((b'{"dose": 1.5}\n', {"dose": 1.5}), (b"\0" * 40, {}), (b"end", {})):
        (tmp_path / "p.mrcz").write_bytes(raw + footer)
        assert archive.read_metadata(tmp_path / "p.mrcz") == found
        np.testing.assert_array_equal(movies.read_frames(tmp_path / "p.mrcz"), frames)


def test_damaged_metadata(tmp_path: Path) -> None:
    """Broken JSON is an error that names its place, not silence."""
    path = write(tmp_path / "a.mrcz", counts((3, 9, 14)))
    raw = bytearray(path.read_bytes())
    raw[1024] = ord("[")
    path.write_bytes(raw)
    with pytest.raises(MovieError, match="JSON metadata at byte 1024 are damaged"):
        archive.read_metadata(path)


def test_read_metadata_of_something_else(tmp_path: Path) -> None:
    """A text is no archive."""
    (tmp_path / "a.mrcz").write_text("hello" * 1000)
    with pytest.raises(MovieError, match="no MRC file"):
        archive.read_metadata(tmp_path / "a.mrcz")


def test_packed_4_bit_chunks(tmp_path: Path) -> None:
    """Mode 101 inside MRCZ is unpacked to uint8."""
    frames = np.random.default_rng(1).integers(0, 16, (2, 6, 8)).astype(np.uint8)
    path = write(tmp_path / "a.mrcz", frames[:, :, :4])
    raw = bytearray(path.read_bytes()[: 1024 + struct.unpack_from("<i", path.read_bytes(), 92)[0]])
    struct.pack_into("<4i", raw, 0, 8, 6, 2, 6101)
    raw[104:108] = b"\0" * 4  # its checksums are those of other chunks
    packed = frames[:, :, 0::2] | frames[:, :, 1::2] << 4
    path.write_bytes(
        bytes(raw) + b"".join(blosc.compress(frame.tobytes(), 1, cname="zstd") for frame in packed)
    )
    np.testing.assert_array_equal(movies.read_frames(path), frames)


@pytest.mark.parametrize("bit", [0, 5])
@pytest.mark.parametrize("place", [0, 4, 12, 40, -1])
def test_damaged_chunk_names_its_frame(tmp_path: Path, place: int, bit: int) -> None:
    """One wrong bit anywhere in a chunk is found and its frame is named; other frames still come."""
    frames = counts((3, 40, 50))
    path = write(tmp_path / "a.mrcz", frames)
    with movies.open_movie(path) as reader:
        offset, length = reader.chunks[1]
    raw = bytearray(path.read_bytes())
    raw[offset + place % length] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(MovieError, match=r"frame [23] of 3 .* is damaged|holds 1 of 3 frames"):
        movies.read_frames(path)


def test_damaged_chunk_without_checksums(tmp_path: Path) -> None:
    """In archives of python-mrcz damage is found where blosc finds it, and the frame is named."""
    mrcz.writeMRC(counts((3, 40, 50), "int16"), str(tmp_path / "p.mrcz"), compressor="zlib")
    with movies.open_movie(tmp_path / "p.mrcz") as reader:
        offset, length = reader.chunks[2]
    raw = bytearray((tmp_path / "p.mrcz").read_bytes())
    raw[offset + 20 : offset + length] = b"\xff" * (length - 20)
    (tmp_path / "p.mrcz").write_bytes(raw)
    with movies.open_movie(tmp_path / "p.mrcz") as reader:
        reader.check_complete()
        reader.read_frame(1)
        with pytest.raises(MovieError, match=r"frame 3 of 3 .* cannot be decoded"):
            reader.read_frame(2)


def test_chunks_of_blosc_2(tmp_path: Path) -> None:
    """A chunk of the later format is refused with its version."""
    path = write(tmp_path / "a.mrcz", counts((1, 9, 14)))
    with movies.open_movie(path) as reader:
        offset, _ = reader.chunks[0]
    raw = bytearray(path.read_bytes())
    raw[offset] = 5
    path.write_bytes(raw)
    with pytest.raises(MovieError, match=r"version 5 .must be 2"):
        movies.check_complete(path)


@pytest.mark.parametrize("cut", [1, 20])
def test_truncated_archive(tmp_path: Path, cut: int) -> None:
    """An archive that ends early says after how many frames."""
    path = write(tmp_path / "a.mrcz", counts((3, 40, 50)))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(MovieTruncatedError, match="holds 2 of 3 frames"):
        movies.check_complete(path)


def test_frames_in_any_order(tmp_path: Path) -> None:
    """Each frame is found through the index, without those before it."""
    frames = counts((6, 9, 14))
    with movies.open_movie(write(tmp_path / "a.mrcz", frames)) as reader:
        for index in (5, 0, 3):
            np.testing.assert_array_equal(reader.read_frame(index), frames[index])


def test_progress_in_order(tmp_path: Path) -> None:
    """Each frame that was written is told once, in order."""
    told: list[int] = []
    write(tmp_path / "a.mrcz", counts((9, 5, 6)), on_frame=told.append)
    assert told == list(range(9))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 3)), "shape"),
        (np.zeros((0, 3, 4), np.uint8), "shape"),
        (np.zeros((2, 3, 4), np.complex64), "complex64"),
        (np.zeros((2, 3, 4)), "float64"),
    ],
)
def test_frames_that_cannot_be_archived(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    """A wrong shape or type is refused before anything is written."""
    with pytest.raises(ArchiveError, match=message):
        write(tmp_path / "a.mrcz", frames)
    assert not list(tmp_path.iterdir())


def test_frame_larger_than_a_chunk(tmp_path: Path) -> None:
    """Frames above blosc's limit of 2 GiB are refused (an array of zeros that takes no memory)."""
    frames = np.broadcast_to(np.uint8(0), (1, 50000, 50000))
    with pytest.raises(ArchiveError, match="2500000000 bytes, blosc's limit is"):
        write(tmp_path / "a.mrcz", frames)


@pytest.mark.parametrize("value", [float("nan"), Path("gain.mrc")])
def test_metadata_that_are_no_json(tmp_path: Path, value: object) -> None:
    """Metadata that another program could not read are refused."""
    with pytest.raises(ArchiveError, match="metadata are no JSON"):
        write(tmp_path / "a.mrcz", counts((2, 3, 4)), {"gain": value})


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Flip a byte at a distance from the end of the file when it has been written and before it is compared."""

    def at(distance: int) -> None:
        verify = archive._verify

        def damaged(temporary: Path, *arguments: Any) -> None:
            raw = bytearray(temporary.read_bytes())
            raw[-distance] ^= 0x10
            temporary.write_bytes(raw)
            verify(temporary, *arguments)

        monkeypatch.setattr(archive, "_verify", damaged)

    return at


def test_bad_disk_is_noticed(tmp_path: Path, damage: Callable[[int], None]) -> None:
    """What does not read back from disk as written is no archive; no file is left, an old one stays."""
    old = counts((2, 30, 40), seed=1)
    write(tmp_path / "a.mrcz", old)
    damage(30)
    with pytest.raises(ArchiveError, match="cannot be read back") as caught:
        write(tmp_path / "a.mrcz", counts((2, 30, 40)))
    assert caught.value.retry
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrcz"]
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "a.mrcz"), old)


def test_wrong_compression_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that gives other pixels, with a right checksum, is found by comparing every frame."""
    right = blosc.compress_ptr

    def wrong(address: int, items: int, *arguments: Any, **options: Any) -> bytes:
        other = np.zeros(items, dtype=np.uint8)
        return bytes(right(other.ctypes.data, items, *arguments, **options))

    monkeypatch.setattr(blosc, "compress_ptr", wrong)
    with pytest.raises(ArchiveError, match=r"frames \[1, 2\] .* differ"):
        write(tmp_path / "a.mrcz", counts((2, 30, 40)))
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the end is told as such, and nothing is left on it."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match="No space left"):
        write(tmp_path / "a.mrcz", counts((2, 30, 40)))
    assert not list(tmp_path.iterdir())


def test_size_is_that_of_zstd_level_1(tmp_path: Path) -> None:
    """Counts are not larger than with blosc's own choice of block size, header and metadata included."""
    frames = counts((4, 1024, 1024), mean=0.8)
    size = write(tmp_path / "a.mrcz", frames).stat().st_size
    blosc.set_blocksize(0)
    plain = sum(len(blosc.compress(f.tobytes(), 1, 1, blosc.BITSHUFFLE, "zstd")) for f in frames)
    assert size < plain < 0.3 * frames.nbytes


def test_memory_does_not_grow_with_the_movie(tmp_path: Path) -> None:
    """Only a few frames are held at a time: writing 40 frames takes less than half of them in memory."""
    one = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    frames = np.broadcast_to(one, (40, 512, 512))
    tracemalloc.start()
    write(tmp_path / "a.mrcz", frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (4 * thread_count() + 8) * one.nbytes


def test_reserved_room_is_json(tmp_path: Path) -> None:
    """The extended header is JSON from its first to its last byte, filled up with spaces."""
    raw = write(tmp_path / "a.mrcz", counts((3, 9, 14)), {"note": "x"}).read_bytes()
    (length,) = struct.unpack_from("<i", raw, 92)
    metadata = json.loads(raw[1024 : 1024 + length])
    assert metadata["note"] == "x"
    assert len(metadata["frame_crc32"]) == 3


def test_chunks_that_are_not_compressed(tmp_path: Path) -> None:
    """python-mrcz stores frames as they are where compressing is switched off, or does not make them smaller."""
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (3, 40, 50)).astype(np.int16)
    for level in (0, 1):
        path = tmp_path / f"{level}.mrcz"
        mrcz.writeMRC(noise, str(path), compressor="zstd", clevel=level)
        assert path.stat().st_size > noise.nbytes
        movies.check_complete(path)
        assert np.array_equal(movies.read_frames(path), noise)


def test_whose_file_it_is(tmp_path: Path) -> None:
    """An MRCZ by another program, and any other file, is foreign; what is ours or not there is not."""
    theirs, ours = tmp_path / "theirs.mrcz", tmp_path / "ours.mrcz"
    mrcz.writeMRC(counts((3, 40, 50), "int16"), str(theirs), compressor="zlib")
    archive.write_mrcz(
        ours, counts((2, 8, 9)), pixel_size_angstrom=1.0, voltage_kv=200, cs_mm=2.7, metadata={}
    )
    assert archive.is_foreign_mrcz(theirs)
    assert not archive.is_foreign_mrcz(ours)
    assert not archive.is_foreign_mrcz(tmp_path / "none.mrcz")
