"""The one place where a job changes its state, and the rule of what a correct job waits for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, insert, select, update

from komad.config import Koma
from komad.errors import KomadError, TransitionError
from komad.model import JobEvent, JobKind, JobState, next_state
from komad.store import gain_checks, windows
from komad.store.rows import HeldBy, now
from komad.store.tables import IS_HELD, IS_QUEUED, job_events, jobs, movies

WAITING_FOR_ARCHIVE = "waiting for the archive"

NO_ERROR: dict[str, Any] = {
    "error_code": "",
    "error_message": "",
    "not_before": "",
    "suspect": False,
    "avoid": "",
    "failed_on": "",
    "spared": False,
}
"""Columns of a job that starts afresh."""

SETTLED = frozenset({HeldBy.ARCHIVE, HeldBy.PARAMETERS, HeldBy.KOMA, HeldBy.GAIN})
"""What holds a correct job that goes on by itself when it is settled."""

ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


# Written once: putting them together takes as long as running them.
_OF_MOVIE = select(jobs).where(jobs.c.movie_id == bindparam("movie_id"))
_NEEDED = select(movies.c.missing, movies.c.series, movies.c.koma).where(
    movies.c.movie_id == bindparam("movie_id")
)

_RECORD = insert(job_events)


def job_row(connection: Connection, job_id: int) -> Row[Any]:
    """Return the job's row.

    Raises
    ------
    TransitionError
        There is no such job.
    """
    row = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).one_or_none()
    if row is None:
        raise TransitionError(f"there is no job {job_id}; `komad jobs` lists them")
    return row


def rows_of_movie(connection: Connection, movie_id: int) -> dict[JobKind, Row[Any]]:
    """Return the rows of a movie's jobs by kind."""
    rows = connection.execute(_OF_MOVIE, {"movie_id": movie_id})
    return {JobKind(row.kind): row for row in rows}


def change(
    connection: Connection,
    row: Row[Any],
    event: JobEvent,
    *,
    reason: str = "",
    held_by: HeldBy | None = None,
    error: KomadError | None = None,
    note: str = "",
    **values: Any,
) -> JobState:
    """Apply `event` to the job of `row`, if it is still in that row's state, and write it into the history.

    The history tells the error, else the reason why it is held, else the note.

    Raises
    ------
    TransitionError
        The state does not allow the event, or the job was changed meanwhile.
    """
    state = next_state(JobState(row.state), event)
    moment = now()
    columns: dict[str, Any] = {"state": state, "reason": reason, "held_by": held_by or ""}
    columns["ended_at"] = moment if state in ENDED else None
    if error is not None:
        columns |= {"error_code": error.code, "error_message": str(error)}
    columns |= values
    result = connection.execute(
        update(jobs).where(jobs.c.job_id == row.job_id, jobs.c.state == row.state).values(columns)
    )
    if result.rowcount != 1:
        raise TransitionError(f"job {row.job_id} is not {row.state} any more")
    record(
        connection,
        job_id=row.job_id,
        at=moment,
        event=event,
        state=state,
        attempt=columns.get("attempt", row.attempt),
        worker_id=columns.get("worker_id", row.worker_id),
        error_code=error.code if error is not None else "",
        detail=str(error) if error is not None else reason or note,
    )
    return state


def requeue(connection: Connection, row: Row[Any]) -> None:
    """Queue a job that ended, as if it were new."""
    change(connection, row, JobEvent.REQUEUE, attempt=0, sequence=None, **NO_ERROR)


def record(connection: Connection, **values: Any) -> None:
    """Append to the history."""
    connection.execute(_RECORD, values)


def settle_correct(connection: Connection, movie_id: int) -> bool:
    """Hold or release a movie's waiting correct job by what is known now; tells whether it was released."""
    rows = rows_of_movie(connection, movie_id)
    correct = rows[JobKind.CORRECT]
    if correct.state == JobState.HELD and correct.held_by not in SETTLED:
        return False
    if correct.state not in {JobState.HELD, JobState.QUEUED}:
        return False
    held_by, reason = _why_held(connection, rows[JobKind.ARCHIVE])
    if reason == correct.reason:
        return False
    if reason:
        change(connection, correct, JobEvent.HOLD, reason=reason, held_by=held_by)
    else:
        change(connection, correct, JobEvent.RELEASE)
    return not reason


def settle_after_archive(connection: Connection, movie_id: int) -> None:
    """Settle a movie whose archive job ended or is held, and the movies of its series that wait for it.

    Those are released in their order, up to the first one that has to wait for something else as well: those behind it
    nearly always do so, too. If not, they are found when all are settled a moment later (`settle_waiting`).
    """
    settle_correct(connection, movie_id)
    series = connection.execute(select(movies.c.series).where(movies.c.movie_id == movie_id)).scalar_one()
    waiting = _waiting(HeldBy.KOMA).where(movies.c.series == series)
    for other in connection.execute(waiting).scalars().all():
        if not settle_correct(connection, other):
            break


def settle_waiting(connection: Connection, held_by: HeldBy) -> int:
    """Settle all correct jobs that wait for something; gives how many go on."""
    return sum(
        settle_correct(connection, movie_id)
        for movie_id in connection.execute(_waiting(held_by)).scalars().all()
    )


def _waiting(held_by: HeldBy) -> Select[Any]:
    """Movies that wait for something, in their order."""
    waiting = select(jobs.c.movie_id).join(movies).where(IS_HELD, jobs.c.held_by == held_by)
    return waiting.order_by(jobs.c.movie_id)


def settle_queued(connection: Connection, series: str) -> None:
    """Look again at the correct jobs of a series that could be claimed."""
    queued = (
        select(jobs.c.movie_id)
        .join(movies)
        .where(IS_QUEUED, jobs.c.kind == JobKind.CORRECT, movies.c.series == series)
    )
    for movie_id in connection.execute(queued).scalars().all():
        settle_correct(connection, movie_id)


def _why_held(connection: Connection, archive: Row[Any]) -> tuple[HeldBy | None, str]:
    """Say what holds a correct job back and the reason to show; (None, '') when nothing does."""
    missing, series, koma = connection.execute(_NEEDED, {"movie_id": archive.movie_id}).one()
    reasons = {
        JobState.FAILED: f"its archive failed: {archive.error_message}",
        JobState.CANCELLED: "its archive was cancelled",
    }
    if reason := reasons.get(JobState(archive.state)):
        return HeldBy.ARCHIVE, reason
    if missing:
        return HeldBy.PARAMETERS, missing
    if archive.state != JobState.DONE:
        return HeldBy.ARCHIVE, WAITING_FOR_ARCHIVE
    if reason := gain_checks.why_held(connection, series):
        return HeldBy.GAIN, reason
    if reason := windows.why_held(connection, archive, series, Koma.model_validate(koma)):
        return HeldBy.KOMA, reason
    return None, ""
