"""MRC and TIFF movies that are written, read back by peers."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from komad.errors import DiskFullError, MovieTruncatedError, ParameterError
from komad.formats import movies
from komad.formats.images import read_image
from komad.formats.mrc_writer import write_mrc_movie
from komad.formats.tiff_writer import TiffCompression, write_tiff_movie
from tests.formats.files import counts, mrc_bytes, packed_4_bit


def write(path: Path, frames: np.ndarray, mode: int, **options: object) -> Path:
    """A movie with a pixel size."""
    write_mrc_movie(path, frames, mode, pixel_size_angstrom=0.83, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [(0, "int8"), (1, "int16"), (2, "float32"), (6, "uint16"), (12, "float32"), (1, "uint8"), (2, "int16")],
)
def test_mrcfile_reads_every_mode(tmp_path: Path, mode: int, dtype: str) -> None:
    """The reference package of CCP-EM finds a valid stack, the same pixels, pixel size and statistics."""
    frames = counts((3, 8, 11), dtype)
    path = write(tmp_path / "m.mrc", frames, mode)
    assert mrcfile.validate(path, print_file=None)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, frames)
        assert mrc.header.mode == mode
        assert mrc.is_image_stack()
        assert mrc.voxel_size.x == mrc.voxel_size.z == pytest.approx(0.83)
        assert (mrc.header.dmin, mrc.header.dmax) == (frames.min(), frames.max())
        assert mrc.header.dmean == pytest.approx(frames.mean(), abs=1e-6)


@pytest.mark.parametrize("nx", [10, 11])
def test_4_bits_are_packed_as_serialem_does(tmp_path: Path, nx: int) -> None:
    """The bytes are those of the plainest loop, rows of odd length padded to whole bytes."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 5, nx)).astype(np.uint16)
    raw = write(tmp_path / "m.mrc", frames, 101).read_bytes()
    assert struct.unpack_from("<4i", raw) == (nx, 5, 3, 101)
    assert raw[1024:] == packed_4_bit(frames)


def test_bytes_above_127_are_marked_as_imod_does(tmp_path: Path) -> None:
    """Unsigned bytes have the stamp without the flag, signed ones with it; both come back as they were."""
    high, low = counts((2, 6, 8), "uint8", mean=150), counts((2, 6, 8), "int8")
    for frames, flag in ((high, 0), (low, 1)):
        path = write(tmp_path / "m.mrc", frames, 0)
        assert struct.unpack_from("<2i", path.read_bytes(), 152) == (1146047817, flag)
        read = movies.read_frames(path)
        assert read.dtype == frames.dtype
        np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize(
    ("values", "mode", "signed", "message"),
    [
        ([16], 101, False, r"counts up to 16 do not fit mode 101: take mode 0 or mode 6"),
        ([256], 0, False, r"counts up to 256 do not fit mode 0: take mode 6"),
        ([-1, 128], 0, False, r"values from -1 to 128 do not fit mode 0: take mode 1"),
        ([128], 0, True, r"counts up to 128 do not fit signed bytes, which end at 127: take mode 6 or 1"),
        ([40000], 1, False, r"counts up to 40000 do not fit mode 1: take mode 6"),
        ([-3], 6, False, r"values from -3 to 0 do not fit mode 6: take mode 0 or mode 1"),
        ([2049], 12, False, r"up to 2049 would lose digits in mode 12: take mode 2"),
        ([1e6], 12, False, r"would lose digits in mode 12"),
        ([2**24 + 1], 2, False, r"lose digits in mode 2, and no mode of MRC holds"),
        ([1], 4, False, r"MRC mode 4 is not written"),
    ],
)
def test_what_a_mode_cannot_hold_is_refused(
    tmp_path: Path, values: list[int], mode: int, signed: bool, message: str
) -> None:
    """Nothing is cut off or rounded; the message names a mode that holds it, and no file is left."""
    frames = np.zeros((3, 4, 5), np.int32)
    frames[1:].flat[: len(values)] = values
    with pytest.raises(ParameterError, match=message):
        write(tmp_path / "m.mrc", frames, mode, signed=signed)
    assert not list(tmp_path.iterdir())


def test_broken_numbers_are_no_counts(tmp_path: Path) -> None:
    """Floats fit modes of whole numbers only where they are whole; what is no number stays so in float modes."""
    frames = np.full((1, 4, 5), 2.5, np.float32)
    with pytest.raises(ParameterError, match=r"no whole numbers do not fit mode 6: take mode 2"):
        write(tmp_path / "m.mrc", frames, 6)
    write(tmp_path / "m.mrc", frames.round(), 6)
    assert movies.read_frames(tmp_path / "m.mrc").tolist() == frames.round().tolist()
    frames[0, 1, 1] = np.nan
    np.testing.assert_array_equal(movies.read_frames(write(tmp_path / "n.mrc", frames, 12)), frames)
    with mrcfile.open(tmp_path / "n.mrc") as mrc:
        assert (mrc.header.dmin, mrc.header.dmax) == (2.5, 2.5)


def motioncor2_archive(frames: np.ndarray, gain: np.ndarray, *, order: str = "<") -> bytes:
    """A 4-bit archive as MotionCor2 lays it out: two floats for each frame, then the gain reference."""
    n_frames = len(frames)
    extended = np.arange(2 * n_frames, dtype=order + "f4").tobytes() + gain.astype(order + "f4").tobytes()
    raw = bytearray(mrc_bytes(frames.shape, 101, packed_4_bit(frames), order=order, extended=extended))
    raw[104:108] = b"AGAR"
    struct.pack_into(order + "2h", raw, 128, 0, 2)
    return bytes(raw)


@pytest.mark.parametrize("nx", [10, 11])
@pytest.mark.parametrize("order", ["<", ">"])
def test_motioncor2_archives_are_read(tmp_path: Path, nx: int, order: str) -> None:
    """Counts and the gain reference behind what each frame has in the extended header, in both byte orders."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 5, nx)).astype(np.uint8)
    gain = np.random.default_rng(2).random((5, nx)).astype(np.float32)
    (tmp_path / "m.mrc").write_bytes(motioncor2_archive(frames, gain, order=order))
    with movies.open_movie(tmp_path / "m.mrc") as reader:
        reader.check_complete()
        assert reader.header.facts == {"gain_reference": "in the extended header"}
        np.testing.assert_array_equal(reader.gain(), gain)
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)


def test_a_compressed_archive_has_its_gain(tmp_path: Path) -> None:
    """Its gain reference and its frames, in any order; a cut within the gain is told as that."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 50, 11)).astype(np.uint8)
    gain = np.random.default_rng(2).random((50, 11)).astype(np.float32)
    raw = motioncor2_archive(frames, gain)
    path = tmp_path / "m.mrc.gz"
    path.write_bytes(gzip.compress(raw))
    with movies.open_movie(path) as reader:
        assert reader.header.facts == {"gain_reference": "in the extended header", "packed": "gzip"}
        for _ in range(2):
            np.testing.assert_array_equal(reader.gain(), gain)
            np.testing.assert_array_equal(reader.read_frame(2), frames[2])
    np.testing.assert_array_equal(read_image(path), gain)
    path.write_bytes(gzip.compress(raw[: 1024 + gain.nbytes // 2]))
    with (
        movies.open_movie(path) as reader,
        pytest.raises(MovieTruncatedError, match="inside of the gain reference"),
    ):
        reader.gain()


def test_an_extended_header_of_another_length_is_no_gain(tmp_path: Path) -> None:
    """Only what is exactly as long as a gain reference is one; one that is cut off is an error."""
    frames = np.ones((3, 5, 10), np.uint8)
    raw = motioncor2_archive(frames, np.ones((5, 10)))
    (tmp_path / "m.mrc").write_bytes(mrc_bytes(frames.shape, 101, packed_4_bit(frames), extended=bytes(204)))
    with movies.open_movie(tmp_path / "m.mrc") as reader:
        assert reader.gain() is None
    (tmp_path / "m.mrc").write_bytes(raw[:1100])
    with movies.open_movie(tmp_path / "m.mrc") as reader, pytest.raises(Exception, match="gain reference"):
        reader.gain()


@pytest.mark.parametrize("nx", [10, 11])
def test_motioncor2_archives_are_written(tmp_path: Path, nx: int) -> None:
    """The extended header is the gain reference and nothing else; a gain of another size is refused."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 5, nx)).astype(np.uint8)
    gain = np.random.default_rng(2).random((5, nx)).astype(np.float32)
    raw = write(tmp_path / "m.mrc", frames, 101, gain=gain).read_bytes()
    assert struct.unpack_from("<i", raw, 92) == (gain.nbytes,)
    assert struct.unpack_from("<2h", raw, 128) == (0, 0)
    assert raw[1024 : 1024 + gain.nbytes] == gain.astype("<f4").tobytes()
    assert raw[1024 + gain.nbytes :] == packed_4_bit(frames)
    with pytest.raises(ParameterError, match=f"gain reference has {nx} x 4 pixels"):
        write(tmp_path / "n.mrc", frames, 101, gain=gain[:4])


SERIALEM = b"SerialEMCCD: Dose frac. image, 4 bits packed  r/f 0"


def packed_bytes(shape: tuple[int, int, int], *, flags: int | None, label: bytes = b"") -> bytes:
    """A header of mode 0 for bytes that are two pixels each, and zeros for data; `shape` is that of the header."""
    raw = bytearray(mrc_bytes(shape, 0, b"", imod_flags=flags))
    if label:
        struct.pack_into("<i80s", raw, 220, 1, label)
    return bytes(raw)


@pytest.mark.parametrize("order", ["<", ">"])
def test_4_bits_in_bytes_by_imods_flag(tmp_path: Path, order: str) -> None:
    """Flag 16 of IMOD: frames are twice as wide as the header says, with the pixel size of the header."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 5, 12)).astype(np.uint8)
    (tmp_path / "m.mrc").write_bytes(
        mrc_bytes((3, 5, 6), 0, packed_4_bit(frames), order=order, imod_flags=16, pixel_size=0.6)
    )
    header = movies.read_header(tmp_path / "m.mrc")
    assert (header.shape, header.dtype, header.pixel_size_angstrom) == ((3, 5, 12), "uint8", 0.6)
    assert header.facts == {"packed": "4 bits in bytes"}
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)


@pytest.mark.parametrize(
    ("nx", "ny", "label", "width"),
    [
        (3838, 7420, SERIALEM, 7676),
        (3710, 7676, SERIALEM, 7420),
        (5760, 8184, SERIALEM, 11520),
        (4092, 11520, SERIALEM, 8184),
        (3838, 7420, b"SerialEMCCD: Dose frac. image, scaled by 1.00", 3838),
        (2048, 2048, SERIALEM, 2048),
    ],
)
def test_4_bits_in_bytes_by_serialems_label(
    tmp_path: Path, nx: int, ny: int, label: bytes, width: int
) -> None:
    """Older files have no flag: their only label and half the size of a super-resolution frame tell."""
    (tmp_path / "m.mrc").write_bytes(packed_bytes((1, ny, nx), flags=None, label=label))
    assert movies.read_header(tmp_path / "m.mrc").nx == width


def test_4_bits_in_signed_bytes_are_refused(tmp_path: Path) -> None:
    """Both flags at once cannot be; the error says what to do."""
    (tmp_path / "m.mrc").write_bytes(packed_bytes((1, 5, 6), flags=17))
    with pytest.raises(Exception, match="two pixels of 4 bits in a byte, which cannot be"):
        movies.read_header(tmp_path / "m.mrc")


def test_mode_5_are_unsigned_bytes(tmp_path: Path) -> None:
    """As MotionCor2 and UCSF's programs write bytes."""
    frames = counts((2, 6, 8), "uint8", mean=200)
    (tmp_path / "m.mrc").write_bytes(mrc_bytes(frames.shape, 5, frames.tobytes()))
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_tifffile_reads_ours(
    tmp_path: Path, dtype: str, compression: TiffCompression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page for each frame, upper row first, in strips of which the last is shorter; we read the same."""
    monkeypatch.setattr("komad.formats.tiff_writer.STRIP_BYTES", 300)
    frames = counts((3, 31, 22), dtype)
    told: list[int] = []
    write_tiff_movie(
        tmp_path / "m.tif", frames, compression=compression, pixel_size_angstrom=0.83, on_frame=told.append
    )
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        assert len(tiff.pages) == 3
        assert tiff.pages[0].rowsperstrip < 31
        np.testing.assert_array_equal(np.stack([page.asarray() for page in tiff.pages]), frames[:, ::-1])
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.tif"), frames)
    assert movies.read_header(tmp_path / "m.tif").pixel_size_angstrom == 0.83
    assert told == [0, 1, 2]


def test_tiff_of_other_types_is_refused(tmp_path: Path) -> None:
    """32-bit whole numbers are for no reader of movies."""
    with pytest.raises(ParameterError, match="int32 are not for TIFF"):
        write_tiff_movie(
            tmp_path / "m.tif", np.zeros((1, 3, 4), np.int32), compression="lzw", pixel_size_angstrom=None
        )


@pytest.mark.parametrize("to", ["mrc", "tif"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """A disk that is full at the end is told as such, and nothing is left on it."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    write_one = {
        "mrc": lambda path, frames: write(path, frames, 0),
        "tif": lambda path, frames: write_tiff_movie(
            path, frames, compression="lzw", pixel_size_angstrom=None
        ),
    }[to]
    with pytest.raises(DiskFullError, match="No space left"):
        write_one(tmp_path / "m", counts((2, 30, 40)))
    assert not list(tmp_path.iterdir())
