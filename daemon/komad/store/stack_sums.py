"""Stack sums: a row for each movie that ever had one, a file for as long as a window may need it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.model import JobKind, StackFacts
from komad.store.changes import ENDED
from komad.store.database import Database
from komad.store.rows import StackSumRow
from komad.store.tables import jobs, movies, stack_sums

N_SERIES = 4
"""Files are kept for about so many series at a time: of several cameras, or of movies that wait."""


class StackSums(Database):
    """Rows about the files in `stack_sum_directory`."""

    @property
    def stack_sum_directory(self) -> Path:
        """Where the files lie."""
        return self.state_directory / "stack_sums"

    def stack_sum(self, movie_id: int) -> StackSumRow | None:
        """Return what is known of the movie's stack sum; None when it was never made."""
        columns = [stack_sums.c[name] for name in StackSumRow.__dataclass_fields__]
        with self.read() as connection:
            row = (
                connection.execute(select(*columns).where(stack_sums.c.movie_id == movie_id))
                .mappings()
                .one_or_none()
            )
        if row is None:
            return None
        facts = row["facts"]
        return StackSumRow(**{**row, "facts": None if facts is None else StackFacts(**facts)})

    def drop_stack_sums(self, *, reach: int) -> list[str]:
        """Forget the files that no window needs any more; gives their names.

        A file is kept while it is among the newest `reach` of its series, or a movie within `reach` of it is still to
        be corrected; but never more than `N_SERIES * reach` files in all, the newest. A sum that is wanted after its
        file has gone is made again from the archive.
        """
        with self.write() as connection:
            gone = _superfluous(connection, reach)
            statement = update(stack_sums).where(stack_sums.c.movie_id.in_(gone)).values(file="", n_bytes=0)
            connection.execute(statement)
        return list(gone.values())


def _superfluous(connection: Connection, reach: int) -> dict[int, str]:
    """Movie id -> file of those that are not needed."""
    kept = (
        select(stack_sums.c.movie_id, stack_sums.c.file, movies.c.series)
        .join(movies)
        .where(stack_sums.c.file != "")
        .order_by(stack_sums.c.movie_id.desc())
    )
    gone, newer, n_kept = {}, Counter[str](), 0
    for movie_id, file, series in connection.execute(kept).all():
        newer[series] += 1
        if n_kept < N_SERIES * reach and (
            newer[series] <= reach or _is_awaited(connection, movie_id, series, reach)
        ):
            n_kept += 1
        else:
            gone[movie_id] = file
    return gone


def _is_awaited(connection: Connection, movie_id: int, series: str, reach: int) -> bool:
    """Whether a movie is still to be corrected whose window may have this one in it."""
    ids = select(movies.c.movie_id).where(movies.c.series == series)
    later = ids.where(movies.c.movie_id >= movie_id).order_by(movies.c.movie_id).limit(reach + 1)
    earlier = ids.where(movies.c.movie_id < movie_id).order_by(movies.c.movie_id.desc()).limit(reach)
    around = [*connection.execute(later).scalars(), *connection.execute(earlier).scalars()]
    waiting = select(jobs.c.job_id).where(
        jobs.c.movie_id.in_(around), jobs.c.kind == JobKind.CORRECT, jobs.c.state.not_in(ENDED)
    )
    return connection.execute(waiting.limit(1)).first() is not None


def put(connection: Connection, movie_id: int, row: StackSumRow) -> None:
    """Insert or replace a movie's row."""
    values = asdict(row)
    statement = upsert(stack_sums).values(movie_id=movie_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["movie_id"], set_=values))
