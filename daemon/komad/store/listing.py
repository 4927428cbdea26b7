"""Jobs and movies as lists for people, read from the database without touching it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from komad.errors import ParameterError
from komad.store.overview import open_read_only, text_of


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLine:
    """One job with the name of its movie."""

    job_id: int
    movie_id: int
    stem: str
    path: str
    kind: str
    state: str
    attempt: int
    reason: str
    held_by: str
    """archive, parameters, koma, gain, disk, folder or person; '' when it is not held."""
    failed_on: str
    """The device on which it failed unexpectedly; '' for none."""
    error_code: str
    error_message: str
    ended_at: str | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change in the life of a job."""

    at: str
    event: str
    state: str
    attempt: int
    worker_id: str
    error_code: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieRecord:
    """A movie, its jobs, and what happened to them."""

    movie_id: int
    stem: str
    path: str
    size_bytes: int
    found_at: str
    header: dict[str, Any] | None
    """None when the file could not be read."""
    acquisition: dict[str, Any]
    references: dict[str, Any]
    missing: str
    """Which parameters have to be supplied; '' when none."""
    jobs: tuple[JobLine, ...]
    history: dict[int, tuple[Event, ...]]
    """By job."""
    result: dict[str, Any] | None
    """Summary of the correct job; None before it is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLine:
    """A movie's file as it was found, and how far its jobs are."""

    movie_id: int
    stem: str
    path: str
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    archive_state: str
    correct_state: str


_JOB_COLUMNS = (
    "job_id, movie_id, stem, path, kind, state, attempt, reason, held_by, failed_on, error_code, error_message,"
    " ended_at, seconds"
)
_JOBS = f"SELECT {_JOB_COLUMNS} FROM jobs JOIN movies USING (movie_id)"  # noqa: S608 - a constant


_SOURCES = (
    "SELECT movie_id, stem, path, size_bytes, mtime_ns, fingerprint, archive.state, correct.state FROM movies"
    " JOIN jobs AS archive USING (movie_id) JOIN jobs AS correct USING (movie_id)"
    " WHERE archive.kind = 'archive' AND correct.kind = 'correct'"
)


def list_jobs(
    state_directory: Path,
    *,
    state: str | None = None,
    kind: str | None = None,
    code: str | None = None,
    ended_since: datetime | None = None,
    limit: int | None = None,
) -> list[JobLine]:
    """Jobs in this state, of this kind, with this error code, ended since (with time zone); the newest first.

    Raises
    ------
    StoreError
        There is no database, or it cannot be read.
    """
    wanted = {"state": state, "kind": kind, "error_code": code}
    chosen = {column: value for column, value in wanted.items() if value is not None}
    conditions = [f"{column} = ?" for column in chosen]
    values: list[str | int] = list(chosen.values())
    if ended_since is not None:
        conditions.append("ended_at >= ?")
        values.append(text_of(ended_since))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    values.append(-1 if limit is None else limit)
    with open_read_only(state_directory) as connection:
        rows = connection.execute(f"{_JOBS}{where} ORDER BY job_id DESC LIMIT ?", values)
        return [_job(row) for row in rows]


def list_sources(state_directory: Path, *, same_as: SourceLine | None = None) -> list[SourceLine]:
    """Files of all movies, the oldest first; or of those that have the path or the content of one, itself among them.

    Raises
    ------
    StoreError
        There is no database, or it cannot be read.
    """
    wanted, values = "", {}
    if same_as is not None:
        wanted = (
            " AND (path = :path"
            " OR (fingerprint = :fingerprint AND size_bytes = :size_bytes AND mtime_ns = :mtime_ns))"
        )
        values = {name: getattr(same_as, name) for name in ("path", "fingerprint", "size_bytes", "mtime_ns")}
    with open_read_only(state_directory) as connection:
        rows = connection.execute(
            f"{_SOURCES}{wanted} ORDER BY movie_id",
            values,
        )
        return [SourceLine(**dict(zip(SourceLine.__dataclass_fields__, row, strict=True))) for row in rows]


def find_movie(state_directory: Path, text: str) -> MovieRecord:
    """The movie whose stem, number or path is `text`, or the only one whose path contains it.

    Raises
    ------
    ParameterError
        There is no such movie, or several (the message names some).
    StoreError
        There is no database.
    """
    with open_read_only(state_directory) as connection:
        rows = connection.execute(
            "SELECT movie_id, stem FROM movies WHERE stem = ? OR path = ? OR movie_id = CAST(? AS INTEGER)",
            (text, text, text if text.isdecimal() else "-1"),
        ).fetchall()
        if not rows:
            rows = connection.execute(
                "SELECT movie_id, stem FROM movies WHERE instr(path, ?) > 0 ORDER BY movie_id LIMIT 6",
                (text,),
            ).fetchall()
        by_stem = [row for row in rows if row[1] == text]
        if len(rows) > 1 and not by_stem:
            names = ", ".join(stem for _, stem in rows[:5])
            raise ParameterError(
                f"{text!r} fits more than one movie ({names}{', ...' if len(rows) > 5 else ''})"
            )
        if not rows:
            raise ParameterError(f"komad knows no movie {text!r}; `komad jobs` lists them")
        return _record(connection, (by_stem or rows)[0][0])


def _record(connection: sqlite3.Connection, movie_id: int) -> MovieRecord:
    movie = connection.execute(
        "SELECT stem, path, size_bytes, found_at, header, acquisition, reference_files, missing"
        " FROM movies WHERE movie_id = ?",
        (movie_id,),
    ).fetchone()
    stem, path, size_bytes, found_at, header, acquisition, references, missing = movie
    jobs = tuple(
        _job(row) for row in connection.execute(f"{_JOBS} WHERE movie_id = ? ORDER BY job_id", (movie_id,))
    )
    summary = connection.execute(
        "SELECT summary FROM jobs WHERE movie_id = ? AND kind = 'correct' AND state = 'done'", (movie_id,)
    ).fetchone()
    return MovieRecord(
        movie_id=movie_id,
        stem=stem,
        path=path,
        size_bytes=size_bytes,
        found_at=found_at,
        header=json.loads(header) if header else None,
        acquisition=json.loads(acquisition),
        references=json.loads(references),
        missing=missing,
        jobs=jobs,
        history={job.job_id: _history(connection, job.job_id) for job in jobs},
        result=json.loads(summary[0]) if summary and summary[0] else None,
    )


def _history(connection: sqlite3.Connection, job_id: int) -> tuple[Event, ...]:
    rows = connection.execute(
        "SELECT at, event, state, attempt, worker_id, error_code, detail FROM job_events"
        " WHERE job_id = ? ORDER BY event_id",
        (job_id,),
    )
    return tuple(
        Event(
            at=at, event=event, state=state, attempt=attempt, worker_id=worker, error_code=code, detail=detail
        )
        for at, event, state, attempt, worker, code, detail in rows
    )


def _job(row: tuple[Any, ...]) -> JobLine:
    return JobLine(**dict(zip(_JOB_COLUMNS.split(", "), row, strict=True)))
