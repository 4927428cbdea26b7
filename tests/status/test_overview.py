"""The facts, from a real database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from komad.errors import MovieError, MovieTruncatedError, ParameterError, StoreError
from komad.model import Acquisition, Job, JobKind, Movie, MovieFormat, MovieHeader
from komad.store import PausedBy, Store
from komad.store.listing import find_movie, list_jobs
from komad.store.overview import GpuState, open_read_only, read_overview
from tests.status.conftest import SLOW
from tests.store.conftest import movie_at


def movie(name: str) -> Movie:
    """A movie found now."""
    return movie_at(
        f"/data/{name}.mrc",
        header=MovieHeader(format=MovieFormat.MRC, n_frames=4, ny=8, nx=8, dtype="uint8"),
        acquisition=Acquisition(pixel_size_angstrom=1.0, voltage_kv=300.0),
        found_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def claimed(store: Store, kind: JobKind) -> Job:
    """The next job, which must be of this kind, begun by worker w."""
    job = store.claim("w")
    assert job is not None
    assert job.kind is kind
    return store.begin(job)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Four movies: `a` done, `b` archived with a failed correct job, `c` to be tried again, `d` without pixel size."""
    with Store(tmp_path).open() as store:
        store.register_worker("w", boot_id="boot", pid=42, device="cpu")
        for name in "abc":
            store.add_movie(movie(name))
        store.add_movie(movie("d"), held={JobKind.CORRECT: "the pixel size is unknown"})
        store.finish(claimed(store, JobKind.ARCHIVE), {"archive_bytes": 70}, 1.0)
        store.finish(claimed(store, JobKind.CORRECT), {"output_bytes": 300}, 2.5)
        store.finish(claimed(store, JobKind.ARCHIVE), {"archive_bytes": 70}, 1.0)
        store.fail(claimed(store, JobKind.CORRECT), MovieError("no picture"), 3)
        store.fail(claimed(store, JobKind.ARCHIVE), MovieTruncatedError("short"), 3)
        store.beat("w", "archive c")
        yield store


def test_folders_are_read_as_they_were_put(store: Store, tmp_path: Path) -> None:
    """The last that the daemon said of its folders; nothing before it said anything."""
    assert read_overview(tmp_path, now=datetime.now(UTC)).folders == ()
    for waiting in (7, 3):
        store.put_folders([replace(SLOW, waiting=waiting), SLOW])
    assert read_overview(tmp_path, now=datetime.now(UTC)).folders == (SLOW, SLOW)


def test_counts_windows_and_bytes(store: Store, tmp_path: Path) -> None:
    """What was found, archived and corrected, altogether and lately, and the bytes that were written."""
    facts = read_overview(tmp_path, now=datetime.now(UTC))
    assert facts.n_movies == 4
    assert facts.jobs[("archive", "done")] == 2
    assert facts.jobs[("correct", "done")] == 1
    assert facts.jobs[("correct", "failed")] == 1
    assert facts.last_found == "d"
    assert (facts.last_hour.found, facts.last_hour.archived, facts.last_hour.corrected) == (4, 2, 1)
    assert facts.growth.bytes_per_movie["output"] == 300
    assert facts.growth.bytes_per_movie["archive"] == 70


def test_bytes_that_are_expected_of_the_first_movie(tmp_path: Path) -> None:
    """Six pictures of its size as it will be binned."""
    with Store(tmp_path).open() as store:
        for bin_factor, expected in ((1.0, 6 * 4 * 64), (2.0, 6 * 4 * 16)):
            store.add_movie(replace(movie(f"bin{bin_factor:g}"), processing={"bin_factor": bin_factor}))
            assert store.growth().bytes_per_movie["output"] == expected


def test_windows_end(store: Store, tmp_path: Path) -> None:
    """Half an hour later the last ten minutes are empty and the last hour is not; after two hours both are."""
    later = read_overview(tmp_path, now=datetime.now(UTC) + timedelta(minutes=30))
    assert (later.last_ten_minutes.found, later.last_hour.found) == (0, 4)
    assert read_overview(tmp_path, now=datetime.now(UTC) + timedelta(hours=2)).last_hour.corrected == 0


def test_held_jobs_without_those_that_wait_for_an_archive(store: Store, tmp_path: Path) -> None:
    """`d` lacks a parameter; `c` waits for its archive and needs nobody."""
    (group,) = read_overview(tmp_path, now=datetime.now(UTC)).held
    assert (group.kind, group.held_by, group.n_jobs) == ("correct", "parameters", 1)
    assert "pixel size" in group.reason


def test_workers_and_errors(store: Store, tmp_path: Path) -> None:
    """The worker with its activity; the errors, the newest first, also the one that is tried again."""
    facts = read_overview(tmp_path, now=datetime.now(UTC))
    (worker,) = facts.workers
    assert (worker.worker_id, worker.pid, worker.activity) == ("w", 42, "archive c")
    assert abs((datetime.now(UTC) - worker.beat_at).total_seconds()) < 60
    assert [(error.stem, error.kind, error.state, error.code) for error in facts.errors] == [
        ("c", "archive", "queued", "movie_truncated"),
        ("b", "correct", "failed", "movie_unreadable"),
    ]


def test_gpu_of_a_worker(store: Store, tmp_path: Path) -> None:
    """What the last beat said of it; nothing when that said nothing."""
    gpu = GpuState(
        name="NVIDIA H200",
        uuid="GPU-5a1c",
        memory_used_bytes=3,
        memory_total_bytes=7,
        utilisation=None,
        temperature_celsius=61,
    )
    assert store.beat("w", "idle", gpu)
    assert read_overview(tmp_path, now=datetime.now(UTC)).workers[0].gpu == gpu
    assert store.beat("w", "idle")
    assert read_overview(tmp_path, now=datetime.now(UTC)).workers[0].gpu is None


def test_warnings_of_the_last_hour_are_counted(store: Store, tmp_path: Path) -> None:
    """Movies with the same warning are one line with the newest of them; an hour later it is gone."""
    for name, warnings in (("e", ["no motion"]), ("f", ["no motion", "many outliers"]), ("g", [])):
        store.add_movie(movie(name))
        with store.write() as connection:
            connection.exec_driver_sql(
                "UPDATE jobs SET state = 'done', summary = ?, ended_at = ? WHERE kind = 'correct'"
                " AND movie_id = (SELECT movie_id FROM movies WHERE stem = ?)",
                (
                    json.dumps({"warnings": warnings}),
                    datetime.now(UTC).isoformat(timespec="milliseconds"),
                    name,
                ),
            )
    found = read_overview(tmp_path, now=datetime.now(UTC)).warnings
    assert {(group.text, group.n_movies, group.stem) for group in found} == {
        ("no motion", 2, "f"),
        ("many outliers", 1, "f"),
    }
    assert read_overview(tmp_path, now=datetime.now(UTC) + timedelta(hours=2)).warnings == ()


def test_pause_is_shown(store: Store, tmp_path: Path) -> None:
    """With its reason."""
    store.pause("disk nearly full", PausedBy.DISK)
    assert read_overview(tmp_path, now=datetime.now(UTC)).paused_by_disk == "disk nearly full"


def test_reading_changes_nothing_and_makes_nothing(store: Store, tmp_path: Path) -> None:
    """Writing through the connection is refused; without a database there is a clear error and still no file."""
    with pytest.raises(StoreError, match="readonly"), open_read_only(tmp_path) as connection:
        connection.execute("DELETE FROM movies")
    empty = tmp_path / "empty"
    with pytest.raises(StoreError, match="no komad database"):
        read_overview(empty, now=datetime.now(UTC))
    assert not empty.exists()


def test_a_user_who_may_only_read(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the daemon stopped there is no shared memory, and such a user cannot make it: the file alone is read."""
    connect = sqlite3.connect

    def without_permission(address: str, **options: Any) -> sqlite3.Connection:
        if "immutable" not in address:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", without_permission)
    with pytest.raises(StoreError, match="readonly"):  # the daemon writes: its log is part of the database
        read_overview(tmp_path, now=datetime.now(UTC))
    monkeypatch.undo()
    store.close()
    monkeypatch.setattr(sqlite3, "connect", without_permission)
    assert read_overview(tmp_path, now=datetime.now(UTC)).n_movies == 4


def test_a_foreign_database_is_an_error(tmp_path: Path) -> None:
    """A file without our tables is named."""
    connection = sqlite3.connect(tmp_path / "komad.sqlite")
    connection.execute("CREATE TABLE other (a)")
    connection.close()
    with pytest.raises(StoreError, match=r"komad\.sqlite: no such table"):
        read_overview(tmp_path, now=datetime.now(UTC))


def test_list_jobs_by_state_kind_and_code(store: Store, tmp_path: Path) -> None:
    """Newest first, filtered, limited."""
    assert [job.stem for job in list_jobs(tmp_path, kind="archive")] == ["d", "c", "b", "a"]
    assert [job.stem for job in list_jobs(tmp_path, state="failed")] == ["b"]
    assert list_jobs(tmp_path, state="failed", code="movie_truncated") == []
    assert len(list_jobs(tmp_path, limit=3)) == 3
    (done,) = list_jobs(tmp_path, state="done", kind="correct")
    assert done.seconds == 2.5


@pytest.mark.parametrize("text", ["b", "2", "/data/b.mrc", "ta/b"])
def test_find_movie_by_name_number_path_or_part(store: Store, tmp_path: Path, text: str) -> None:
    """One record with both jobs and their history."""
    record = find_movie(tmp_path, text)
    assert record.stem == "b"
    assert {job.kind: job.state for job in record.jobs} == {"archive": "done", "correct": "failed"}
    correct = next(job for job in record.jobs if job.kind == "correct")
    assert [event.state for event in record.history[correct.job_id]][-2:] == ["running", "failed"]
    assert record.header is not None
    assert record.header["n_frames"] == 4


def test_find_movie_that_is_unknown_or_ambiguous(store: Store, tmp_path: Path) -> None:
    """Each is said, the second with names."""
    with pytest.raises(ParameterError, match="no movie 'zzz'"):
        find_movie(tmp_path, "zzz")
    with pytest.raises(ParameterError, match=r"more than one movie \(a, b, c, d\)"):
        find_movie(tmp_path, "/data/")


def test_result_of_a_finished_movie(store: Store, tmp_path: Path) -> None:
    """The summary that the worker stored; none before."""
    assert find_movie(tmp_path, "a").result == {"output_bytes": 300}
    assert find_movie(tmp_path, "c").result is None
