"""The one place where a job changes its state, and the rule that ties a correct job to its archive."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from komad.errors import KomadError, TransitionError
from komad.model import JobEvent, JobKind, JobState, next_state
from komad.store.rows import HeldBy, now
from komad.store.tables import job_events, jobs, movies

WAITING_FOR_ARCHIVE = "waiting for the archive"

NO_ERROR: dict[str, Any] = {"error_code": "", "error_message": "", "not_before": "", "suspect": False}
"""Columns of a job that starts afresh."""

ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


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
    rows = connection.execute(select(jobs).where(jobs.c.movie_id == movie_id))
    return {JobKind(row.kind): row for row in rows}


def change(
    connection: Connection,
    row: Row[Any],
    event: JobEvent,
    *,
    reason: str = "",
    held_by: HeldBy | None = None,
    error: KomadError | None = None,
    **values: Any,
) -> JobState:
    """Apply `event` to the job of `row`, if it is still in that row's state, and write it into the history.

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
        detail=str(error) if error is not None else reason,
    )
    return state


def record(connection: Connection, **values: Any) -> None:
    """Append to the history."""
    connection.execute(insert(job_events).values(values))


def settle_correct(connection: Connection, movie_id: int) -> None:
    """Hold or release a movie's waiting correct job by what its archive and its parameters are now."""
    rows = rows_of_movie(connection, movie_id)
    correct = rows[JobKind.CORRECT]
    if correct.state == JobState.HELD and correct.held_by not in {HeldBy.ARCHIVE, HeldBy.PARAMETERS}:
        return
    if correct.state not in {JobState.HELD, JobState.QUEUED}:
        return
    missing = connection.execute(select(movies.c.missing).where(movies.c.movie_id == movie_id)).scalar_one()
    held_by, reason = why_held(rows[JobKind.ARCHIVE], missing)
    if reason == correct.reason:
        return
    if reason:
        change(connection, correct, JobEvent.HOLD, reason=reason, held_by=held_by)
    else:
        change(connection, correct, JobEvent.RELEASE)


def why_held(archive: Row[Any], missing: str) -> tuple[HeldBy | None, str]:
    """Say what holds a correct job back and the reason to show; (None, '') when nothing does."""
    if archive.state == JobState.FAILED:
        return HeldBy.ARCHIVE, f"its archive failed: {archive.error_message}"
    if archive.state == JobState.CANCELLED:
        return HeldBy.ARCHIVE, "its archive was cancelled"
    if missing:
        return HeldBy.PARAMETERS, missing
    if archive.state != JobState.DONE:
        return HeldBy.ARCHIVE, WAITING_FOR_ARCHIVE
    return None, ""
