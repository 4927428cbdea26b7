"""Worker processes: who lives, what it does, and what becomes of the jobs of one that is lost."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import delete, insert, select, update

from komad.errors import Failure, KomadError
from komad.model import Job, JobEvent
from komad.store import changes
from komad.store.database import Database
from komad.store.jobs import apply_failure, settle_returned
from komad.store.overview import GpuState
from komad.store.rows import WorkerRow, job_from, now
from komad.store.tables import IS_RUNNING, jobs, workers


class Workers(Database):
    """Leases: a worker has its jobs for as long as its row is there and its beat grows."""

    def register_worker(self, worker_id: str, *, boot_id: str, pid: int, device: str) -> None:
        """Enter a new worker; a worker id is never used twice."""
        moment = now()
        with self.write() as connection:
            connection.execute(
                insert(workers).values(
                    worker_id=worker_id,
                    boot_id=boot_id,
                    pid=pid,
                    device=device,
                    activity="starting",
                    started_at=moment,
                    beat_at=moment,
                )
            )

    def beat(
        self, worker_id: str, activity: str, gpu: GpuState | None = None, *, patience_s: float | None = None
    ) -> bool:
        """Show a sign of life, and how the GPU is doing; False when the worker was declared lost: it has to exit.

        Raises
        ------
        BusyError
            The database was locked for longer than `patience_s`.
        """
        values = {
            "beat": workers.c.beat + 1,
            "activity": activity,
            "beat_at": now(),
            "gpu": None if gpu is None else asdict(gpu),
        }
        with self.write(patience_s=patience_s) as connection:
            result = connection.execute(
                update(workers).where(workers.c.worker_id == worker_id).values(values)
            )
            return result.rowcount == 1

    def workers(self) -> list[WorkerRow]:
        """All workers, by the time they started."""
        with self.read() as connection:
            rows = connection.execute(select(workers).order_by(workers.c.started_at, workers.c.worker_id))
            return [WorkerRow(**row) for row in rows.mappings()]

    def leases(self) -> set[str]:
        """Workers that are registered or hold a job."""
        with self.read() as connection:
            registered = connection.execute(select(workers.c.worker_id)).scalars().all()
            holding = connection.execute(select(jobs.c.worker_id).where(IS_RUNNING)).scalars().all()
        return {*registered, *holding}

    def return_jobs(self, worker_id: str, error: KomadError, max_attempts: int) -> list[Job]:
        """Take a lost worker's jobs away from it and remove it; gives the jobs as they then are.

        A job that was begun has used an attempt. One that was only read ahead has not, but it is marked: from now on
        it is processed alone, and then its reading counts too, so that a movie that kills its reader ends as well. One
        loss counts once against the device, however many jobs were begun. When komad itself ended, nothing is marked.
        """
        suspect = error.failure is Failure.UNEXPECTED
        with self.write() as connection:
            held = select(jobs).where(IS_RUNNING, jobs.c.worker_id == worker_id)
            rows = connection.execute(held.order_by(jobs.c.begun_at.desc(), jobs.c.job_id)).all()
            for number, row in enumerate(rows):
                if row.begun_at is None:
                    marked = row.suspect or suspect
                    changes.change(connection, row, JobEvent.RETURN, error=error, suspect=marked)
                    settle_returned(connection, row)
                else:
                    is_last_begun = number == 0
                    apply_failure(connection, row, error, max_attempts, suspect=suspect, accuse=is_last_begun)
            connection.execute(delete(workers).where(workers.c.worker_id == worker_id))
            returned = [job_from(changes.job_row(connection, row.job_id)) for row in rows]
        return sorted(returned, key=lambda job: job.job_id)

    def remove_worker(self, worker_id: str, *, patience_s: float | None = None) -> None:
        """Remove a worker that ends as it should; it holds no job any more."""
        with self.write(patience_s=patience_s) as connection:
            connection.execute(delete(workers).where(workers.c.worker_id == worker_id))
