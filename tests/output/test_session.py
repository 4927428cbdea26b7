"""The indices of a session: exactly once, whatever happens."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from komad.errors import DiskFullError, OutputError
from komad.formats import atomic
from komad.formats.star import read_star
from komad.output.session import SessionIndex


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


def test_movies_show_at_once_in_all_three(tmp_path: Path) -> None:
    """Singly, in a burst, and when a movie is made again."""
    index = SessionIndex(tmp_path)
    for batch in ([summary(1)], [summary(2)], [summary(3), summary(4)], [summary(5, stem="movie_2")]):
        index.publish(batch)
        assert len(names(tmp_path)) == json.loads((tmp_path / "session.json").read_text())["n_micrographs"]
    assert names(tmp_path) == [f"movie_{number}.mrc" for number in range(1, 5)]
    assert lines(tmp_path) == [1, 2, 3, 4, 5]


def test_the_table_has_what_tomograms_need(tmp_path: Path) -> None:
    """The halves and the exposure before the movie, where the summaries have them."""
    tilt = summary(1, exposure_before=12.5)
    tilt["files"] |= {"even": "movie_1_EVN.mrc", "odd": "movie_1_ODD.mrc"}
    SessionIndex(tmp_path).publish([tilt])
    columns = read_star(tmp_path / "corrected_micrographs.star")["micrographs"].columns
    assert columns["rlnMicrographPreExposure"] == [12.5]
    assert columns["rlnMicrographNameEven"] == ["movie_1_EVN.mrc"]
    assert columns["rlnMicrographNameOdd"] == ["movie_1_ODD.mrc"]


def state(directory: Path) -> str:
    """What `session.json` says of the session."""
    return str(json.loads((directory / "session.json").read_text())["state"])


def test_session_tells_whether_more_is_to_come(tmp_path: Path) -> None:
    """Running from the start on; complete or stopped when komad ends; running again afterwards."""
    with SessionIndex(tmp_path) as index:
        index.publish([])
        assert state(tmp_path) == "running"
    assert state(tmp_path) == "complete"
    with suppress(KeyboardInterrupt), SessionIndex(tmp_path) as index:
        index.publish([summary(1)])
        raise KeyboardInterrupt
    assert state(tmp_path) == "stopped"
    SessionIndex(tmp_path).publish([])
    assert state(tmp_path) == "running"


def test_a_full_disk_appends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that fails half way leaves the file as it was, and may be repeated."""
    index = SessionIndex(tmp_path)
    index.publish([summary(1)])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
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
    SessionIndex(tmp_path).end(is_complete=False)
    assert not (tmp_path / "corrected_micrographs.star").exists()
    assert json.loads((tmp_path / "session.json").read_text())["n_micrographs"] == 0
