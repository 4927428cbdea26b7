"""Stack sums: which movies have one, where it lies; only the newest are kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.store.database import Database
from komad.store.rows import StackSumRow
from komad.store.tables import stack_sums


class StackSums(Database):
    """Rows about the files in `stack_sum_directory`."""

    @property
    def stack_sum_directory(self) -> Path:
        """Where the files lie."""
        return self.state_directory / "stack_sums"

    def stack_sum(self, movie_id: int) -> StackSumRow | None:
        """Return what is known of the movie's stack sum; None when it was never made or is not kept any more."""
        columns = [stack_sums.c[name] for name in StackSumRow.__dataclass_fields__]
        with self.read() as connection:
            row = (
                connection.execute(select(*columns).where(stack_sums.c.movie_id == movie_id))
                .mappings()
                .one_or_none()
            )
        return None if row is None else StackSumRow(**row)

    def drop_stack_sums(self, *, keep: int) -> list[str]:
        """Forget all but the `keep` newest; gives the names of the files that nobody needs any more."""
        newest = select(stack_sums.c.movie_id).order_by(stack_sums.c.movie_id.desc()).limit(keep)
        statement = (
            delete(stack_sums).where(stack_sums.c.movie_id.not_in(newest)).returning(stack_sums.c.file)
        )
        with self.write() as connection:
            return list(connection.execute(statement).scalars())


def put(connection: Connection, movie_id: int, row: StackSumRow) -> None:
    """Insert or replace a movie's row."""
    values = asdict(row)
    statement = upsert(stack_sums).values(movie_id=movie_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["movie_id"], set_=values))
