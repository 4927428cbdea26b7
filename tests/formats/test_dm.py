"""DM3 and DM4 files."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad.errors import MovieError, MovieTruncatedError, ParameterError, ReferenceFileError
from komad.formats import images, movies
from komad.model import MovieFormat
from tests.formats.dm_files import Writer, image, thumbnail, tree, write_dm
from tests.formats.files import counts


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32"])
def test_a_movie(tmp_path: Path, version: int, order: str, dtype: str) -> None:
    """Of every type and order, under a wrong name, without its thumbnail."""
    frames = counts((3, 5, 7), dtype)
    path = write_dm(tmp_path / "movie.mrc", frames, version=version, order=order)
    header = movies.read_header(path)
    assert (header.format, header.shape, header.dtype) == (MovieFormat.DM, (3, 5, 7), dtype)
    assert header.pixel_size_angstrom == pytest.approx(0.83, rel=1e-6)
    read = movies.read_frames(path)
    assert read.dtype == dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, frames)


def test_rows_as_they_lie_in_the_file(tmp_path: Path) -> None:
    """DigitalMicrograph counts rows from the top, MRC from the bottom: the file's first row is our last."""
    drawn = np.array([[1, 2, 3], [4, 5, 6]], "u1")
    path = tmp_path / "a.dm4"
    path.write_bytes(Writer(4, "<").file(tree(thumbnail(), image(drawn))))
    np.testing.assert_array_equal(movies.read_frames(path), [[[4, 5, 6], [1, 2, 3]]])


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gain_reference(tmp_path: Path, version: int, dtype: str) -> None:
    """One picture, as 32-bit floats; `komad gain convert` writes MRC and TIFF, not DM."""
    gain = np.random.default_rng(1).uniform(0.8, 1.2, (5, 7)).astype(dtype)
    path = write_dm(tmp_path / f"Gain Ref x1.m0.dm{version}", gain, version=version)
    read = images.read_image(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, gain.astype(np.float32))
    with pytest.raises(ParameterError, match="the name of a reference ends in"):
        images.write_reference(tmp_path / "new.dm4", read)
    with pytest.raises(ReferenceFileError, match="holds 2 pictures"):
        images.read_image(write_dm(tmp_path / "two.dm4", np.ones((2, 5, 7), "f4")))


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [
        (0.05, "nm", 0.5),
        (1e-4, "µm", 1.0),
        (1e-4, "um", 1.0),
        (83.0, "pm", 0.83),
        (0.0, "nm", None),
        (1.0, "µm", None),
        (0.5, "1/nm", None),
        (1.0, "", None),
    ],
)
def test_pixel_size(tmp_path: Path, scale: float, units: str, expected: float | None) -> None:
    """From the calibration along x, where it is a length that a pixel can have."""
    path = write_dm(tmp_path / "a.dm4", np.ones((2, 5, 7), "u1"), scale=scale, units=units)
    size = movies.read_header(path).pixel_size_angstrom
    assert size == (None if expected is None else pytest.approx(expected, rel=1e-6))


PICTURE = counts((2, 5, 7), "uint16")


def file_of(path: Path, *listed: dict[str, Any], **how: Any) -> Path:
    """A file of these images."""
    path.write_bytes(Writer(4, "<").file(tree(*listed, **how)))
    return path


def test_the_order_of_images_does_not_count(tmp_path: Path) -> None:
    """A thumbnail is known by the list of thumbnails, or by its colours."""
    movie, grey = image(PICTURE[:, ::-1]), image(np.ones((3, 4), "i4"))
    for index, path in enumerate(
        (
            file_of(tmp_path / "0", movie, thumbnail(), thumbnails=(1,)),
            file_of(tmp_path / "1", thumbnail(), movie, thumbnails=()),
            file_of(tmp_path / "2", movie, thumbnails=()),
            file_of(tmp_path / "3", movie, grey, thumbnails=(1,)),
            file_of(tmp_path / "4", {"Name": "no data"}, movie, thumbnails=()),
        )
    ):
        np.testing.assert_array_equal(movies.read_frames(path), PICTURE, str(index))


def test_what_is_no_movie_of_a_camera(tmp_path: Path) -> None:
    """Several images, none, a spectrum, colours or complex numbers: the message says what to do."""
    movie = image(PICTURE)
    complex_image = image(np.ones((4, 6), "i4"), data_type=3)
    for path, message in (
        (
            file_of(tmp_path / "a", thumbnail(), movie, movie),
            "holds 2 images beside its thumbnail; save the movie",
        ),
        (file_of(tmp_path / "b", thumbnail()), "holds no images beside its thumbnail"),
        (file_of(tmp_path / "c", thumbnail(), image(np.ones(9, "f4"))), "holds no images"),
        (file_of(tmp_path / "d", thumbnail(), image(np.ones((2, 2, 3, 4), "f4"))), "holds no images"),
        (file_of(tmp_path / "e", thumbnail(), complex_image), "DataType 3, which are no counts"),
    ):
        with pytest.raises(MovieError, match=message) as caught:
            movies.read_header(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("version", [3, 4])
def test_a_file_that_is_cut_off(tmp_path: Path, version: int) -> None:
    """Wherever it ends it is not taken for whole: before, in and behind the pixels."""
    whole = write_dm(tmp_path / "a.dm4", PICTURE, version=version).read_bytes()
    for length in (*range(1100, len(whole) - 8, 7), len(whole) - 9):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(MovieTruncatedError, match="still being written, or its copy was cut off"):
            movies.check_complete(tmp_path / "b")


def test_pixels_that_are_not_what_the_header_says(tmp_path: Path) -> None:
    """An array of another size, impossible lengths, a tree without an end: damaged, and no memory is taken."""
    wrong = image(PICTURE)
    wrong["ImageData"]["Dimensions"] = [7, 5, 3]
    huge = image(PICTURE)
    huge["ImageData"]["Dimensions"] = [1 << 30, 1 << 30, 2]
    negative = image(PICTURE)
    negative["ImageData"]["Dimensions"] = [-7, -5, 2]
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    for name, listed, message in (
        ("a", wrong, "140 bytes, 3 frames of 7 x 5 pixels need 210"),
        ("b", huge, "1073741824 x 1073741824 pixels"),
        ("c", negative, "-7 x -5 pixels"),
        ("d", {**image(PICTURE), "deep": deep}, "groups in 64 groups"),
    ):
        with pytest.raises(MovieError, match=message):
            movies.read_header(file_of(tmp_path / name, thumbnail(), listed))
    many = bytearray(write_dm(tmp_path / "m", PICTURE).read_bytes())
    struct.pack_into(">Q", many, 18, 1 << 40)
    (tmp_path / "m").write_bytes(many)
    with pytest.raises(MovieError, match="1099511627776 tags"):
        movies.read_header(tmp_path / "m")


def test_any_damage_gives_a_movie_or_a_movie_error(tmp_path: Path) -> None:
    """Wrong bytes anywhere never raise anything else."""
    whole = write_dm(tmp_path / "a.dm4", PICTURE).read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            damaged[at] = rng.choice([0, 1, 0x25, 0x7F, 0x80, 0xFF])
        (tmp_path / "b").write_bytes(damaged)
        with suppress(MovieError):
            movies.read_frames(tmp_path / "b")


def test_dm4_as_its_peer_reads_it(tmp_path: Path) -> None:
    """The package dm4 finds the same sizes, types and pixels in our file."""
    dm4 = pytest.importorskip("dm4")
    path = write_dm(tmp_path / "a.dm4", PICTURE)
    with dm4.DM4File.open(str(path)) as file:
        data = file.read_directory().named_subdirs["ImageList"].unnamed_subdirs[1].named_subdirs["ImageData"]
        lengths = [file.read_tag_data(tag) for tag in data.named_subdirs["Dimensions"].unnamed_tags]
        pixels = np.array(file.read_tag_data(data.named_tags["Data"])).reshape(lengths[::-1])
    np.testing.assert_array_equal(pixels[:, ::-1], movies.read_frames(path))
