"""Jobs: claimed, begun, finished, failed; held, released, retried and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Integer,
    Row,
    Text,
    bindparam,
    cast,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.dml import ReturningUpdate

from komad.errors import Failure, FolderLostError, KomadError, TransitionError, WorkerLostError
from komad.model import Job, JobEvent, JobKind, JobState, RetryDecision, Tries, after_failure
from komad.model.job import MAX_DELAY_S
from komad.store import changes, devices, stack_sums
from komad.store.database import Database
from komad.store.listing import Event
from komad.store.rows import HeldBy, PausedBy, StackSumRow, job_from, now
from komad.store.tables import IS_HELD, IS_QUEUED, IS_RUNNING, job_events, jobs, meta, movies, workers

PAUSE = "pause:"
"""And a `PausedBy`: key of `meta`."""
IS_PAUSED = select(meta.c.key).where(meta.c.key.in_([PAUSE + by for by in PausedBy])).exists()


def _claim_statement(*, newest: bool) -> ReturningUpdate[Any]:
    """Written once for either end of the queue: putting it together takes as long as running it."""
    moment: BindParameter[str] = bindparam("moment", type_=Text)
    is_due = or_(jobs.c.not_before <= moment, jobs.c.not_before > bindparam("latest"))
    mine = select(workers.c.device).where(workers.c.worker_id == bindparam("worker")).scalar_subquery()
    nobody_else = ~select(workers.c.device).where(workers.c.device != jobs.c.avoid).exists()
    is_mine = or_(jobs.c.avoid == "", jobs.c.avoid != func.coalesce(mine, ""), nobody_else)
    next_one = jobs.c.job_id.desc() if newest else jobs.c.job_id
    wanted = select(jobs.c.job_id).where(IS_QUEUED, is_due, is_mine).order_by(next_one).limit(1)
    claimed = {
        "state": JobState.RUNNING,
        "worker_id": bindparam("worker"),
        "claimed_at": moment,
        "begun_at": None,
        "not_before": "",
    }
    here = (jobs.c.job_id == wanted.scalar_subquery(), IS_QUEUED, ~IS_PAUSED)
    return update(jobs).where(*here).values(claimed).returning(jobs)


_CLAIM = {newest: _claim_statement(newest=newest) for newest in (False, True)}


class Jobs(Database):
    """What happens to jobs. A worker acts on a job it claimed; if it lost it meanwhile, WorkerLostError is raised."""

    def claim(self, worker_id: str, *, newest: bool = False) -> Job | None:
        """Take the oldest queued job, or the newest; None when there is none or claims are paused.

        A job that failed on the worker's device is left to another device, if there is a worker on one. A job that
        waits for longer than any delay was told to by a clock that has been set back since: it is due.
        """
        moment = now()
        values = {"worker": worker_id, "moment": moment, "latest": now(MAX_DELAY_S)}
        with self.write() as connection:
            row = connection.execute(_CLAIM[newest], values).one_or_none()
            if row is None:
                return None
            _record_claim(connection, row, moment)
            return job_from(row)

    def begin(self, job: Job) -> Job:
        """Count the attempt: from here on a crash of the worker is blamed on this job."""
        statement = (
            update(jobs)
            .where(jobs.c.job_id == job.job_id, jobs.c.begun_at.is_(None), *_held_by_worker(job))
            .values(attempt=jobs.c.attempt + 1, begun_at=now())
            .returning(jobs)
        )
        with self.write() as connection:
            row = connection.execute(statement).one_or_none()
            if row is None:
                raise _lost(job)
            return job_from(row)

    def finish(
        self,
        job: Job,
        summary: Mapping[str, Any],
        seconds: float,
        *,
        stack_sum: StackSumRow | None = None,
        go_on: bool = False,
        note: str = "",
    ) -> Job | None:
        """Mark a job done, its files being on disk; its history tells the `note`.

        An archive job takes its stack sum along and lets the movie's correct job go on; with `go_on` the same worker
        claims that in the same transaction, if it is free, was never tried and claims go on, and gets it back.
        """
        with self.write() as connection:
            row = _running(connection, job)
            values: dict[str, Any] = {"summary": dict(summary), "seconds": seconds}
            if job.kind is JobKind.CORRECT:
                values["sequence"] = _next_sequence(connection)
            changes.change(connection, row, JobEvent.FINISH, note=note, **(changes.NO_ERROR | values))
            devices.note_success(connection, job)
            if job.kind is JobKind.CORRECT:
                return None
            if stack_sum is not None:
                stack_sums.put(connection, job.movie_id, stack_sum)
            changes.settle_after_archive(connection, job.movie_id)
            return _claim_correct(connection, job) if go_on else None

    def fail(self, job: Job, error: KomadError, max_attempts: int) -> RetryDecision:
        """Apply what `after_failure` decides about a running job that ended in `error`, and return it."""
        with self.write() as connection:
            return apply_failure(connection, _running(connection, job), error, max_attempts)

    def give_back(self, job: Job) -> None:
        """Return a claimed job to the queue without blame: the worker stops."""
        with self.write() as connection:
            row = _running(connection, job)
            changes.change(connection, row, JobEvent.RETURN, attempt=_uncounted(row))
            settle_returned(connection, row)

    def hold(self, job_id: int, reason: str) -> None:
        """Hold a queued or held job until a person releases it."""
        with self.write() as connection:
            row = _not_running(connection, job_id, "hold")
            changes.change(connection, row, JobEvent.HOLD, reason=reason, held_by=HeldBy.PERSON)
            changes.settle_after_archive(connection, row.movie_id)

    def release(self, job_id: int) -> None:
        """Let a held job go on; a correct job then still waits for its archive, parameters, neighbours and gain."""
        with self.write() as connection:
            row = changes.job_row(connection, job_id)
            if row.kind == JobKind.ARCHIVE and not _is_described(connection, row.movie_id):
                raise TransitionError(
                    f"job {job_id} waits until its movie's header is read; retry it instead"
                )
            changes.change(connection, row, JobEvent.RELEASE)
            changes.settle_correct(connection, row.movie_id)

    def release_disk_held(self) -> int:
        """Let all jobs go on that a full disk stopped; gives their number."""
        held = select(jobs).where(IS_HELD, jobs.c.held_by == HeldBy.DISK)
        with self.read() as connection:
            if connection.execute(held.limit(1)).first() is None:
                return 0
        with self.write() as connection:
            rows = connection.execute(held).all()
            for row in rows:
                changes.change(connection, row, JobEvent.RELEASE)
                settle_returned(connection, row)
        return len(rows)

    def release_folder_held(self, is_back: Callable[[Path], bool]) -> int:
        """Let the jobs go on whose watched folder was lost and `is_back` (asked with their movie's path) again."""
        held = select(jobs, movies.c.path).join(movies).where(IS_HELD, jobs.c.held_by == HeldBy.FOLDER)
        with self.read() as connection:
            rows = connection.execute(held).all()
        back = {row.job_id for row in rows if is_back(Path(row.path))}  # may take long: in no transaction
        if not back:
            return 0
        with self.write() as connection:
            rows = [row for row in connection.execute(held).all() if row.job_id in back]
            for row in rows:
                changes.change(connection, row, JobEvent.RELEASE)
                settle_returned(connection, row)
        return len(rows)

    def retry(self, job_id: int) -> Job:
        """Queue a job that ended again, with all its attempts; gives the job as it then is.

        A correct job waits if its archive is not done. After an archive job the correct job is made again too,
        unless it was cancelled. A file that could not be described is described first.

        Raises
        ------
        TransitionError
            The job did not end, or the movie's correct job is running.
        """
        with self.write() as connection:
            row = changes.job_row(connection, job_id)
            correct = changes.rows_of_movie(connection, row.movie_id)[JobKind.CORRECT]
            if row.kind == JobKind.ARCHIVE and correct.state == JobState.RUNNING:
                raise TransitionError(
                    f"job {correct.job_id} of the same movie is running; try again when it is done"
                )
            changes.requeue(connection, row)
            if row.kind == JobKind.ARCHIVE and correct.state in {JobState.DONE, JobState.FAILED}:
                changes.requeue(connection, correct)
            if row.kind == JobKind.ARCHIVE and not _is_described(connection, row.movie_id):
                changes.change(
                    connection,
                    changes.job_row(connection, job_id),
                    JobEvent.HOLD,
                    reason="its header is read again",
                    held_by=HeldBy.ARCHIVE,
                )
            changes.settle_correct(connection, row.movie_id)
            return job_from(changes.job_row(connection, job_id))

    def cancel(self, job_id: int) -> None:
        """Take a held or queued job out; `retry` brings it back."""
        with self.write() as connection:
            row = changes.job_row(connection, job_id)
            changes.change(connection, row, JobEvent.CANCEL)
            changes.settle_after_archive(connection, row.movie_id)

    def job(self, job_id: int) -> Job:
        """Return the job."""
        with self.read() as connection:
            return job_from(changes.job_row(connection, job_id))

    def jobs_of(self, movie_id: int) -> dict[JobKind, Job]:
        """Return the movie's jobs by kind."""
        with self.read() as connection:
            return {kind: job_from(row) for kind, row in changes.rows_of_movie(connection, movie_id).items()}

    def history(self, job_id: int) -> list[Event]:
        """Every change of a job, oldest first."""
        columns = [job_events.c[name] for name in Event.__dataclass_fields__]
        statement = select(*columns).where(job_events.c.job_id == job_id).order_by(job_events.c.event_id)
        with self.read() as connection:
            return [Event(**row) for row in connection.execute(statement).mappings()]

    def pause(self, reason: str, by: PausedBy) -> None:
        """Let no job be claimed until `resume` by the same; jobs that run go on."""
        statement = upsert(meta).values(key=PAUSE + by, value=reason)
        with self.write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["key"], set_={"value": reason})
            )

    def resume(self, by: PausedBy) -> bool:
        """Let jobs be claimed again, unless somebody else paused too; tells whether there was a pause to end."""
        with self.write() as connection:
            return connection.execute(delete(meta).where(meta.c.key == PAUSE + by)).rowcount > 0

    def paused(self, by: PausedBy) -> str:
        """Why no job is claimed; '' when `by` has not paused."""
        with self.read() as connection:
            return connection.execute(select(meta.c.value).where(meta.c.key == PAUSE + by)).scalar() or ""


def apply_failure(
    connection: Connection,
    row: Row[Any],
    error: KomadError,
    max_attempts: int,
    *,
    suspect: bool = False,
    accuse: bool = True,
) -> RetryDecision:
    """Change a running job by what `after_failure` says, and its device by what that means for it.

    `suspect` marks a job whose worker was lost; `accuse` False leaves the device out of it.
    """
    device = devices.device_of(connection, row.worker_id)
    tries = Tries(attempt=max(row.attempt, 1), device=device, failed_on=row.failed_on, was_spared=row.spared)
    decision = after_failure(error, tries, max_attempts=max_attempts)
    values: dict[str, Any] = {"suspect": row.suspect or suspect}
    held_by = None
    if not decision.counts:
        values["attempt"] = _uncounted(row)
    if decision.event is JobEvent.HOLD:
        held_by = HeldBy.FOLDER if isinstance(error, FolderLostError) else HeldBy.DISK
    if decision.event is JobEvent.RETURN:
        values |= {"not_before": now(decision.delay_s), "spared": row.spared or not decision.counts}
        if error.failure is not Failure.INTERRUPTED:
            values["avoid"] = device
    if error.failure in {Failure.DEVICE, Failure.UNEXPECTED}:
        values["failed_on"] = device
    told = type(error)(f"{error} {decision.reason}") if decision.to_blame else error
    reason = decision.reason if decision.event is JobEvent.HOLD else ""
    changes.change(connection, row, decision.event, reason=reason, held_by=held_by, error=told, **values)
    if row.kind == JobKind.ARCHIVE:
        changes.settle_after_archive(connection, row.movie_id)
    settle_returned(connection, row)
    if accuse and device:
        decision = replace(decision, device_reason=_judge_device(connection, device, row, error, decision))
    return decision


def _judge_device(
    connection: Connection, device: str, row: Row[Any], error: KomadError, decision: RetryDecision
) -> str:
    """Set the device aside when it is at fault; gives why, '' when it goes on."""
    if decision.to_blame or error.failure is Failure.MOVIE:
        devices.forget_job(connection, row.job_id)
    elif error.failure is Failure.UNEXPECTED:
        return devices.note_fault(connection, device, row)
    if error.failure is Failure.DEVICE:
        devices.set_aside(connection, device, str(error))
        return str(error)
    return ""


def settle_returned(connection: Connection, row: Row[Any]) -> None:
    """Let a correct job that is queued again wait for what came up meanwhile: its gain may have been found wrong."""
    if row.kind == JobKind.CORRECT:
        changes.settle_correct(connection, row.movie_id)


def _record_claim(connection: Connection, row: Row[Any], moment: str) -> None:
    changes.record(
        connection,
        job_id=row.job_id,
        at=moment,
        event=JobEvent.CLAIM,
        state=JobState.RUNNING,
        attempt=row.attempt,
        worker_id=row.worker_id,
    )


def _claim_correct(connection: Connection, archive: Job) -> Job | None:
    row = changes.rows_of_movie(connection, archive.movie_id)[JobKind.CORRECT]
    if row.state != JobState.QUEUED or job_from(row).alone or connection.execute(select(IS_PAUSED)).scalar():
        return None
    changes.change(
        connection,
        row,
        JobEvent.CLAIM,
        worker_id=archive.worker_id,
        claimed_at=now(),
        begun_at=None,
        not_before="",
    )
    return job_from(changes.job_row(connection, row.job_id))


def _next_sequence(connection: Connection) -> int:
    statement = upsert(meta).values(key="last_sequence", value="1")
    counted = statement.on_conflict_do_update(
        index_elements=["key"], set_={"value": cast(cast(meta.c.value, Integer) + 1, Text)}
    )
    return int(connection.execute(counted.returning(meta.c.value)).scalar_one())


def _is_described(connection: Connection, movie_id: int) -> bool:
    header = select(movies.c.header).where(movies.c.movie_id == movie_id)
    return connection.execute(header).scalar_one() is not None


def _held_by_worker(job: Job) -> tuple[Any, Any]:
    return IS_RUNNING, jobs.c.worker_id == job.worker_id


def _running(connection: Connection, job: Job) -> Row[Any]:
    statement = select(jobs).where(jobs.c.job_id == job.job_id, *_held_by_worker(job))
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise _lost(job)
    return row


def _not_running(connection: Connection, job_id: int, verb: str) -> Row[Any]:
    row = changes.job_row(connection, job_id)
    if row.state == JobState.RUNNING:
        raise TransitionError(f"job {job_id} is running; a person cannot {verb} it now")
    return row


def _lost(job: Job) -> WorkerLostError:
    return WorkerLostError(
        f"job {job.job_id} was taken away from worker {job.worker_id}: it had stopped beating"
    )


def _uncounted(row: Row[Any]) -> int:
    """Leave out the attempt now running, if it was begun."""
    attempt: int = row.attempt
    return attempt - 1 if row.begun_at is not None else attempt
