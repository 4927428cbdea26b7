"""Defects: boxes, maps, and lists of SerialEM."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from komad.errors import ReferenceFileError
from komad.formats.defects import read_defects
from tests.formats.files import SHARED_DATA, write_mrc_movie


def test_real_defect_map(tmp_path: Path) -> None:
    """The defect map of a K3 (5760 x 4092) marks the pixels that are not zero."""
    packed = SHARED_DATA / "k3_motioncor2" / "k3_defect_map.mrc.gz"
    if not packed.exists():
        pytest.skip("the real files are not beside this checkout")
    (tmp_path / "defects.mrc").write_bytes(gzip.decompress(packed.read_bytes()))
    raw = np.fromfile(tmp_path / "defects.mrc", np.int8, offset=1024).reshape(4092, 5760)
    np.testing.assert_array_equal(read_defects(tmp_path / "defects.mrc", (4092, 5760)).pixels, raw != 0)
    with pytest.raises(
        ReferenceFileError, match=r"has 5760 x 4092 pixels, the frames 4092 x 5760.* by a quarter"
    ):
        read_defects(tmp_path / "defects.mrc", (5760, 4092))
    super_resolution = read_defects(packed, (8184, 11520)).pixels
    np.testing.assert_array_equal(super_resolution[1::2, ::2], raw != 0)


def test_defect_map_from_tiff_is_flipped(tmp_path: Path) -> None:
    """A TIFF map is in the row order of TIFF frames."""
    drawn = np.zeros((8, 9), np.uint8)
    drawn[0, 2] = 1
    tifffile.imwrite(tmp_path / "defects.tif", drawn)
    assert np.argwhere(read_defects(tmp_path / "defects.tif", (8, 9)).pixels).tolist() == [[7, 2]]


def test_defect_boxes(tmp_path: Path) -> None:
    """Boxes are x, y, width, height from 0 in MRC row order; comments and blank lines are passed over."""
    (tmp_path / "defects.txt").write_text("# columns\n3 0 1 8\n\n0 5\t9 2  # rows\n")
    expected = np.zeros((8, 9), bool)
    expected[:, 3] = True
    expected[5:7, :] = True
    np.testing.assert_array_equal(read_defects(tmp_path / "defects.txt", (8, 9)).pixels, expected)


@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 x", "1 2 3 4 5", "0 0 0 4", "BadThings 1 2 3"])
def test_bad_defect_box(tmp_path: Path, line: str) -> None:
    """A line that is no box is named."""
    (tmp_path / "defects.txt").write_text(f"0 0 9 8\n{line}\n")
    with pytest.raises(ReferenceFileError, match=rf"defects\.txt, line 2: .*{line}"):
        read_defects(tmp_path / "defects.txt", (8, 9))


def test_missing_defects(tmp_path: Path) -> None:
    """A defect file that is not there, or empty as after a failed copy, is a reference error."""
    (tmp_path / "empty.txt").touch()
    for name, message in (("gone.txt", "cannot be read"), ("empty.txt", "is empty")):
        with pytest.raises(ReferenceFileError, match=rf"{name} {message}"):
            read_defects(tmp_path / name, (8, 9))


def defects_of(path: Path, text: str, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The bad pixels that a list names."""
    path.write_text(text)
    return read_defects(path, shape).pixels


def test_boxes_outside_of_the_frames(tmp_path: Path) -> None:
    """They are ignored and counted; of those that reach over the edge the part inside is bad."""
    path = tmp_path / "defects.txt"
    path.write_text("8 0 2 1\n-1 6 2 5\n20 0 3 3\n0 8 9 1\n")
    defects = read_defects(path, (8, 9))
    assert np.argwhere(defects.pixels).tolist() == [[0, 8], [6, 0], [7, 0]]
    assert (defects.n_given, defects.n_outside) == (4, 2)
    path.write_text("20 0 3 3\n0 8 9 1\n")
    with pytest.raises(
        ReferenceFileError, match=r"defects\.txt: all 2 defects lie outside of frames of 9 x 8 pixels"
    ):
        read_defects(path, (8, 9))


def test_a_map_of_good_pixels_is_refused(tmp_path: Path) -> None:
    """A map that marks nearly everything, as a gain reference does, is not what it should be."""
    path = write_mrc_movie(tmp_path / "map.mrc", np.ones((1, 8, 9), np.float32), 2)
    with pytest.raises(ReferenceFileError, match=r"map\.mrc marks 100% of the pixels as bad"):
        read_defects(path, (8, 9))


SERIALEM = """# from SerialEM
CameraSizeX 12
CameraSizeY 10
RotationAndFlip 5
K2Type 1
BadColumns 3 4
BadRows 0
PartialBadColumn 7 2 5 6
PartialBadRow 8 1 0 1
BadPixels 9 1 11 9
SomethingNew yes
"""


def as_drawn(*rows: str) -> npt.NDArray[np.bool_]:
    """A picture as one sees it, its first row at the top."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])[::-1]


DRAWN = as_drawn(
    "############",
    "...##....#..",
    "...##.......",
    "...##.......",
    "...##.......",
    "...##..##...",
    "...##..##...",
    "...##.......",
    "##.##.......",
    "...##......#",
)


def test_a_defect_list_of_serialem(tmp_path: Path) -> None:
    """It is recognised by its keys; rows count from the top, where MRC's count from the bottom; new keys pass."""
    np.testing.assert_array_equal(defects_of(tmp_path / "defects_01.txt", SERIALEM, (10, 12)), DRAWN)


def test_serialem_for_super_resolution(tmp_path: Path) -> None:
    """Frames of twice the camera's size have each bad pixel twice as large; a list that was scaled says so itself."""
    doubled = DRAWN.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(defects_of(tmp_path / "a.txt", SERIALEM, (20, 24)), doubled)
    scaled = """CameraSizeX 24\nCameraSizeY 20\nWasScaled 1\nBadColumns 6 7 8 9\nBadRows 0 1
PartialBadColumn 14 4 10 13\nPartialBadRow 16 2 0 3\nBadPixels 18 2 22 18\n"""
    np.testing.assert_array_equal(defects_of(tmp_path / "b.txt", scaled, (20, 24)), doubled)


def test_serialem_for_binned_frames(tmp_path: Path) -> None:
    """A binned pixel is bad when a part of it is."""
    text = "CameraSizeX 24\nCameraSizeY 20\nBadPixels 5 0 6 19\n"
    assert np.argwhere(defects_of(tmp_path / "a.txt", text, (10, 12))).tolist() == [[0, 3], [9, 2]]


def test_serialem_for_trimmed_frames(tmp_path: Path) -> None:
    """Frames that lack a few pixels show the middle of the camera; what was cut off is ignored and counted."""
    path = tmp_path / "a.txt"
    path.write_text("CameraSizeX 400\nCameraSizeY 300\nBadPixels 0 0 2 1 100 298\n")
    defects = read_defects(path, (298, 398))
    assert np.argwhere(defects.pixels).tolist() == [[0, 99], [297, 1]]
    assert (defects.n_given, defects.n_outside) == (3, 1)


def test_usable_area_of_serialem(tmp_path: Path) -> None:
    """What lies above, left of, below and right of the usable area is bad; 0 is the edge of the camera."""
    head = "CameraSizeX 40\nCameraSizeY 30\n"
    seen_from_above = np.ones((30, 40), bool)
    seen_from_above[2 : 27 + 1, 3 : 35 + 1] = False
    pixels = defects_of(tmp_path / "a.txt", head + "UsableArea 2 3 27 35\n", (30, 40))
    np.testing.assert_array_equal(pixels[::-1], seen_from_above)
    assert not defects_of(tmp_path / "b.txt", head + "UsableArea 0 0 0 0\n", (30, 40)).any()


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("BadColumns 3\n", (10, 12), "without CameraSizeX"),
        (SERIALEM, (12, 10), "12 x 10 pixels, the frames are 10 x 12, turned by a quarter"),
        (SERIALEM, (10, 20), "12 x 10 pixels, the frames are 20 x 10; give the list that SerialEM saved"),
        (SERIALEM + "BadPixels 3\n", (10, 12), "line 12: 'BadPixels 3' needs 2 whole"),
        (SERIALEM + "PartialBadRow 3 1 x 2\n", (10, 12), "line 12: .* needs 4 whole"),
    ],
)
def test_wrong_lists_of_serialem(tmp_path: Path, text: str, shape: tuple[int, int], message: str) -> None:
    """A list that is not of these frames, or damaged, is an error that names file and place."""
    with pytest.raises(ReferenceFileError, match=rf"defects\.txt.*{message}"):
        defects_of(tmp_path / "defects.txt", text, shape)
