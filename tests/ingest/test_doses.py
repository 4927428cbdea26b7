"""Files that list the dose of each frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from komad.errors import ParameterError
from komad.ingest.doses import read_frame_doses


def write(tmp_path: Path, text: str) -> Path:
    """A file of doses."""
    path = tmp_path / "doses.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "doses"),
    [
        ("0.5\n1.2\n1.2\n", (0.5, 1.2, 1.2)),
        ("# beam comes on slowly\n\n0  # off\n 1.2 # on\n", (0.0, 1.2)),
        ("2 1 0.5\n3 1 1.2\n", (0.5, 0.5, 1.2, 1.2, 1.2)),
    ],
)
def test_one_dose_a_line_or_rows_of_motioncor(tmp_path: Path, text: str, doses: tuple[float, ...]) -> None:
    """One number is one frame; three are frames, 1 and the dose of each; comments and empty lines do not count."""
    assert read_frame_doses(write(tmp_path, text)) == doses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.2\n40 5 0.25\n", r"line 2: 5 frames are to be added into one: write 1 there.* --eer-grouping"),
        ("1.2\nx\n", "line 2: 'x' is neither one dose"),
        ("1 1 1.2\n999999999999 1 1.2\n", "line 2: 999999999999 frames are more than any movie has"),
        ("40 1\n", "line 1: '40 1' is neither"),
        ("0 1 1.2\n", "line 1: '0 1 1.2' is neither"),
        ("4.5 1 1.2\n", "line 1: '4.5 1 1.2' is neither"),
        ("-1\n", "line 1: '-1' is neither"),
        ("inf\n", "line 1: 'inf' is neither"),
        ("nan\n", "line 1: 'nan' is neither"),
        ("1.2\n3 1 1.2\n", "use one form throughout"),
        ("0\n0\n", "no dose above zero"),
        ("# nothing\n", "no dose above zero"),
    ],
)
def test_what_is_no_list_of_doses(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file, the line and what it should hold."""
    with pytest.raises(ParameterError, match=message) as caught:
        read_frame_doses(write(tmp_path, text))
    assert "doses.txt" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Not there, or no text: the message says which."""
    with pytest.raises(ParameterError, match=r"gone\.txt: No such file"):
        read_frame_doses(tmp_path / "gone.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="binary: it is no text"):
        read_frame_doses(tmp_path / "binary")
