"""Reading TIFF movies."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from komad.errors import MovieError, MovieTruncatedError
from komad.formats import movies
from komad.model import MovieFormat
from tests.formats.files import SHARED_DATA, counts, write_tiff_movie

LAYOUTS: dict[str, dict[str, Any]] = {
    "uncompressed": {},
    "uncompressed strips": {"rowsperstrip": 5},
    "LZW": {"compression": "lzw"},
    "LZW strips": {"compression": "lzw", "rowsperstrip": 4},
    "deflate": {"compression": "adobe_deflate"},
    "deflate with predictor": {"compression": "zlib", "predictor": True},
    "zstd strips": {"compression": "zstd", "rowsperstrip": 7},
    "LZW tiles": {"compression": "lzw", "tile": (16, 16)},
    "big TIFF": {"compression": "lzw", "big": True},
    "big-endian": {"compression": "lzw", "order": ">"},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_type(tmp_path: Path, layout: str, dtype: str) -> None:
    """Pixels are exact for every compression, strip layout and byte order; 16-bit floats come as float32."""
    if dtype == "float16" and "predictor" in layout:
        pytest.skip("tifffile writes no predictor for 16-bit floats")
    frames = counts((3, 33, 47), dtype)
    path = write_tiff_movie(tmp_path / "m.tif", frames, **LAYOUTS[layout])
    decoded = "float32" if dtype == "float16" else dtype
    header = movies.read_header(path)
    assert (header.format, header.shape, header.dtype, header.mrc_mode) == (
        MovieFormat.TIFF, (3, 33, 47), decoded, None,
    )  # fmt: skip
    movies.check_complete(path)
    read = movies.read_frames(path)
    assert (read.dtype, read.dtype.isnative) == (np.dtype(decoded), True)
    np.testing.assert_array_equal(read, frames)


@pytest.mark.parametrize("page", [{}, {"rowsperstrip": 3, "compression": "lzw"}, {"tile": (16, 16)}])
def test_rows_are_flipped_to_mrc_order(tmp_path: Path, page: dict[str, Any]) -> None:
    """The last row of the page, the bottom of the picture, is row 0."""
    drawn = np.zeros((20, 30), dtype=np.uint8)
    drawn[0, 2] = 9  # top of the picture, third column
    tifffile.imwrite(tmp_path / "m.tif", drawn, **page)
    (read,) = movies.read_frames(tmp_path / "m.tif")
    assert np.argwhere(read).tolist() == [[19, 2]]


@pytest.mark.parametrize("n_threads", [1, 3, 64])
def test_pages_are_cut_when_there_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    """The result does not depend on how strips are shared among threads; progress tells whole frames only."""
    monkeypatch.setenv("KOMAD_THREADS", str(n_threads))
    frames = counts((2, 50, 20), "uint16")
    path = write_tiff_movie(tmp_path / "m.tif", frames, compression="lzw", rowsperstrip=7)
    told: list[int] = []
    np.testing.assert_array_equal(movies.read_frames(path, on_frame=told.append), frames)
    assert told == [0, 1]


def test_single_frames(tmp_path: Path) -> None:
    """A reader gives any frame by itself."""
    frames = counts((4, 20, 30))
    with movies.open_movie(write_tiff_movie(tmp_path / "m.tif", frames, compression="lzw")) as reader:
        np.testing.assert_array_equal(reader.read_frame(3), frames[3])
        np.testing.assert_array_equal(reader.read_frame(1), frames[1])


@pytest.mark.parametrize(
    ("resolution", "unit", "said"),
    [(1e8 / 0.885, "CENTIMETER", 0.885), (2.54e8 / 1.5, "INCH", 1.5), (72, "INCH", None), (1, "NONE", None)],
)
def test_pixel_size_from_resolution(tmp_path: Path, resolution: float, unit: str, said: float | None) -> None:
    """Pixels per centimetre or inch give Å; a picture program's 72 dpi is no pixel size."""
    path = write_tiff_movie(
        tmp_path / "m.tif", counts((2, 5, 6)), resolution=(resolution, resolution), resolutionunit=unit
    )
    assert movies.read_header(path).pixel_size_angstrom == said


def test_real_file_of_24_pages() -> None:
    """A 24-page TIFF of ones from the field is read as it is."""
    path = SHARED_DATA / "odd_files" / "tiff_24_pages_6x6_all_ones.tiff"
    if not path.exists():
        pytest.skip("the real files are not beside this checkout")
    movies.check_complete(path)
    frames = movies.read_frames(path)
    assert frames.shape == (24, 6, 6)
    assert (frames == 1).all()


def page_directories(raw: bytes) -> list[int]:
    """Offsets of all page directories of a classic little-endian TIFF."""
    (offset,) = struct.unpack_from("<I", raw, 4)
    found = []
    while offset:
        found.append(offset)
        (n_tags,) = struct.unpack_from("<H", raw, offset)
        (offset,) = struct.unpack_from("<I", raw, offset + 2 + 12 * n_tags)
    return found


def link_of(raw: bytes, directory: int) -> int:
    """Where a directory names the next one."""
    return int(directory + 2 + 12 * struct.unpack_from("<H", raw, directory)[0])


def tag_value_at(raw: bytes, directory: int, tag: int) -> int:
    """Where the value of a tag lies in the file."""
    (n_tags,) = struct.unpack_from("<H", raw, directory)
    entries = range(directory + 2, directory + 2 + 12 * n_tags, 12)
    return next(entry + 8 for entry in entries if struct.unpack_from("<H", raw, entry)[0] == tag)


@pytest.fixture
def lzw_movie(tmp_path: Path) -> Path:
    """Four frames, one strip each."""
    return write_tiff_movie(tmp_path / "m.tif", counts((4, 40, 50)), compression="lzw", rowsperstrip=40)


def test_every_cut_is_noticed(lzw_movie: Path) -> None:
    """Wherever a copy was cut off, the movie is not taken for complete."""
    raw = lzw_movie.read_bytes()
    for length in range(1, len(raw), 97):
        lzw_movie.write_bytes(raw[:length])
        with pytest.raises(MovieError):
            movies.check_complete(lzw_movie)


def test_cut_inside_the_chain(lzw_movie: Path) -> None:
    """A chain of pages that leads behind the end is truncated; the message says where."""
    raw = lzw_movie.read_bytes()
    third = page_directories(raw)[2]
    lzw_movie.write_bytes(raw[: third + 1])
    with pytest.raises(
        MovieTruncatedError, match=f"ends at byte {third + 1}; page 3 should be at byte {third}"
    ):
        movies.check_complete(lzw_movie)


def test_cut_inside_a_strip(tmp_path: Path) -> None:
    """Strips behind the end of the file are counted in bytes, with the frame they belong to."""
    path = write_tiff_movie(tmp_path / "m.tif", counts((2, 40, 50)), compression="lzw", rowsperstrip=40)
    raw = bytearray(path.read_bytes())
    place = tag_value_at(raw, page_directories(raw)[1], 273)
    struct.pack_into("<I", raw, place, len(raw) - 100)
    path.write_bytes(raw)
    with pytest.raises(MovieTruncatedError, match=r"inside frame 2 of 2 .*: \d+ bytes are missing"):
        movies.check_complete(path)


def test_strip_that_was_never_written(lzw_movie: Path) -> None:
    """A page whose strip has no place yet is still being written."""
    raw = bytearray(lzw_movie.read_bytes())
    struct.pack_into("<I", raw, tag_value_at(raw, page_directories(raw)[3], 273), 0)
    lzw_movie.write_bytes(raw)
    with pytest.raises(MovieTruncatedError, match=r"frame 4 of 4 .* never written"):
        movies.check_complete(lzw_movie)


def test_header_before_any_page(tmp_path: Path) -> None:
    """A TIFF whose first page is not written yet is truncated."""
    (tmp_path / "m.tif").write_bytes(b"II*\0\0\0\0\0")
    with pytest.raises(MovieTruncatedError, match="no pages yet"):
        movies.check_complete(tmp_path / "m.tif")


def test_circle_of_pages(lzw_movie: Path) -> None:
    """A chain that comes back to itself ends with an error."""
    raw = bytearray(lzw_movie.read_bytes())
    directories = page_directories(raw)
    struct.pack_into("<I", raw, link_of(raw, directories[3]), directories[1])
    lzw_movie.write_bytes(raw)
    with pytest.raises(MovieError, match="circle after page 4"):
        movies.check_complete(lzw_movie)


def test_undecodable_strip_names_frame_and_place(lzw_movie: Path) -> None:
    """A damaged strip in the middle is found when it is read, with frame, strip and byte."""
    raw = bytearray(lzw_movie.read_bytes())
    (offset,) = struct.unpack_from("<I", raw, tag_value_at(raw, page_directories(raw)[1], 273))
    raw[offset + 20 : offset + 400] = b"\xff" * 380
    lzw_movie.write_bytes(raw)
    movies.check_complete(lzw_movie)
    with pytest.raises(MovieError, match=f"frame 2 of 4 .*, strip 1 at byte {offset}, cannot be decoded"):
        movies.read_frames(lzw_movie)


def test_last_strip_is_decoded_by_the_check(lzw_movie: Path) -> None:
    """A tail of zeros, as a copy with reserved space leaves it, does not pass for complete."""
    raw = bytearray(lzw_movie.read_bytes())
    place = tag_value_at(raw, page_directories(raw)[3], 273)
    (offset,) = struct.unpack_from("<I", raw, place)
    (length,) = struct.unpack_from("<I", raw, tag_value_at(raw, page_directories(raw)[3], 279))
    raw[offset : offset + length] = bytes(length)
    lzw_movie.write_bytes(raw)
    with pytest.raises(MovieError, match=r"frame 4 of 4 .* cannot be decoded"):
        movies.check_complete(lzw_movie)


def test_strip_that_decodes_to_too_few_pixels(tmp_path: Path) -> None:
    """A strip of a smaller picture in a page's place is an error, not a frame with a blank rest."""
    small = write_tiff_movie(tmp_path / "s.tif", counts((1, 10, 50)), compression="lzw", rowsperstrip=40)
    raw = bytearray(small.read_bytes())
    directory = page_directories(raw)[0]
    for tag in (257, 278):
        struct.pack_into("<H", raw, tag_value_at(raw, directory, tag), 40)
    small.write_bytes(raw)
    with pytest.raises(MovieError, match=r"frame 1 of 1 .* cannot be decoded"):
        movies.read_frames(small)


def test_pages_of_different_size(tmp_path: Path) -> None:
    """A page that does not fit the first one is named."""
    with tifffile.TiffWriter(tmp_path / "m.tif") as tiff:
        for shape in ((8, 9), (8, 9), (4, 9)):
            tiff.write(np.zeros(shape, np.uint8), contiguous=False, metadata=None)
    with pytest.raises(MovieError, match=r"page 3 is \(4, 9\) uint8 .* first is \(8, 9\) uint8"):
        movies.read_header(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("pixels", "page", "message"),
    [
        (np.zeros((8, 9, 3), np.uint8), {"photometric": "rgb"}, "one value per pixel"),
        (np.zeros((8, 9), np.float64), {}, "type float64"),
        (np.zeros((8, 9), np.uint8), {"compression": "packbits"}, "TIFF scheme 32773; known are"),
    ],
)
def test_pictures_that_are_no_frames(
    tmp_path: Path, pixels: np.ndarray, page: dict[str, Any], message: str
) -> None:
    """Colour, 64-bit floats and unusual compressions are refused with the reason."""
    tifffile.imwrite(tmp_path / "m.tif", pixels, **page)
    with pytest.raises(MovieError, match=message):
        movies.read_header(tmp_path / "m.tif")


@pytest.mark.parametrize("compression", [1, 5])
def test_four_bits(tmp_path: Path, compression: int) -> None:
    """Pages of 4 bits, the first pixel of a pair in the high bits and rows padded to bytes, come as uint8."""
    frames = counts((2, 6, 9)) % 16
    path = tmp_path / "m.tif"
    raw, link = bytearray(b"II*\0\0\0\0\0"), 4
    for frame in frames[:, ::-1]:
        rows = np.pad(frame, ((0, 0), (0, 1)))
        strips = [((part[:, 0::2] << 4) | part[:, 1::2]).tobytes() for part in (rows[:4], rows[4:])]
        strips = [imagecodecs.lzw_encode(strip) for strip in strips] if compression == 5 else strips
        offsets = [len(raw), len(raw) + len(strips[0])]
        raw += b"".join(strips)
        raw += bytes(-len(raw) % 2)
        lists = len(raw)
        raw += struct.pack("<4I", *offsets, *map(len, strips))
        struct.pack_into("<I", raw, link, len(raw))
        tags = [
            (256, 4, 1, 9), (257, 4, 1, 6), (258, 3, 1, 4), (259, 3, 1, compression), (262, 3, 1, 1),
            (273, 4, 2, lists), (277, 3, 1, 1), (278, 4, 1, 4), (279, 4, 2, lists + 8),
        ]  # fmt: skip
        raw += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        link = len(raw)
        raw += bytes(4)
    path.write_bytes(raw)
    movies.check_complete(path)
    assert np.array_equal(movies.read_frames(path), frames)
