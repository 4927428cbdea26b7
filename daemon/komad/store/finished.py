"""Movies whose outputs are complete, in the order of commit."""

from __future__ import annotations

from sqlalchemy import select

from komad.store.database import Database
from komad.store.rows import FinishedMovie
from komad.store.tables import jobs, movies


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
