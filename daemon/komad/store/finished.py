"""Movies whose outputs are complete, in the order of commit."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.model import JobKind, JobState
from komad.store.database import Database
from komad.store.rows import FinishedMovie
from komad.store.tables import jobs, meta, movies


class Finished(Database):
    """What the publisher reads."""

    def finished_since(self, sequence: int, *, limit: int = 1000) -> list[FinishedMovie]:
        """Movies finished after number `sequence`, the first `limit` of them, in the order of their numbers.

        Numbers grow and are never given twice; a movie that is made again gets a new one.
        """
        statement = (
            select(jobs.c.sequence, jobs.c.movie_id, movies.c.stem, jobs.c.summary)
            .join(movies)
            .where(jobs.c.sequence > sequence)
            .order_by(jobs.c.sequence)
            .limit(limit)
        )
        with self.read() as connection:
            return [FinishedMovie(**row) for row in connection.execute(statement).mappings()]

    def has_more_to_do(self) -> bool:
        """Whether a job is left that may still come to its end, other than one whose movie could not be archived."""
        given_up = select(jobs.c.movie_id).where(
            jobs.c.kind == JobKind.ARCHIVE, jobs.c.state.in_([JobState.FAILED, JobState.CANCELLED])
        )
        open_states = [JobState.HELD, JobState.QUEUED, JobState.RUNNING]
        statement = select(jobs.c.job_id).where(
            jobs.c.state.in_(open_states),
            (jobs.c.kind == JobKind.ARCHIVE) | jobs.c.movie_id.not_in(given_up),
        )
        with self.read() as connection:
            return connection.execute(statement.limit(1)).first() is not None

    def last_sequence(self, at_least: int) -> int:
        """The last number that was given; a database without movies goes on after `at_least`."""
        with self.write() as connection:
            if connection.execute(select(movies.c.movie_id).limit(1)).first() is None:
                raise_sequence(connection, at_least)
            value = connection.execute(select(meta.c.value).where(meta.c.key == "last_sequence")).scalar()
            return int(value or 0)


def raise_sequence(connection: Connection, sequence: int) -> None:
    """Let numbers of finished movies go on after this one."""
    value = {"value": str(sequence)}
    statement = upsert(meta).values(key="last_sequence", **value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=value))
