"""Windows of KOMA, bound once; and what was found out about the gain reference of a series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import delete, insert, select, update

from komad.config import Koma
from komad.errors import TransitionError
from komad.model import JobKind, KomaWindow, Movie, StackFacts
from komad.store import changes, gain_checks, windows
from komad.store.database import Database
from komad.store.rows import GainCheckRow, HeldBy, movie_from, references_values, window_from, window_values
from komad.store.tables import IS_HELD, jobs, koma_windows, movies, stack_sums


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownNeighbours:
    """What a window is chosen from."""

    facts: Mapping[int, StackFacts]
    """Movie id -> what its stack sum is like; rising, the movie itself left out."""
    absent: Mapping[int, str]
    """Movie id -> why nothing is known of this neighbour."""


class KomaWindows(Database):
    """What a worker asks and settles before it corrects a movie."""

    def koma_neighbours(self, movie: Movie) -> KnownNeighbours:
        """Look up the movies around one that may be in its window."""
        koma = Koma.model_validate(movie.koma)
        with self.read() as connection:
            around = windows.neighbours_of(connection, movie.movie_id, movie.series, koma)
            ids = [neighbour.movie_id for neighbour in (*around.earlier, *around.later)]
            rows = connection.execute(
                select(stack_sums.c.movie_id, stack_sums.c.facts)
                .where(stack_sums.c.movie_id.in_(ids), stack_sums.c.facts.is_not(None))
                .order_by(stack_sums.c.movie_id)
            )
            facts = {movie_id: StackFacts(**values) for movie_id, values in rows}
        return KnownNeighbours(facts=facts, absent=windows.absences(around, facts))

    def koma_window(self, movie_id: int) -> KomaWindow | None:
        """Return the window that was bound to the movie, if one was."""
        statement = select(koma_windows.c.window).where(koma_windows.c.movie_id == movie_id)
        with self.read() as connection:
            values = connection.execute(statement).scalar()
        return None if values is None else window_from(values)

    def bind_window(self, movie_id: int, window: KomaWindow) -> KomaWindow:
        """Bind a window to the movie for good; gives the one that is bound, which may be another worker's."""
        statement = select(koma_windows.c.window).where(koma_windows.c.movie_id == movie_id)
        with self.write() as connection:
            values = connection.execute(statement).scalar()
            if values is not None:
                return window_from(values)
            connection.execute(insert(koma_windows).values(movie_id=movie_id, window=window_values(window)))
        return window

    def release_koma_held(self) -> int:
        """Let the movies go on that waited long enough, or whose neighbours cannot move; gives their number."""
        waiting = select(jobs.c.job_id).where(IS_HELD, jobs.c.held_by == HeldBy.KOMA).limit(1)
        with self.read() as connection:
            if connection.execute(waiting).first() is None:
                return 0
        with self.write() as connection:
            return changes.settle_waiting(connection, HeldBy.KOMA)

    def first_stack_sums(self, series: str, n: int) -> list[tuple[int, str]]:
        """(movie id, file) of the first `n` movies of a series that have a stack sum on disk."""
        statement = (
            select(stack_sums.c.movie_id, stack_sums.c.file)
            .join(movies)
            .where(movies.c.series == series, stack_sums.c.file != "")
            .order_by(stack_sums.c.movie_id)
            .limit(n)
        )
        with self.read() as connection:
            return [(movie_id, file) for movie_id, file in connection.execute(statement)]

    def gain_check(self, series: str) -> GainCheckRow | None:
        """Return what the check of the gain found in a series; None when it was not checked yet."""
        with self.read() as connection:
            return gain_checks.get(connection, series)

    def put_gain_check(self, series: str, row: GainCheckRow) -> bool:
        """Store what the check found, unless another worker did; tells whether it was stored.

        When it holds the series, its correct jobs wait from now on; those that run go on.
        """
        with self.write() as connection:
            if gain_checks.get(connection, series) is not None:
                return False
            gain_checks.put(connection, series, row)
            if row.holds:
                changes.settle_queued(connection, series)
        return True

    def gain_held(self, *, limit: int) -> list[Movie]:
        """The first movies that wait because their gain seems to be wrong."""
        waiting = select(movies).join(jobs).where(IS_HELD, jobs.c.held_by == HeldBy.GAIN)
        with self.read() as connection:
            rows = connection.execute(waiting.order_by(movies.c.movie_id).limit(limit))
            return [movie_from(row) for row in rows]

    def rebind(self, movie: Movie) -> None:
        """Give a movie that waits for its gain the references and the series that `movie` has.

        What was found with the old ones is forgotten: it is archived again, and then corrected.

        Raises
        ------
        TransitionError
            It does not wait for its gain any more.
        """
        movie_id = movie.movie_id
        with self.write() as connection:
            rows = changes.rows_of_movie(connection, movie_id)
            if rows[JobKind.CORRECT].held_by != HeldBy.GAIN:
                raise TransitionError(f"movie {movie_id} does not wait for its gain any more")
            values = {"reference_files": references_values(movie.references), "series": movie.series}
            connection.execute(update(movies).where(movies.c.movie_id == movie_id).values(values))
            for table in (stack_sums, koma_windows):
                connection.execute(delete(table).where(table.c.movie_id == movie_id))
            changes.requeue(connection, rows[JobKind.ARCHIVE])
            changes.settle_correct(connection, movie_id)

    def accept_gain(self) -> list[GainCheckRow]:
        """Accept all gain references that seem to be wrong, and let the jobs go on that wait; gives what was found."""
        with self.write() as connection:
            found = gain_checks.undecided(connection)
            for series, row in found.items():
                gain_checks.put(connection, series, replace(row, accepted=True))
            changes.settle_waiting(connection, HeldBy.GAIN)
        return list(found.values())
