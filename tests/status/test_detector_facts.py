"""The facts about the detector, from a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from komad.errors import MovieError
from komad.model import Candidate, JobKind, ReferenceFile, References
from komad.output.detector import detector_summary
from komad.store import Store
from komad.store.detector import DetectorFacts, read_detector, read_history
from tests.output.test_detector import REPORT
from tests.store.conftest import movie_at

START = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
GAIN = ReferenceFile(path=Path("/state/g.mrc"), original_path=Path("/data/g.mrc"), sha256="cd" * 32)
REFERENCES = {"k3": References(gain=GAIN), "turned": References(gain=GAIN, gain_rot=1), "": References()}


def add(store: Store, number: int, *, series: str = "k3") -> None:
    """Add movie `number`, found in its minute."""
    found_at = (START + timedelta(minutes=number)).isoformat(timespec="milliseconds")
    movie = movie_at(f"/data/m{number}.mrc", references=REFERENCES[series], series=series, found_at=found_at)
    store.add_movie(movie)


def correct(store: Store, number: int, summary: dict[str, Any] | None = None) -> None:
    """Let the movie be corrected; its number of hot pixels is its own number."""
    detector = detector_summary(replace(REPORT, n_hot=number)) if summary is None else summary
    with store.write() as connection:
        connection.exec_driver_sql(
            "UPDATE jobs SET state = 'done', summary = ?, sequence = (SELECT coalesce(max(sequence), 0) + 1 FROM jobs)"
            " WHERE kind = 'correct' AND movie_id = (SELECT movie_id FROM movies WHERE stem = ?)",
            (json.dumps({"stem": f"m{number}", "detector": detector} if detector else {}), f"m{number}"),
        )


def execute(store: Store, statement: str, *values: object) -> None:
    """Change the database as a worker would."""
    with store.write() as connection:
        connection.exec_driver_sql(statement, values)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one."""
    with Store(tmp_path).open() as store:
        yield store


def test_an_empty_database_shows_nothing(store: Store, tmp_path: Path) -> None:
    """Nothing measured, no gain, no stack sums; no movie in the history."""
    assert read_detector(tmp_path) == DetectorFacts()
    assert read_history(tmp_path).movies == ()


def test_first_and_last_movies_of_the_series(store: Store, tmp_path: Path) -> None:
    """Twenty from each end of those that are corrected, in the order in which they were found."""
    for number in range(1, 61):
        add(store, number)
        if number not in (3, 60):
            correct(store, number)
    facts = read_detector(tmp_path)
    assert [movie.n_hot for movie in facts.first] == [1, 2, *range(4, 22)]
    assert [movie.n_hot for movie in facts.last] == list(range(40, 60))
    assert facts.last[-1].stem == "m59"
    assert facts.last[-1].correlation_raw == REPORT.correlation_raw
    assert facts.last[-1].pattern_correlation is None
    assert facts.last[-1].n_outliers == 59 + REPORT.n_dead + REPORT.n_defects
    assert facts.has_gain


def test_a_new_gain_reference_begins_anew(store: Store, tmp_path: Path) -> None:
    """What the old reference left says nothing of the new one."""
    for number in range(1, 9):
        add(store, number, series="k3" if number < 6 else "turned")
        correct(store, number)
    facts = read_detector(tmp_path)
    assert [movie.n_hot for movie in facts.first] == [6, 7, 8] == [movie.n_hot for movie in facts.last]


def test_movies_of_an_older_komad_are_left_out(store: Store, tmp_path: Path) -> None:
    """Their summaries know nothing of the detector."""
    for number in (1, 2):
        add(store, number, series="")
        correct(store, number, {})
    assert read_detector(tmp_path).last == ()
    assert read_history(tmp_path).movies == ()
    add(store, 3)
    correct(store, 3)
    assert [movie.n_hot for movie in read_detector(tmp_path).last] == [3]
    assert [movie.n_hot for movie in read_history(tmp_path).movies] == [3]


def test_who_waits_for_neighbours(store: Store, tmp_path: Path) -> None:
    """Counted, with the reason of the first; movies that wait for their archive or a person are no matter of KOMA."""
    for number in (1, 2, 3, 4):
        add(store, number)
    execute(
        store,
        "UPDATE jobs SET state = 'held', held_by = 'koma', reason = 'KOMA waits for the archive of m1'"
        " WHERE kind = 'correct' AND movie_id IN (2, 3)",
    )
    facts = read_detector(tmp_path)
    assert (facts.n_waiting, facts.waiting_reason) == (2, "KOMA waits for the archive of m1")


def test_stack_sums_on_disk(store: Store, tmp_path: Path) -> None:
    """Those whose file was removed do not count."""
    for number, (file, n_bytes) in enumerate((("1.npz", 100), ("", 0), ("3.npz", 50)), start=1):
        add(store, number)
        execute(
            store,
            "INSERT INTO stack_sums (movie_id, file, n_bytes, n_frames, ny, nx, dtype, mean, n_outliers, frame_means)"
            " VALUES (?, ?, ?, 8, 96, 128, 'uint16', 1, 0, x'')",
            number, file, n_bytes,
        )  # fmt: skip
    facts = read_detector(tmp_path)
    assert (facts.n_stack_sums, facts.stack_sum_bytes) == (2, 150)


def test_gain_check_of_the_newest_series(store: Store, tmp_path: Path) -> None:
    """A verdict about the reference that was used before is not shown as that of the new one."""
    add(store, 1)
    verdict = {
        "verdict": "other", "configured": {"gain_rot": 0, "gain_flip": 0}, "best": {"gain_rot": 1, "gain_flip": 2},
        "confidence": 12.5, "sentence": "turn it", "movie_id": 1, "accepted": False,
    }  # fmt: skip
    assert read_detector(tmp_path).gain_check is None
    execute(store, "INSERT INTO meta VALUES ('gain_check:k3', ?)", json.dumps(verdict))
    check = read_detector(tmp_path).gain_check
    assert check is not None
    assert (check.verdict, check.best, check.confidence, check.accepted) == ("other", (1, 2), 12.5, False)
    add(store, 2, series="turned")
    assert read_detector(tmp_path).gain_check is None
    add(store, 3)
    add(store, 4, series="turned")
    other = read_detector(tmp_path).gain_check
    assert other is not None, "two cameras in turn: the gain of one of them is wrong"
    assert other.verdict == "other"


def test_gain_check_is_shown_after_a_file_that_cannot_be_read(store: Store, tmp_path: Path) -> None:
    """A file of which nothing is known hides no verdict about the movies before it."""
    add(store, 1)
    verdict = {
        "verdict": "other", "configured": {"gain_rot": 0, "gain_flip": 0}, "best": {"gain_rot": 1, "gain_flip": 2},
        "confidence": 12.5, "sentence": "turn it", "movie_id": 1, "accepted": False,
    }  # fmt: skip
    execute(store, "INSERT INTO meta VALUES ('gain_check:k3', ?)", json.dumps(verdict))
    stray = Candidate(path=Path("/data/stray.mrc"), size_bytes=5, mtime_ns=1, folder=0)
    assert store.add_unreadable(stray, stem="stray", error=MovieError("no movie"))
    facts = read_detector(tmp_path)
    assert facts.has_gain
    assert facts.gain_check is not None
    assert facts.gain_check.verdict == "other"


def test_history_of_all_of_the_last_and_of_the_newest(store: Store, tmp_path: Path) -> None:
    """In the order in which they were found, whatever the order of processing; series with their references."""
    for number in range(1, 11):
        add(store, number, series="k3" if number < 8 else "turned")
    for number in (2, 1, 5, 3, 4, 10, 9):
        correct(store, number)
    history = read_history(tmp_path)
    assert [movie.n_hot for movie in history.movies] == [1, 2, 3, 4, 5, 9, 10]
    assert list(history.series) == ["k3", "turned"]
    assert history.series["turned"].gain_rot == 1
    assert history.series["k3"].gain == GAIN.sha256
    assert [movie.n_hot for movie in read_history(tmp_path, last=3).movies] == [5, 9, 10]
    since = START + timedelta(minutes=4)
    assert [movie.n_hot for movie in read_history(tmp_path, since=since).movies] == [4, 5, 9, 10]


def test_few_rows_are_read(store: Store, tmp_path: Path) -> None:
    """Both ends of a series are found by an index, not by reading and sorting all jobs that are done."""
    from komad.store import detector

    for order in ("ASC", "DESC"):
        with store.read() as connection:
            rows = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN " + detector._AT_AN_END.format(order), ("k3", 20)
            )
            plan = " / ".join(row.detail for row in rows)
        assert "ix_movies_series_movie_id" in plan
        assert "B-TREE" not in plan


def test_a_job_made_again_is_not_counted_while_it_waits(store: Store, tmp_path: Path) -> None:
    """Its old numbers are not those that it will have."""
    for number in (1, 2):
        add(store, number)
        correct(store, number)
    execute(store, "UPDATE jobs SET state = 'queued' WHERE movie_id = 2 AND kind = ?", JobKind.CORRECT)
    assert [movie.n_hot for movie in read_detector(tmp_path).last] == [1]
