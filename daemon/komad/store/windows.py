"""Which movies may be in another one's window, and whether it has to wait for them.

The rule makes windows independent of timing: a movie waits until the archive job of every neighbour that could be in
its window has ended, and nothing else is looked at. It waits for jobs that move, queued or running ones, and not longer
than `max_wait_s` after its own archive was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select

from komad.config import Koma
from komad.model import REACH, JobKind, JobState
from komad.store.rows import now
from komad.store.tables import jobs, koma_windows, movies

CLOCK_ADJUSTMENT_S = 60.0
"""By less than this a clock is set right while all goes well."""


# Written once: putting them together takes as long as running them, and they run for each movie of each window.
_LISTED = (
    select(movies.c.movie_id, movies.c.stem, jobs.c.state, jobs.c.reason)
    .join(jobs)
    .where(movies.c.series == bindparam("series"), jobs.c.kind == JobKind.ARCHIVE)
    .limit(bindparam("n"))
)
_BEFORE = _LISTED.where(movies.c.movie_id < bindparam("movie_id")).order_by(movies.c.movie_id.desc())
_AFTER = _LISTED.where(movies.c.movie_id > bindparam("movie_id")).order_by(movies.c.movie_id)
_BOUND = select(koma_windows.c.movie_id).where(koma_windows.c.movie_id == bindparam("movie_id"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """Another movie of the series, and how far its archive job is."""

    movie_id: int
    stem: str
    archive: JobState
    reason: str = ""
    """Why the archive job is held."""

    @property
    def moves(self) -> bool:
        """Whether it is worth waiting for; a job that is held may be so for days."""
        return self.archive in {JobState.QUEUED, JobState.RUNNING}

    @property
    def absence(self) -> str:
        """Why it is in no window; '' when its archive is done."""
        return {
            JobState.DONE: "",
            JobState.FAILED: "its archive failed",
            JobState.CANCELLED: "its archive was cancelled",
            JobState.HELD: f"its archive is held ({self.reason})",
        }.get(self.archive, "it was not archived in time")


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbours:
    """All that may be in a movie's window, the nearest first."""

    earlier: Sequence[Neighbour]
    later: Sequence[Neighbour]
    n_later: int
    """Later ones that the window needs; not all of them need to be there yet."""


def why_held(connection: Connection, archive: Row[Any], series: str, koma: Koma) -> str:
    """Say what a movie waits for whose archive is done; '' when it can go on."""
    if koma.mode == "off" or not series or _has_waited(archive.ended_at, koma.max_wait_s):
        return ""
    if connection.execute(_BOUND, {"movie_id": archive.movie_id}).first() is not None:
        return ""
    return waits_for(neighbours_of(connection, archive.movie_id, series, koma), koma)


def _has_waited(since: str, limit_s: float) -> bool:
    """Whether the limit is over; also when the clock was set back since, for then nobody knows."""
    return since <= now(-limit_s) or since > now(CLOCK_ADJUSTMENT_S)


def waits_for(neighbours: Neighbours, koma: Koma) -> str:
    """Name what has to be archived first, in the same words for as long as it is the same; '' when nothing has."""
    limit = f"(for {koma.max_wait_s:g} s at most)"
    slow = [neighbour for neighbour in (*neighbours.earlier, *neighbours.later) if neighbour.moves]
    if slow:
        first = min(slow, key=lambda neighbour: neighbour.movie_id)
        return f"KOMA waits for the archive of {first.stem} {limit}"
    if len(neighbours.later) < neighbours.n_later:
        return f"KOMA (centred) waits for later movies {limit}"
    return ""


def neighbours_of(connection: Connection, movie_id: int, series: str, koma: Koma) -> Neighbours:
    """Look up the movies of the series around one; none in the series ''."""
    if not series:
        return Neighbours(earlier=(), later=(), n_later=0)
    around = {"series": series, "movie_id": movie_id}
    earlier = _neighbours(connection, _BEFORE, around | {"n": REACH * koma.radius})
    n_later = 0
    if koma.mode == "centred":
        n_done = sum(neighbour.archive == JobState.DONE for neighbour in earlier)
        n_later = max(koma.radius, 2 * koma.radius - n_done)
    later = _neighbours(connection, _AFTER, around | {"n": n_later}) if n_later else ()
    return Neighbours(earlier=earlier, later=later, n_later=n_later)


def _neighbours(
    connection: Connection, statement: Select[Any], values: Mapping[str, Any]
) -> tuple[Neighbour, ...]:
    return tuple(
        Neighbour(movie_id=movie_id, stem=stem, archive=JobState(state), reason=reason)
        for movie_id, stem, state, reason in connection.execute(statement, values)
    )


def absences(neighbours: Neighbours, known: Mapping[int, object]) -> dict[int, str]:
    """Movie id -> why a neighbour cannot be in the window, for those of which nothing is `known`."""
    return {
        neighbour.movie_id: neighbour.absence or "it has no stack sum"
        for neighbour in sorted((*neighbours.earlier, *neighbours.later), key=lambda it: it.movie_id)
        if neighbour.movie_id not in known
    }
