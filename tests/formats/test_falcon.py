"""Defects in the header of a gain reference of Falcon's software."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from komad.errors import ReferenceFileError
from komad.formats.falcon import read_header_defects
from komad.formats.references import LoadedReferences, load
from komad.model import ReferenceFile, References

SHAPE = (6, 12)
XML = """<?xml version="1.0" encoding="utf-8"?>
<defects>
  <row>0</row>
  <col>6-7</col>
  <area>1,2,2,4</area>
  <point>4,3</point>
  <maskedpoint>5, 5</maskedpoint>
  <nonmaskingpoint>0 5</nonmaskingpoint>
</defects>"""
DRAWN = (
    "############",
    "......##....",
    ".##...##....",
    ".##.#.##....",
    ".##...##....",
    "#....###....",
)


def as_drawn() -> npt.NDArray[np.bool_]:
    """The first row is the uppermost, as in the file."""
    return np.array([[pixel == "#" for pixel in row] for row in DRAWN])


def write_falcon_gain(
    path: Path, defects: bytes | None, *, image: npt.NDArray[np.float32] | None = None, kind: int = 2
) -> Path:
    """A gain reference as Falcon's software writes it; tag 65100 is text (2) or undefined (7)."""
    image = np.ones(SHAPE, np.float32) if image is None else image
    tags = [] if defects is None else [(65100, kind, len(defects), defects, True)]
    tifffile.imwrite(path, image, extratags=tags, metadata=None)
    return path


def loaded(path: Path, shape: tuple[int, int] = SHAPE, **how: object) -> LoadedReferences:
    """What is made of the file."""
    sha256 = str(path.read_bytes()[-500:]) + str(path)
    return load(References(gain=ReferenceFile(path=path, original_path=path, sha256=sha256), **how), shape)


@pytest.mark.parametrize("kind", [2, 7])
def test_defects_of_the_header_are_bad_pixels(tmp_path: Path, kind: int) -> None:
    """Rows, columns, areas and points, counted from the upper left; told with their number; the gain is as it was."""
    found = loaded(write_falcon_gain(tmp_path / "a.gain", XML.encode(), kind=kind))
    np.testing.assert_array_equal(found.defects, as_drawn()[::-1])
    np.testing.assert_array_equal(found.gain, np.ones(SHAPE))
    n_bad = np.count_nonzero(as_drawn())
    assert found.warnings == (
        f"the header of {tmp_path / 'a.gain'} lists 6 defects: {n_bad} pixels of the frames are bad",
    )


def test_they_lie_as_the_gain(tmp_path: Path) -> None:
    """In the rows of an EER movie, turned and flipped with the gain, and with each pixel of finer frames."""
    path = write_falcon_gain(tmp_path / "a.gain", XML.encode())
    np.testing.assert_array_equal(loaded(path, gain_rows_as_eer=True).defects, as_drawn())
    turned = loaded(path, (12, 6), gain_rows_as_eer=True, gain_rot=1, gain_flip=2).defects
    np.testing.assert_array_equal(turned, np.rot90(as_drawn(), -1)[:, ::-1])
    finer = loaded(path, (12, 24), gain_rows_as_eer=True)
    np.testing.assert_array_equal(finer.defects, np.kron(as_drawn(), np.ones((2, 2), bool)))
    assert (
        f"lists 6 defects: {4 * np.count_nonzero(as_drawn())} pixels of the frames are bad"
        in finer.warnings[1]
    )


def test_they_come_on_top_of_those_that_are_configured(tmp_path: Path) -> None:
    """A pixel is bad when one of the two says so."""
    (tmp_path / "boxes.txt").write_text("3 0 1 1\n")  # the lower edge: the last row of the file
    boxes = ReferenceFile(path=tmp_path / "boxes.txt", original_path=tmp_path / "boxes.txt", sha256="b")
    path = write_falcon_gain(tmp_path / "a.gain", XML.encode())
    expected = as_drawn()[::-1]
    expected[0, 3] = True
    np.testing.assert_array_equal(loaded(path, defects=boxes).defects, expected)


@pytest.mark.parametrize(
    ("xml", "boxes", "told"),
    [
        ("<defects/>", 0, ()),
        ("<defects><row>1,3-4</row><col> 2 - 3 </col></defects>", 3, ()),
        (
            "<defects><row>4-2</row><col>x</col><area>1,2,3</area><point>1,1</point></defects>",
            1,
            ("<row>4-2", "<col>x", "<area>1,2,3"),
        ),
        (
            "<defects><area>3,3,1,1</area><point>1-2,4</point><spot>1,1</spot><row/><row>-1</row></defects>",
            0,
            ("<area>3,3,1,1", "<point>1-2,4", "<spot>1,1", "2 more"),
        ),
        ("<defects><row>1</row>", 0, ("no XML of <defects>",)),
        ("<gain/>", 0, ("it is <gain>",)),
        ("", 0, ("no XML of <defects>",)),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><defects><row>1</row></defects>", 0, ("declarations",)),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, xml: str, boxes: int, told: tuple[str, ...]) -> None:
    """Each entry that can be read counts; the others are named, and the gain is used all the same."""
    path = write_falcon_gain(tmp_path / "a.gain", xml.encode() or b"\0")
    found = read_header_defects(path)
    assert found is not None
    assert len(found.boxes) == boxes
    assert len(found.unreadable) == len(told)
    assert all(part in text for part, text in zip(told, found.unreadable, strict=True))
    references = loaded(path)
    np.testing.assert_array_equal(references.gain, np.ones(SHAPE))
    assert any("cannot be read" in text for text in references.warnings) == bool(told)


def test_defects_outside_and_too_many(tmp_path: Path) -> None:
    """Those that lie outside are ignored and counted; a header that marks nearly all is not believed."""
    path = write_falcon_gain(
        tmp_path / "a.gain", b"<defects><row>6</row><point>12,0</point><point>7,0</point></defects>"
    )
    found = loaded(path)
    assert np.argwhere(found.defects).tolist() == [[5, 7]]
    assert "lists 1 defects: 1 pixels" in found.warnings[0]
    assert "2 of 3 defects" in found.warnings[1]
    found = loaded(write_falcon_gain(tmp_path / "b.gain", b"<defects><row>0-4</row></defects>"))
    assert found.defects is None
    assert "marks 83% of the pixels as bad, which is not believed" in found.warnings[0]


def test_gains_without_a_list(tmp_path: Path) -> None:
    """No list, no word; and a gain that is cut off is an error as before."""
    path = write_falcon_gain(tmp_path / "a.gain", None)
    assert read_header_defects(path) is None
    assert (loaded(path).defects, loaded(path).warnings) == (None, ())
    path.write_bytes(path.read_bytes()[:-40])
    cut = ReferenceFile(path=path, original_path=path, sha256="cut")
    with pytest.raises(ReferenceFileError, match=r"a\.gain"):
        load(References(gain=cut), SHAPE)
