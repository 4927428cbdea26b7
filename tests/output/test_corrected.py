"""`corrected_micrographs.star` as it grows: whole rows for every reader, the same bytes however it came about."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import starfile

from komad.errors import DiskFullError
from komad.formats import atomic
from komad.formats.star import BOUNDARY_BYTES, read_star
from komad.output.corrected import NAME, CorrectedMicrographs
from komad.output.relion import MicrographRow, Optics

OPTICS = Optics(
    name="opticsGroup1",
    movie_pixel_size_angstrom=0.415,
    pixel_size_angstrom=0.83,
    voltage_kv=300.0,
    cs_mm=2.7,
    amplitude_contrast=0.1,
)


def row(name: str, optics: Optics = OPTICS, **changes: object) -> MicrographRow:
    """A line of the index with all columns."""
    whole = MicrographRow(
        name=f"{name}.mrc",
        metadata=f"{name}.star",
        name_no_dw=f"{name}_noDW.mrc",
        power_spectrum=f"{name}_PS.mrc",
        even=f"{name}_EVN.mrc",
        odd=f"{name}_ODD.mrc",
        pre_exposure=2.5,
        optics=optics,
        motion_px=(3.0, 1.0, 2.0),
    )
    return replace(whole, **changes)


def rows(count: int) -> dict[str, MicrographRow]:
    """Rows with names as long as a camera gives."""
    return {stem: row(stem) for stem in (f"FoilHole_{n:05}_Data_20260304_120000" for n in range(count))}


def table(folder: Path, wanted: dict[str, MicrographRow]) -> CorrectedMicrographs:
    """A table with these rows, written at once."""
    folder.mkdir(exist_ok=True)
    made = CorrectedMicrographs(folder)
    for stem, one in wanted.items():
        made.add(stem, one)
    made.write()
    return made


def grown(folder: Path, wanted: dict[str, MicrographRow]) -> CorrectedMicrographs:
    """A table into which the rows came one after the other."""
    folder.mkdir(exist_ok=True)
    made = CorrectedMicrographs(folder)
    for stem, one in wanted.items():
        made.add(stem, one)
        made.write()
    return made


def column(folder: Path, label: str) -> list[object]:
    """Values of a column of the table."""
    return list(read_star(folder / NAME)["micrographs"].columns[label])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk."""
    monkeypatch.setattr(atomic.os, "fsync", lambda _: None)


@pytest.mark.usefixtures("quick")
def test_growing_gives_the_bytes_of_writing_at_once(tmp_path: Path) -> None:
    """Row by row or all at once, the file is the same, and growing leaves it the same file."""
    wanted = rows(60)
    made = grown(tmp_path / "grown", wanted)
    first = (tmp_path / "grown" / NAME).stat().st_ino
    made.add("one_more", row("one_more"))
    made.write()
    table(tmp_path / "whole", wanted | {"one_more": row("one_more")})
    assert (tmp_path / "grown" / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()
    assert (tmp_path / "grown" / NAME).stat().st_ino == first


def test_no_row_lies_across_a_boundary(tmp_path: Path) -> None:
    """Whatever its length; the rows are all there, in order."""
    wanted = {
        stem: replace(one, even=f"{'x' * (n % 97)}.mrc") for n, (stem, one) in enumerate(rows(200).items())
    }
    table(tmp_path, wanted)
    end = 0
    for line in (tmp_path / NAME).read_bytes().splitlines(keepends=True):
        start, end = end + len(line) - len(line.lstrip(b" ")), end + len(line)
        assert start // BOUNDARY_BYTES == (end - 1) // BOUNDARY_BYTES
    assert column(tmp_path, "rlnMicrographName") == [one.name for one in wanted.values()]


def test_what_a_reader_may_see_is_whole_rows(tmp_path: Path) -> None:
    """A file that ends at a boundary, with the spaces before the next row, is read by us and by starfile."""
    table(tmp_path, rows(60))
    data = (tmp_path / NAME).read_bytes()
    cut = data[: 3 * BOUNDARY_BYTES]
    assert cut.endswith(b" " * 20)
    (tmp_path / NAME).write_bytes(cut)
    whole = cut.count(b".star")
    assert column(tmp_path, "rlnMicrographName") == [f"{stem}.mrc" for stem in list(rows(60))[:whole]]
    assert starfile.read(tmp_path / NAME)["micrographs"].shape == (whole, 11)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_star_printtable") is None, reason="RELION is not installed")
def test_relion_reads_a_table_that_grows(tmp_path: Path) -> None:
    """With the spaces within and at the end, and with the columns of RELION 5 for tomograms, which it does not know."""
    table(tmp_path, rows(60))
    data = (tmp_path / NAME).read_bytes()[: 4 * BOUNDARY_BYTES]
    (tmp_path / NAME).write_bytes(data)
    command = [
        "relion_star_printtable",
        NAME,
        "data_micrographs",
        "rlnMicrographName",
        "rlnMicrographPreExposure",
    ]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    expected = [f"{stem}.mrc 2.5" for stem in list(rows(60))[: data.count(b".star")]]
    assert [" ".join(line.split()) for line in told.splitlines()] == expected
    assert len(expected) > 40


def states_seen(path: Path, stop: threading.Event, chunk_bytes: int, seen: list[bytes]) -> None:
    """Read the file again and again until told to stop; keep what is not whole, and at last the number of reads."""
    n_reads, n_columns = 0, 11
    while not stop.is_set():
        descriptor = os.open(path, os.O_RDONLY)
        parts = []
        while part := os.read(descriptor, chunk_bytes):
            parts.append(part)
        os.close(descriptor)
        n_reads += 1
        lines = b"".join(parts).partition(b"data_micrographs")[2].split(b"\n")
        values = [
            len(words) for line in lines[3:] if (words := line.split()) and not words[0].startswith(b"_")
        ]
        if lines[-1].strip() or not values or set(values) != {n_columns}:
            seen.append(b"\n".join(lines[-3:]))
    seen.append(b"%d reads" % n_reads)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("chunk_bytes", [8191, 1 << 24])
def test_readers_see_whole_rows_while_it_grows(tmp_path: Path, chunk_bytes: int) -> None:
    """A reader that reads as fast as it can while rows come, singly and many at a time."""
    wanted = iter(rows(1500).items())
    made = table(tmp_path, dict([next(wanted)]))
    stop, seen = threading.Event(), list[bytes]()
    reader = threading.Thread(target=states_seen, args=(tmp_path / NAME, stop, chunk_bytes, seen))
    reader.start()
    for number, (stem, one) in enumerate(wanted):
        made.add(stem, one)
        if number % 50 > 25 or number % 50 == 0:
            made.write()
    made.write()
    stop.set()
    reader.join()
    assert len(seen) == 1, seen[:3]
    assert int(seen[0].split()[0]) > 20
    assert len(column(tmp_path, "rlnMicrographName")) == 1500


def test_a_micrograph_made_again_keeps_its_place(tmp_path: Path) -> None:
    """Its row has the new numbers, and there is one."""
    made = table(tmp_path, rows(3))
    stem = list(rows(3))[1]
    made.add(stem, row(stem, motion_px=(7.0, 3.0, 4.0)))
    made.write()
    assert column(tmp_path, "rlnAccumMotionTotal") == [3.0, 7.0, 3.0]
    assert column(tmp_path, "rlnMicrographName")[1] == f"{stem}.mrc"


def test_a_column_goes_when_a_row_lacks_it(tmp_path: Path) -> None:
    """In the middle of a session; it stays away, also when rows have it again."""
    made = table(tmp_path, rows(2))
    made.add("a", row("a", even="", odd="", pre_exposure=None))
    made.add("b", row("b"))
    made.write()
    assert not {"rlnMicrographNameEven", "rlnMicrographPreExposure"} & {
        *read_star(tmp_path / NAME)["micrographs"].columns
    }
    assert column(tmp_path, "rlnMicrographName")[2:] == ["a.mrc", "b.mrc"]


def test_a_new_optics_group_in_the_middle_of_a_session(tmp_path: Path) -> None:
    """The table of groups has it, and rows point at theirs; more rows of it do not write the file anew."""
    made = table(tmp_path, {"a": row("a")})
    other = replace(OPTICS, name="other", voltage_kv=200.0)
    made.add("b", row("b", other))
    made.write()
    number = (tmp_path / NAME).stat().st_ino
    made.add("c", row("c", other))
    made.add("d", row("d"))
    made.write()
    assert column(tmp_path, "rlnOpticsGroup") == [1, 2, 2, 1]
    assert read_star(tmp_path / NAME)["optics"].columns["rlnOpticsGroupName"] == ["opticsGroup1", "other"]
    assert (tmp_path / NAME).stat().st_ino == number


def test_a_file_as_it_should_be_is_left_alone_at_start(tmp_path: Path) -> None:
    """The next process finds what it would write, and goes on behind it."""
    table(tmp_path, rows(5))
    number = (tmp_path / NAME).stat().st_ino
    made = table(tmp_path, rows(5))
    made.add("next", row("next"))
    made.write()
    assert (tmp_path / NAME).stat().st_ino == number
    assert column(tmp_path, "rlnMicrographName")[-1] == "next.mrc"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: data[:-30] + bytes(30), lambda _: b""]
)
def test_half_a_row_after_a_power_failure_is_put_right(tmp_path: Path, damage: object) -> None:
    """Cut off, or filled with zeros: the next process writes the file as a whole."""
    assert callable(damage)
    table(tmp_path, rows(5))
    right = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(damage(right))
    table(tmp_path, rows(5))
    assert (tmp_path / NAME).read_bytes() == right


def test_a_file_that_somebody_changed_is_made_anew(tmp_path: Path) -> None:
    """Removed or made longer while komad runs: the next row brings all of them."""
    made = table(tmp_path, rows(2))
    (tmp_path / NAME).unlink()
    made.add("a", row("a"))
    made.write()
    with (tmp_path / NAME).open("a") as file:
        file.write("# mine\n")
    made.add("b", row("b"))
    made.write()
    assert column(tmp_path, "rlnMicrographName")[2:] == ["a.mrc", "b.mrc"]
    assert b"mine" not in (tmp_path / NAME).read_bytes()


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let no file of this process become longer: a write that goes beyond it is cut off by the kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_row_that_does_not_go_in_is_taken_back(tmp_path: Path) -> None:
    """A write that the kernel cuts off in the middle leaves the file as it was; the row comes when there is room."""
    made = table(tmp_path, rows(3))
    before = (tmp_path / NAME).read_bytes()
    made.add("a", row("a"))
    with largest_file(len(before) + 50), pytest.raises(DiskFullError):
        made.write()
    assert (tmp_path / NAME).read_bytes() == before
    made.write()
    assert column(tmp_path, "rlnMicrographName")[-1] == "a.mrc"
