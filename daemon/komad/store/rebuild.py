"""A new database filled with what files tell: movies with their jobs as they ended, and hardly any history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from komad.model import JobEvent, JobKind, JobState, KomaWindow, Movie
from komad.store import changes, optics_groups
from komad.store.database import Database
from komad.store.finished import raise_sequence
from komad.store.optics_groups import Taken
from komad.store.rows import HeldBy, StackSumRow, movie_values, window_values
from komad.store.stack_sums import put
from komad.store.tables import jobs, koma_windows, movies

DONE = ((JobEvent.CLAIM, JobState.RUNNING), (JobEvent.FINISH, JobState.DONE))
"""History of a job that is done, in short."""
DETAIL = "as its files tell: the database was made anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownMovie:
    """A movie that has an archive, or is corrected, or both."""

    movie: Movie
    """With its number and stem."""
    missing: str
    """Which parameters have to be supplied before it can be corrected; '' when none have."""
    archive: Mapping[str, Any]
    """Summary of the archive job."""
    archived_at: str
    result: Mapping[str, Any] | None = None
    """Summary of the correct job; None when that is still to be done."""
    sequence: int | None = None
    """Of a movie that is corrected."""
    window: KomaWindow | None = None
    stack_sum: StackSumRow | None = None
    optics: tuple[int, Taken] | None = None
    """Number of the optics group that was found from its beam shift, and from what."""


class Refill(Database):
    """A database that is new and empty."""

    def fill(self, known: Sequence[KnownMovie], *, last_sequence: int) -> None:
        """Enter the movies, all or none; the next one to be corrected gets a number above `last_sequence`."""
        with self.write() as connection:
            for each in known:
                _enter(connection, each)
            raise_sequence(connection, last_sequence)
            for each in known:
                changes.settle_correct(connection, each.movie.movie_id)


def _enter(connection: Connection, known: KnownMovie) -> None:
    movie = known.movie
    own = {"movie_id": movie.movie_id, "stem": movie.stem, "missing": known.missing}
    connection.execute(insert(movies).values(movie_values(movie) | own))
    archive = {
        "kind": JobKind.ARCHIVE,
        "state": JobState.DONE,
        "summary": dict(known.archive),
        "ended_at": known.archived_at,
    }
    if known.result is None:
        correct: dict[str, Any] = {
            "state": JobState.HELD,
            "held_by": HeldBy.ARCHIVE,
            "reason": changes.WAITING_FOR_ARCHIVE,
        }
    else:
        correct = {
            "state": JobState.DONE,
            "summary": dict(known.result),
            "ended_at": known.result["written_at"],
            "sequence": known.sequence,
            "seconds": round(sum(known.result["timings_s"].values()), 3),
        }
    both = {"movie_id": movie.movie_id, "created_at": movie.found_at}
    _enter_job(connection, archive | both)
    _enter_job(connection, correct | both | {"kind": JobKind.CORRECT})
    if known.window is not None:
        connection.execute(
            insert(koma_windows).values(movie_id=movie.movie_id, window=window_values(known.window))
        )
    if known.optics is not None:
        number, taken = known.optics
        optics_groups.readmit(connection, movie.movie_id, number, taken)
    if known.stack_sum is not None:
        put(connection, movie.movie_id, known.stack_sum)


def _enter_job(connection: Connection, values: Mapping[str, Any]) -> None:
    """Enter a job; one that is done was claimed and finished once, and nobody knows more of it."""
    is_done = values["state"] == JobState.DONE
    job_id = connection.execute(
        insert(jobs).values({**values, "attempt": int(is_done)}).returning(jobs.c.job_id)
    ).scalar_one()
    for event, state in DONE if is_done else ():
        changes.record(
            connection,
            job_id=job_id,
            at=values["ended_at"],
            event=event,
            state=state,
            attempt=1,
            detail=DETAIL,
        )
