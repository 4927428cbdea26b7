"""Devices on which something went wrong: what failed there, and which are set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.model import Job, JobEvent, JobKind, JobState, is_bad_device
from komad.store import changes
from komad.store.database import Database
from komad.store.rows import now
from komad.store.tables import devices, jobs, workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A job that failed unexpectedly on a device."""

    job_id: int
    movie_id: int
    kind: str
    n: int
    """So often."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRow:
    """A device that is set aside."""

    device: str
    n_bad: int
    """How often, since a movie was last corrected there."""
    reason: str
    since: str
    try_at: str
    """When it is tried again; '' when that is not settled yet."""


class Devices(Database):
    """What the supervisor asks and settles."""

    def bad_devices(self) -> dict[str, DeviceRow]:
        """Devices that are set aside, by name."""
        columns = [devices.c[name] for name in DeviceRow.__dataclass_fields__]
        with self.read() as connection:
            rows = connection.execute(select(*columns).where(devices.c.reason != ""))
            return {row["device"]: DeviceRow(**row) for row in rows.mappings()}

    def set_aside(self, device: str, reason: str) -> None:
        """Mark a device as bad."""
        with self.write() as connection:
            set_aside(connection, device, reason)

    def announce_trial(self, device: str, delay_s: float) -> None:
        """Tell people when a device that is set aside will be tried again."""
        with self.write() as connection:
            tried = update(devices).where(devices.c.device == device).values(try_at=now(delay_s))
            connection.execute(tried)

    def put_back(self, device: str) -> None:
        """A device works again; how often it was set aside is remembered until a movie is corrected there."""
        with self.write() as connection:
            well = {"reason": "", "since": "", "try_at": ""}
            connection.execute(update(devices).where(devices.c.device == device).values(well))

    def forget_devices(self) -> None:
        """Begin anew with all devices."""
        with self.write() as connection:
            connection.execute(delete(devices))


def device_of(connection: Connection, worker_id: str) -> str:
    """Device of a registered worker; '' when nobody knows."""
    statement = select(workers.c.device).where(workers.c.worker_id == worker_id)
    return connection.execute(statement).scalar() or ""


def set_aside(connection: Connection, device: str, reason: str) -> None:
    """Mark a device as bad, and begin anew with what failed there."""
    bad = {"reason": reason, "since": now(), "try_at": "", "faults": []}
    statement = upsert(devices).values(device=device, n_bad=1, **bad)
    again = {"n_bad": devices.c.n_bad + 1, **bad}
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=again))


def note_fault(connection: Connection, device: str, job: Row[Any]) -> str:
    """Remember that a job failed there unexpectedly; gives why the device is bad now, '' when it is not.

    The movies that failed there are given their tries back then, each of them once.
    """
    faults = {fault.job_id: fault for fault in _faults(connection, device)}
    before = faults.get(job.job_id, Fault(job_id=job.job_id, movie_id=job.movie_id, kind=str(job.kind), n=0))
    faults[job.job_id] = replace(before, n=before.n + 1)
    if not is_bad_device(fault.movie_id for fault in faults.values()):
        _put_faults(connection, device, list(faults.values()))
        return ""
    for fault in faults.values():
        _give_tries_back(connection, device, fault)
    n_movies = len({fault.movie_id for fault in faults.values()})
    reason = f"{n_movies} movies failed on {device} unexpectedly, one after the other"
    set_aside(connection, device, reason)
    return reason


def note_success(connection: Connection, job: Job) -> None:
    """Remember that a worker did a job: its device can do jobs of this kind."""
    wanted = select(devices.c.device, devices.c.faults, devices.c.reason).join(
        workers, workers.c.device == devices.c.device
    )
    row = connection.execute(wanted.where(workers.c.worker_id == job.worker_id)).one_or_none()
    if row is None:
        return
    if job.kind is JobKind.CORRECT and not row.reason:
        connection.execute(delete(devices).where(devices.c.device == row.device))
    elif any(fault["kind"] == job.kind for fault in row.faults):
        others = [Fault(**fault) for fault in row.faults if fault["kind"] != job.kind]
        _put_faults(connection, row.device, others)


def forget_job(connection: Connection, job_id: int) -> None:
    """No device is to blame for what happened to a job."""
    for device, faults in connection.execute(select(devices.c.device, devices.c.faults)).all():
        others = [Fault(**fault) for fault in faults if fault["job_id"] != job_id]
        if len(others) < len(faults):
            _put_faults(connection, device, others)


def _faults(connection: Connection, device: str) -> list[Fault]:
    values = connection.execute(select(devices.c.faults).where(devices.c.device == device)).scalar()
    return [Fault(**fault) for fault in values or ()]


def _put_faults(connection: Connection, device: str, faults: Sequence[Fault]) -> None:
    values = [asdict(fault) for fault in faults]
    statement = upsert(devices).values(device=device, faults=values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_={"faults": values}))


def _give_tries_back(connection: Connection, device: str, fault: Fault) -> None:
    """Do not count the tries of a job on a bad device, unless that was done before or a person queued it anew."""
    row = changes.job_row(connection, fault.job_id)
    waits = row.state in {JobState.QUEUED, JobState.HELD}
    if row.spared or row.failed_on != device or not (waits or row.state == JobState.FAILED):
        return
    values = {"attempt": max(0, row.attempt - fault.n), "spared": True, "not_before": ""}
    if waits:
        connection.execute(update(jobs).where(jobs.c.job_id == row.job_id).values(values))
        return
    changes.change(connection, row, JobEvent.REQUEUE, **values)
    changes.settle_after_archive(connection, row.movie_id)
