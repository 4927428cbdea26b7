"""STAR tables, against the package starfile and the files of RELION."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile
from hypothesis import given
from hypothesis import strategies as st

from komad.errors import StarError
from komad.formats.star import Table, dumps, read_star
from tests.formats.files import SHARED_DATA

GENERAL = Table(
    "general",
    {"rlnImageSizeX": 3710, "rlnMicrographMovieName": "Movies/a.tiff", "rlnVoltage": 200.0, "rlnNote": ""},
    loop=False,
)
SHIFTS = Table(
    "global_shift",
    {
        "rlnMicrographFrameNumber": np.arange(1, 4),
        "rlnMicrographShiftX": np.array([0, 1.2148451, -9999], np.float32),
        "rlnName": ["20170629_00021", "with space", "it's"],
    },
    loop=True,
)


def test_layout_is_that_of_relion(tmp_path: Path) -> None:
    """Version comment, block, names with numbers, blank line at the end of a loop."""
    lines = [line.rstrip() for line in dumps([GENERAL, SHIFTS]).splitlines()]
    assert lines[:5] == ["", "# version 30001", "", "data_general", ""]
    assert lines[5].split() == ["_rlnImageSizeX", "3710"]
    assert lines[8].split() == ["_rlnNote", '""']
    begin = lines.index("loop_")
    assert lines[begin - 2 : begin + 4] == [
        "data_global_shift", "", "loop_", "_rlnMicrographFrameNumber #1", "_rlnMicrographShiftX #2", "_rlnName #3",
    ]  # fmt: skip
    assert lines[begin + 5].split(maxsplit=2) == ["2", "1.2148451", '"with space"']
    assert lines[-1] == ""


def test_round_trip(tmp_path: Path) -> None:
    """What was written is read with its types: whole numbers, decimals, names that look like numbers."""
    (tmp_path / "a.star").write_text(dumps([GENERAL, SHIFTS]))
    read = read_star(tmp_path / "a.star")
    assert list(read) == ["general", "global_shift"]
    assert dict(read["general"].columns) == dict(GENERAL.columns)
    assert not read["general"].loop
    shifts = read["global_shift"]
    assert shifts.loop
    assert shifts.columns["rlnMicrographFrameNumber"] == [1, 2, 3]
    assert shifts.columns["rlnMicrographShiftX"] == pytest.approx([0, 1.2148451, -9999])
    assert shifts.columns["rlnName"] == ["20170629_00021", "with space", "it's"]


def test_starfile_reads_ours(tmp_path: Path) -> None:
    """The field's package finds the same tables and values."""
    (tmp_path / "a.star").write_text(dumps([GENERAL, SHIFTS]))
    read = starfile.read(tmp_path / "a.star")
    assert read["general"]["rlnImageSizeX"] == 3710
    assert read["general"]["rlnMicrographMovieName"] == "Movies/a.tiff"
    assert read["global_shift"]["rlnMicrographFrameNumber"].tolist() == [1, 2, 3]
    assert read["global_shift"]["rlnMicrographShiftX"].tolist() == pytest.approx([0, 1.2148451, -9999])
    assert read["global_shift"]["rlnName"].tolist()[:2] == ["20170629_00021", "with space"]


def test_we_read_what_starfile_writes(tmp_path: Path) -> None:
    """Tables of the field's package come back."""
    optics = {"rlnOpticsGroup": [1, 2], "rlnVoltage": [300.0, 200.5], "rlnOpticsGroupName": ["a", "b c"]}
    import pandas as pd

    starfile.write({"optics": pd.DataFrame(optics)}, tmp_path / "a.star")
    assert dict(read_star(tmp_path / "a.star")["optics"].columns) == optics


def test_empty_loop(tmp_path: Path) -> None:
    """A loop without rows keeps its columns."""
    (tmp_path / "a.star").write_text(
        dumps([Table("hot_pixels", {"rlnCoordinateX": [], "rlnCoordinateY": []}, True)])
    )
    table = read_star(tmp_path / "a.star")["hot_pixels"]
    assert table.loop
    assert dict(table.columns) == {"rlnCoordinateX": [], "rlnCoordinateY": []}


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ")).filter(
            lambda text: not ({'"', "'"} <= set(text))
        ),
        min_size=1,
    )
)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Spaces, quotes, reserved words, signs of comments: every text comes back as it was."""
    path = tmp_path_factory.mktemp("star") / "a.star"
    path.write_text(dumps([Table("", {"rlnName": ["word", *texts]}, loop=True)]), encoding="utf-8")
    assert read_star(path)[""].columns["rlnName"] == ["word", *texts]


@pytest.mark.parametrize(
    "name",
    ["a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "a\tb", "#a", "data_", "loop_", "a'b c"],
)
def test_names_add_no_line_and_no_column(tmp_path: Path, name: str) -> None:
    """Whatever a movie is called, it is one value of one row, and RELION's lines end at line feeds only."""
    text = dumps([Table("", {"rlnName": [name, "b"], "rlnX": [1, 2]}, loop=True)])
    assert text.count("\n") == dumps([Table("", {"rlnName": ["a", "b"], "rlnX": [1, 2]}, loop=True)]).count(
        "\n"
    )
    (tmp_path / "a.star").write_text(text, encoding="utf-8")
    assert read_star(tmp_path / "a.star")[""].columns == {"rlnName": [name, "b"], "rlnX": [1, 2]}


def test_a_long_row_of_digits_takes_no_time(tmp_path: Path) -> None:
    """Half a million digits and a letter are a word; more digits than Python converts are a number all the same."""
    (tmp_path / "a.star").write_text("data_\n\n_a " + "9" * 500_000 + "x\n_b " + "9" * 5000 + "\n")
    assert read_star(tmp_path / "a.star")[""].columns["b"] == float("inf")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_any_number_survives(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    """Numbers keep eight digits."""
    path = tmp_path_factory.mktemp("star") / "a.star"
    path.write_text(dumps([Table("", {"rlnX": numbers}, loop=True)]))
    np.testing.assert_allclose(read_star(path)[""].columns["rlnX"], numbers, rtol=6e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "two\nlines", "both ' and \"", [1]])
def test_values_that_star_cannot_hold(value: object) -> None:
    """They are refused and not written as something that RELION misreads."""
    with pytest.raises(StarError, match="cannot be written"):
        dumps([Table("general", {"rlnX": value}, loop=False)])


def test_columns_of_different_length() -> None:
    """A loop whose columns do not fit together is refused."""
    with pytest.raises(StarError, match="differ in length"):
        dumps([Table("x", {"a": [1, 2], "b": [1]}, loop=True)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello world\n", "line 1: 'hello' before the first data_ block"),
        ("data_a\n\nloop_\n_x #1\n_y #2\n1 2\n3\n", "line 7: 1 values for 2 columns of data_a"),
        ("data_a\n\n_x 1 2\n", "line 3: not a name and its value"),
        ("data_a\n_x 1\n\ndata_a\n_x 1\n", "line 4: a second block data_a"),
    ],
)
def test_broken_file(tmp_path: Path, text: str, message: str) -> None:
    """The line that is wrong is named."""
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(StarError, match=message):
        read_star(tmp_path / "a.star")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing or no text is named."""
    (tmp_path / "b.star").write_bytes(b"\xff\xfe\0")
    with pytest.raises(StarError, match=r"cannot read .*a\.star: No such file"):
        read_star(tmp_path / "a.star")
    with pytest.raises(StarError, match=r"cannot read .*b\.star: it is no text"):
        read_star(tmp_path / "b.star")


def real_files() -> list[Path]:
    """STAR files of RELION and of detector makers."""
    return sorted(SHARED_DATA.rglob("*.star"))


@pytest.mark.skipif(not real_files(), reason="the real files are not beside this checkout")
def test_real_files_are_read_as_starfile_reads_them() -> None:
    """Every block of every real file has the same columns and values as in the field's package."""
    for path in real_files():
        ours, theirs = read_star(path), starfile.read(path, always_dict=True)
        assert list(ours) == list(theirs), path
        for name, table in ours.items():
            for column, values in table.columns.items():
                other = theirs[name][column]
                if table.loop:
                    assert values == other.tolist(), (path, name, column)
                else:
                    assert values == other, (path, name, column)


@pytest.mark.skipif(not real_files(), reason="the real files are not beside this checkout")
def test_real_motion_table() -> None:
    """One real file in numbers: size, dose and the third shift of a movie of beta-galactosidase."""
    tables = read_star(SHARED_DATA / "relion_tutorial" / "20170629_00022_frameImage.star")
    assert tables["general"].columns["rlnImageSizeY"] == 3838
    assert tables["general"].columns["rlnMicrographDoseRate"] == 1.277
    assert tables["global_shift"].columns["rlnMicrographShiftY"][2] == -0.78418
    assert len(tables["global_shift"].columns["rlnMicrographFrameNumber"]) == 24
