"""The indices of a session: exactly once, whatever happens."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from komad.errors import DiskFullError, OutputError
from komad.formats.star import read_star
from komad.output import session
from komad.output.session import SessionIndex


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def summary(number: int, *, stem: str | None = None, **changes: Any) -> dict[str, Any]:
    """What a worker stored, with the numbers of the database."""
    stem = stem or f"movie_{number}"
    return {
        "movie_id": number,
        "sequence": number,
        "written_at": f"2026-03-04T12:{number // 60:02}:{number % 60:02}.000+00:00",
        "stem": stem,
        "movie": f"/data/{stem}.mrc",
        "files": {"micrograph": f"{stem}.mrc", "motion": f"{stem}.star", "power_spectrum": f"{stem}_PS.mrc"},
        "optics_group": "opticsGroup1",
        "movie_pixel_size_angstrom": 0.83,
        "pixel_size_angstrom": 0.83,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "motion_px": {"total": 3.0 * number, "early": 1.0, "late": 2.0},
        **changes,
    }


def lines(directory: Path) -> list[int]:
    """Sequence numbers in `processed.jsonl`."""
    text = (directory / "processed.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line)["sequence"] for line in text.splitlines()]


def names(directory: Path) -> list[str]:
    """Micrographs in the STAR."""
    return list(
        read_star(directory / "corrected_micrographs.star")["micrographs"].columns["rlnMicrographName"]
    )


def test_publish_writes_all_three(tmp_path: Path) -> None:
    """A line, a row, and a count."""
    index = SessionIndex(tmp_path, settings={"float16": False})
    assert index.publish([summary(1), summary(2)]) == 2
    assert lines(tmp_path) == [1, 2]
    assert names(tmp_path) == ["movie_1.mrc", "movie_2.mrc"]
    document = json.loads((tmp_path / "session.json").read_text())
    assert document["n_micrographs"] == 2
    assert document["first_written_at"] == "2026-03-04T12:00:01.000+00:00"
    assert document["last_written_at"] == "2026-03-04T12:00:02.000+00:00"
    assert document["settings"] == {"float16": False}
    assert index.last_sequence == 2


def test_publishing_again_adds_nothing(tmp_path: Path) -> None:
    """In the same process, and in the next one."""
    SessionIndex(tmp_path).publish([summary(1), summary(1)])
    again = SessionIndex(tmp_path)
    assert again.publish([summary(1), summary(2)]) == 1
    assert again.publish([summary(2)]) == 0
    assert lines(tmp_path) == [1, 2]


def test_a_new_database_does_not_hide_movies(tmp_path: Path) -> None:
    """Numbers start again with a new state directory: the time tells its movies from the old ones."""
    SessionIndex(tmp_path).publish([summary(1)])
    fresh = summary(1, stem="other", written_at="2027-01-01T00:00:00.000+00:00")
    assert SessionIndex(tmp_path).publish([fresh]) == 1
    assert names(tmp_path) == ["movie_1.mrc", "other.mrc"]


def test_a_movie_done_again_has_a_second_line_and_one_row(tmp_path: Path) -> None:
    """The row shows the newest numbers."""
    SessionIndex(tmp_path).publish([summary(1), summary(2, stem="movie_1")])
    assert lines(tmp_path) == [1, 2]
    columns = read_star(tmp_path / "corrected_micrographs.star")["micrographs"].columns
    assert list(columns["rlnAccumMotionTotal"]) == [6.0]


@pytest.mark.parametrize("cut", [1, 40, 250])
def test_a_torn_last_line_is_repaired(tmp_path: Path, cut: int) -> None:
    """Cut anywhere within the last line: the line goes, the movie is published again, once."""
    SessionIndex(tmp_path).publish([summary(1), summary(2)])
    path = tmp_path / "processed.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    index = SessionIndex(tmp_path)
    assert lines(tmp_path) == [1]
    assert index.publish([summary(1), summary(2)]) == 1
    assert lines(tmp_path) == [1, 2]


def test_the_index_comes_back_after_a_crash_before_the_star(tmp_path: Path) -> None:
    """Lines without a STAR: the next start writes it, even with nothing new."""
    SessionIndex(tmp_path).publish([summary(1)])
    (tmp_path / "corrected_micrographs.star").unlink()
    SessionIndex(tmp_path).publish([])
    assert names(tmp_path) == ["movie_1.mrc"]


def test_free_stem_belongs_to_one_movie(tmp_path: Path) -> None:
    """Another movie of the same name gets a number; the same movie keeps its name, also in the next process."""
    SessionIndex(tmp_path).publish([summary(1), summary(2, stem="movie_1-2")])
    index = SessionIndex(tmp_path)
    assert index.free_stem("movie_1", Path("/data/movie_1.mrc")) == "movie_1"
    assert index.free_stem("movie_1", Path("/other/movie_1.mrc")) == "movie_1-3"
    assert index.free_stem("Movie_1", Path("/data/Movie_1.mrc")) == "Movie_1-3"
    assert index.free_stem("session", Path("/data/session.mrc")) == "session-2"
    assert index.free_stem("new", Path("/other/new.mrc")) == "new"


def test_free_stem_spares_the_files_of_others(tmp_path: Path) -> None:
    """A movie named like another one's spectrum or half sum gets a number, whichever was first."""
    SessionIndex(tmp_path).publish([summary(1, stem="a"), summary(2, stem="b_EVN")])
    index = SessionIndex(tmp_path)
    assert index.free_stem("a_PS", Path("/data/a_PS.mrc")) == "a_PS-2"
    assert index.free_stem("b", Path("/data/b.mrc")) == "b-2"
    assert index.free_stem("a_XX", Path("/data/a_XX.mrc")) == "a_XX"


def test_star_is_rewritten_every_few_seconds_only(tmp_path: Path) -> None:
    """The first movie shows at once, the next after the interval or at the flush; the line is always there."""
    clock = Clock()
    index = SessionIndex(tmp_path, clock=clock)
    index.publish([summary(1)])
    index.publish([summary(2)])
    assert names(tmp_path) == ["movie_1.mrc"]
    assert lines(tmp_path) == [1, 2]
    clock.now += session.MIN_REWRITE_INTERVAL_S
    index.publish([])
    assert len(names(tmp_path)) == 2
    index.publish([summary(3)])
    index.flush()
    assert len(names(tmp_path)) == 3


def test_star_that_is_slow_to_write_is_written_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewrite of 3 s is not repeated before a minute has passed."""
    clock = Clock()

    def slow(*_: object) -> str:
        clock.now += 3.0
        return "x"

    index = SessionIndex(tmp_path, clock=clock)
    monkeypatch.setattr(session.star, "dumps", slow)
    index.publish([summary(1)])
    monkeypatch.undo()
    clock.now += 59.0
    index.publish([summary(2)])
    assert (tmp_path / "corrected_micrographs.star").read_text() == "x"
    clock.now += 2.0
    index.publish([])
    assert len(names(tmp_path)) == 2


def test_a_full_disk_appends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that fails half way leaves the file as it was, and may be repeated."""
    index = SessionIndex(tmp_path)
    index.publish([summary(1)])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session.os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"processed\.jsonl"):
        index.publish([summary(2)])
    monkeypatch.undo()
    assert lines(tmp_path) == [1]
    assert index.publish([summary(2)]) == 1
    assert lines(tmp_path) == [1, 2]


def test_a_foreign_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Something that komad did not write is not silently skipped."""
    (tmp_path / "processed.jsonl").write_text('{"hello": 1}\n')
    with pytest.raises(OutputError, match="line 1, was not written by komad"):
        SessionIndex(tmp_path)


def test_no_star_without_micrographs(tmp_path: Path) -> None:
    """RELION refuses an index without rows."""
    SessionIndex(tmp_path).flush()
    assert not (tmp_path / "corrected_micrographs.star").exists()
    assert json.loads((tmp_path / "session.json").read_text())["n_micrographs"] == 0
