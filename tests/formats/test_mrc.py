"""Reading MRC movies."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from komad.errors import MovieError, MovieTruncatedError
from komad.formats import movies
from komad.model import MovieFormat
from tests.formats.files import counts, mrc_bytes, packed_4_bit, write_mrc_movie


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("mode", "dtype"), [(0, "int8"), (1, "int16"), (2, "float32"), (6, "uint16"), (12, "float32")]
)
def test_every_mode_in_both_byte_orders(tmp_path: Path, mode: int, dtype: str, order: str) -> None:
    """Frames come in native byte order with the type of the mode, 16-bit floats as float32."""
    frames = counts((3, 7, 10), dtype)
    header = movies.read_header(write_mrc_movie(tmp_path / "m.mrc", frames, mode, order=order))
    read = movies.read_frames(tmp_path / "m.mrc")
    assert (header.format, header.shape, header.dtype, header.mrc_mode) == (
        MovieFormat.MRC,
        (3, 7, 10),
        dtype,
        mode,
    )
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8"), (4, "uint8"), (None, "int8")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_imod_marks_unsigned_bytes(tmp_path: Path, flags: int | None, dtype: str, order: str) -> None:
    """With IMOD's stamp bit 0 of the flags says signed; without the stamp mode 0 is int8 as MRC2014 says."""
    bits = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    write_mrc_movie(tmp_path / "m.mrc", bits.view(np.int8), 0, order=order, imod_flags=flags)
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), bits.view(dtype))


def test_a_maximum_that_int8_cannot_hold_means_unsigned(tmp_path: Path) -> None:
    """Bytes without IMOD's stamp are unsigned when the header's own maximum is above 127."""
    bits = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    write_mrc_movie(tmp_path / "m.mrc", bits.view(np.int8), 0, statistics=(0, 255, 127.5))
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), bits)


@pytest.mark.parametrize("nx", [10, 11])
def test_4_bit_pixels_low_half_first_and_rows_padded(tmp_path: Path, nx: int) -> None:
    """Mode 101 gives uint8; a row of odd length ends with half a byte of padding."""
    frames = np.random.default_rng(1).integers(0, 16, (3, 5, nx)).astype(np.uint8)
    (tmp_path / "m.mrc").write_bytes(mrc_bytes(frames.shape, 101, packed_4_bit(frames)))
    read = movies.read_frames(tmp_path / "m.mrc")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, frames)


def test_first_row_stays_first(tmp_path: Path) -> None:
    """MRC row order is ours: a mark in the first row of the file is in row 0."""
    frames = np.zeros((1, 4, 6), dtype=np.int16)
    frames[0, 0, 1] = 7
    assert np.argwhere(movies.read_frames(write_mrc_movie(tmp_path / "m.mrc", frames, 1))[0]).tolist() == [
        [0, 1]
    ]


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    """The pixels begin after the extended header, whatever its length."""
    frames = counts((2, 5, 6), "int16")
    write_mrc_movie(tmp_path / "m.mrcs", frames, 1, extended=bytes(range(200)) * 5)
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrcs"), frames)


def test_file_without_map_and_stamp(tmp_path: Path) -> None:
    """Old files without `MAP ` and machine stamp are read by the numbers that make sense."""
    frames = counts((2, 5, 6), "uint16")
    write_mrc_movie(tmp_path / "m.mrc", frames, 6, order=">", stamped=False)
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)


def test_wrong_machine_stamp(tmp_path: Path) -> None:
    """A stamp that contradicts the numbers is not believed."""
    frames = counts((2, 5, 6), "uint16")
    raw = bytearray(write_mrc_movie(tmp_path / "m.mrc", frames, 6).read_bytes())
    raw[212:214] = b"\x11\x11"
    (tmp_path / "m.mrc").write_bytes(raw)
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)


@pytest.mark.parametrize(("pixel_size", "said"), [(0.885, 0.885), (0.0, None), (-1.0, None), (1e4, None)])
def test_pixel_size(tmp_path: Path, pixel_size: float, said: float | None) -> None:
    """Cell over sampling; what no camera has counts as not said."""
    write_mrc_movie(tmp_path / "m.mrc", counts((2, 5, 3710)), 0, pixel_size=pixel_size)
    assert movies.read_header(tmp_path / "m.mrc").pixel_size_angstrom == said


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32", "float16"])
def test_movies_of_mrcfile(tmp_path: Path, dtype: str) -> None:
    """What the reference package of CCP-EM writes is read the same."""
    frames = counts((3, 6, 8), dtype)
    with mrcfile.new(tmp_path / "m.mrc", frames) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = 0.75
    np.testing.assert_array_equal(movies.read_frames(tmp_path / "m.mrc"), frames)
    assert movies.read_header(tmp_path / "m.mrc").pixel_size_angstrom == 0.75


def test_single_frames(tmp_path: Path) -> None:
    """A reader gives any frame, and says which there are."""
    frames = counts((4, 5, 6), "float32")
    with movies.open_movie(write_mrc_movie(tmp_path / "m.mrc", frames, 2)) as reader:
        np.testing.assert_array_equal(reader.read_frame(2), frames[2])
        with pytest.raises(IndexError, match="frames 0 to 3, not 4"):
            reader.read_frame(4)


@pytest.mark.parametrize(("cut", "whole", "missing"), [(1, 3, 1), (60, 3, 60), (61, 2, 61), (240, 0, 240)])
def test_truncated_movie_says_what_is_missing(tmp_path: Path, cut: int, whole: int, missing: int) -> None:
    """The message counts whole frames and missing bytes; a retry may help."""
    path = write_mrc_movie(tmp_path / "m.mrc", counts((4, 5, 6), "int16"), 1)
    path.write_bytes(path.read_bytes()[:-cut])
    for read in (movies.check_complete, movies.read_frames):
        with pytest.raises(
            MovieTruncatedError, match=rf"m\.mrc holds {whole} of 4 frames.* {missing} bytes"
        ) as caught:
            read(path)
        assert caught.value.retry


def test_frame_that_vanishes_while_reading(tmp_path: Path) -> None:
    """A file that is cut after it was opened gives an error that names the frame."""
    path = write_mrc_movie(tmp_path / "m.mrc", counts((4, 5, 6), "int16"), 1)
    with movies.open_movie(path) as reader:
        reader.check_complete()
        path.write_bytes(path.read_bytes()[: 1024 + 130])
        with pytest.raises(MovieTruncatedError, match=r"frame 3 of 4 .* ends 50 bytes early"):
            reader.read_frame(2)


def test_footer_is_allowed(tmp_path: Path) -> None:
    """Less than a frame behind the last one is metadata, as the MRCZ paper proposes."""
    frames = counts((2, 20, 20))
    path = write_mrc_movie(tmp_path / "m.mrc", frames, 0)
    path.write_bytes(path.read_bytes() + b'{"voltage": 300}')
    np.testing.assert_array_equal(movies.read_frames(path), frames)


def test_more_frames_than_the_header_counts(tmp_path: Path) -> None:
    """A header that counts too few frames is not up to date yet: the movie is not taken."""
    path = write_mrc_movie(tmp_path / "m.mrc", counts((4, 20, 20)), 0)
    raw = bytearray(path.read_bytes())
    raw[8] = 3
    path.write_bytes(raw)
    with pytest.raises(MovieTruncatedError, match="holds 4 frames, its header says 3"):
        movies.check_complete(path)


@pytest.mark.parametrize("n_bytes", [8, 1023])
def test_header_cut_short(tmp_path: Path, n_bytes: int) -> None:
    """A file that ends inside the header is truncated, not foreign."""
    path = write_mrc_movie(tmp_path / "m.mrc", counts((4, 5, 6)), 0)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(MovieTruncatedError, match=f"ends after {n_bytes} bytes: an MRC header has 1024"):
        movies.read_header(path)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (12, 4, MovieError, r"nx, ny, nz \[6, 5, 4\] and mode 4"),
        (12, 5000 + 99, MovieError, "mode 5099"),
        (0, -6, MovieError, r"\[-6, 5, 4\]"),
        (8, 0, MovieTruncatedError, "no frames yet"),
        (92, -4, MovieError, "extended header of -4 bytes"),
    ],
)
def test_damaged_header(
    tmp_path: Path, place: int, value: int, error: type[MovieError], message: str
) -> None:
    """Each number that cannot be is named with its value."""
    raw = bytearray(write_mrc_movie(tmp_path / "m.mrc", counts((4, 5, 6)), 0).read_bytes())
    raw[place : place + 4] = value.to_bytes(4, "little", signed=True)
    (tmp_path / "m.mrc").write_bytes(raw)
    with pytest.raises(error, match=message):
        movies.read_header(tmp_path / "m.mrc")


def test_direct_electron_number_of_frames(tmp_path: Path) -> None:
    """A header that says 32766, as Direct Electron's software leaves it, is waited for, and the message says why."""
    path = tmp_path / "20260101_00001_movie.mrc"
    path.write_bytes(mrc_bytes((32766, 8, 9), 0, bytes(3 * 72)))
    with pytest.raises(
        MovieTruncatedError, match=r"holds 3 frames, and nz in its header is 32766, which Direct"
    ):
        movies.check_complete(path)
