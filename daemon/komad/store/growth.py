"""How fast disks fill: what movies took lately, how many come, and what the jobs in hand are going to write.

Reads only, without SQLAlchemy, as `overview`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Role = Literal["output", "archive", "state"]
N_LATELY = 50
"""Movies whose bytes are averaged."""
SHORTEST_SPAN = timedelta(minutes=1)
"""Rates are not told from less than this."""
PLANES = 6
"""Pictures in 32-bit floats that a movie is expected to become before the first one is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What a movie takes, by the role of the folder, and how many movies come."""

    bytes_per_movie: Mapping[Role, float]
    """Really written lately; before the first movie is done, what its size lets expect."""
    movies_per_hour: float
    """Found or archived, whatever is more, over the last hour of the session."""
    n_in_hand: int
    """Movies that workers have in hand."""

    def per_hour(self, roles: Iterable[Role]) -> float:
        """Bytes per hour in folders of these roles."""
        return self.movies_per_hour * sum(self.bytes_per_movie.get(role, 0.0) for role in roles)

    def expected(self, roles: Iterable[Role], n_movies: int) -> float:
        """Bytes that so many movies, and those in hand, are going to write in folders of these roles."""
        return (self.n_in_hand + n_movies) * sum(self.bytes_per_movie.get(role, 0.0) for role in roles)


NO_GROWTH = Growth(bytes_per_movie={}, movies_per_hour=0.0, n_in_hand=0)
"""Before the first movie."""


def growth(connection: sqlite3.Connection, now: datetime) -> Growth:
    """Read it at `now` (with time zone)."""
    first = connection.execute("SELECT found_at FROM movies ORDER BY movie_id LIMIT 1").fetchone()
    if first is None:
        return NO_GROWTH
    span = min(timedelta(hours=1), max(SHORTEST_SPAN, now - datetime.fromisoformat(first[0])))
    since = (now - span).astimezone(UTC).isoformat(timespec="milliseconds")
    n_found = 0
    for (found_at,) in connection.execute("SELECT found_at FROM movies ORDER BY movie_id DESC"):
        if found_at < since:
            break
        n_found += 1
    archived = "SELECT count(*) FROM jobs WHERE state = 'done' AND kind = 'archive' AND ended_at >= ?"
    n_archived = connection.execute(archived, (since,)).fetchone()[0]
    running = "SELECT count(DISTINCT movie_id) FROM jobs WHERE state = 'running'"
    return Growth(
        bytes_per_movie={
            "output": _lately(connection, "correct", "$.output_bytes") or _expected_output(connection),
            "archive": _lately(connection, "archive", "$.archive_bytes") or _newest_size(connection),
            "state": _state_bytes(connection),
        },
        movies_per_hour=max(n_found, n_archived) * (timedelta(hours=1) / span),
        n_in_hand=connection.execute(running).fetchone()[0],
    )


def _lately(connection: sqlite3.Connection, kind: str, key: str) -> float | None:
    """Mean of a number in the summaries of the jobs that were done last; None before the first."""
    query = (
        "SELECT avg(bytes) FROM (SELECT json_extract(summary, ?) AS bytes FROM jobs"
        " WHERE state = 'done' AND kind = ? ORDER BY ended_at DESC LIMIT ?)"
    )
    mean: float | None = connection.execute(query, (key, kind, N_LATELY)).fetchone()[0]
    return mean


def _newest_size(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT size_bytes FROM movies ORDER BY movie_id DESC LIMIT 1").fetchone()
    return float(row[0])


def _expected_output(connection: sqlite3.Connection) -> float:
    query = "SELECT header, processing FROM movies WHERE header IS NOT NULL ORDER BY movie_id DESC LIMIT 1"
    row = connection.execute(query).fetchone()
    if row is None:
        return 0.0
    header, processing = map(json.loads, row)
    return 4.0 * PLANES * header["ny"] * header["nx"] / processing.get("bin_factor", 1.0) ** 2


def _state_bytes(connection: sqlite3.Connection) -> float:
    """Rows, and stack sums as long as none was removed yet: from then on as many go as come."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    n_movies = connection.execute("SELECT count(*) FROM movies").fetchone()[0]
    n_removed = connection.execute("SELECT count(*) FROM (SELECT 1 FROM stack_sums WHERE file = '' LIMIT 1)")
    if n_removed.fetchone()[0]:
        return pages * size / n_movies
    mean = connection.execute("SELECT avg(n_bytes) FROM stack_sums WHERE file != ''").fetchone()[0]
    return pages * size / n_movies + (mean or 0.0)
