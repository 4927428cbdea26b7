"""How the detector does, as its movies show it: for the status and for plots. Reads only, without SQLAlchemy.

A series is what KOMA averages over: movies of one camera mode and one gain reference. Its numbers can be compared with
each other; another gain reference begins another one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from komad.store.overview import open_read_only

WRONG_GAIN = frozenset({"other", "inverse", "corrected"})
"""Verdicts on a gain reference that a person should see."""
N_COMPARED = 20
"""Movies at the start and at the end of a series that the status compares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieHealth:
    """What one movie shows of the detector. None is what could not be measured."""

    movie_id: int
    stem: str
    found_at: datetime
    series: str
    """Its name; '' when it was found by a komad without KOMA."""
    correlation_raw: float | None
    """Between frames, after the gain alone."""
    correlation_outliers: float | None
    """After outliers were replaced, too."""
    correlation_koma: float | None
    """After KOMA, too."""
    n_hot: int
    n_dead: int
    n_defects: int
    n_xrays: int
    pattern_spread: float | None
    """Relative standard deviation of what the gain reference left."""
    pattern_correlation: float | None
    """Of the movie's stack sum with that of its neighbours."""
    koma_mode: str
    n_stacks: int
    n_wanted: int
    n_left_out: int

    @property
    def n_outliers(self) -> int:
        """Pixels that are bad in all frames."""
        return self.n_hot + self.n_dead + self.n_defects


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What the movies of a series have in common."""

    ny: int
    nx: int
    gain: str
    """SHA-256 of the gain reference; '' without one."""
    gain_rot: int
    gain_flip: int


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The movies that were corrected, in the order in which they were found."""

    movies: tuple[MovieHealth, ...]
    series: Mapping[str, Series]
    """By the names in `movies`, in the order of their first movies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GainCheck:
    """Whether the gain reference of a series lies the right way, as the first movies show."""

    verdict: str
    """ok, other (another way is better), unclear, corrected (the movies are gain-corrected already), inverse."""
    best: tuple[int, int]
    """(gain_rot, gain_flip) that fits best."""
    confidence: float
    """By how many standard deviations."""
    sentence: str
    accepted: bool
    """A person has decided to leave it as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorFacts:
    """What a status needs."""

    first: tuple[MovieHealth, ...] = ()
    """The first N_COMPARED of the series of the movie that was corrected last, which may be among `last`, too."""
    last: tuple[MovieHealth, ...] = ()
    """The last N_COMPARED that are corrected of it, the newest at the end."""
    has_gain: bool = False
    """The newest movie has a gain reference."""
    gain_check: GainCheck | None = None
    """Of the series of the newest movie; None before it was made."""
    n_waiting: int = 0
    """Movies that wait for their neighbours."""
    waiting_reason: str = ""
    """Of the first of them."""
    n_stack_sums: int = 0
    """Files on disk."""
    stack_sum_bytes: int = 0


_COLUMNS = (
    "jobs.movie_id, movies.stem, movies.found_at, movies.series, json_extract(jobs.summary, '$.detector')"
)
_MEASURED = "json_extract(jobs.summary, '$.detector') IS NOT NULL"
# CROSS JOIN and + keep SQLite from walking through all jobs that are done: it stops after N_COMPARED.
_AT_AN_END = (
    f"SELECT {_COLUMNS} FROM movies CROSS JOIN jobs USING (movie_id)"  # noqa: S608 - constants
    f" WHERE movies.series = ? AND jobs.kind = 'correct' AND +jobs.state = 'done' AND {_MEASURED}"
    " ORDER BY movies.movie_id {} LIMIT ?"
)
_HISTORY = (
    f"SELECT {_COLUMNS} FROM jobs JOIN movies USING (movie_id)"  # noqa: S608
    f" WHERE jobs.kind = 'correct' AND jobs.state = 'done' AND {_MEASURED} AND movies.found_at >= ?"
    " ORDER BY jobs.movie_id DESC LIMIT ?"
)


def read_detector(state_directory: Path) -> DetectorFacts:
    """Read what a status needs: the same few rows, however long the session is.

    Raises
    ------
    StoreError
        There is no database in `state_directory`, or it cannot be read.
    """
    with open_read_only(state_directory) as connection:
        series = _series_of_last_corrected(connection)
        first, last = (
            tuple(_movies(connection, _AT_AN_END.format(order), series, N_COMPARED)) if series else ()
            for order in ("ASC", "DESC")
        )
        n_files, n_bytes = connection.execute(
            "SELECT count(*), coalesce(sum(n_bytes), 0) FROM stack_sums WHERE file != ''"
        ).fetchone()
        n_waiting, reason = connection.execute(
            "SELECT count(*), (SELECT reason FROM jobs WHERE state = 'held' AND held_by = 'koma' ORDER BY job_id"
            " LIMIT 1) FROM jobs WHERE state = 'held' AND held_by = 'koma'"
        ).fetchone()
        return DetectorFacts(
            first=first,
            last=last[::-1],
            has_gain=_has_gain(connection),
            gain_check=_gain_check(connection),
            n_waiting=n_waiting,
            waiting_reason=reason or "",
            n_stack_sums=n_files,
            stack_sum_bytes=n_bytes,
        )


def read_history(state_directory: Path, *, last: int | None = None, since: datetime | None = None) -> History:
    """Read all movies that were corrected, or the `last` ones, or those found `since` (with time zone).

    Raises
    ------
    StoreError
        There is no database, or it cannot be read.
    """
    found_at = "" if since is None else since.astimezone(UTC).isoformat(timespec="milliseconds")
    with open_read_only(state_directory) as connection:
        movies = tuple(_movies(connection, _HISTORY, found_at, -1 if last is None else last))[::-1]
        first_of = {movie.series: movie.movie_id for movie in reversed(movies)}
        series = {
            name: _series(connection, first_of[name]) for name in dict.fromkeys(m.series for m in movies)
        }
    return History(movies=movies, series=series)


def _series_of_last_corrected(connection: sqlite3.Connection) -> str:
    """'' when there is none, or it was found by a komad that did not measure the detector."""
    row = connection.execute(
        "SELECT movies.series FROM jobs JOIN movies USING (movie_id)"
        " WHERE jobs.sequence = (SELECT max(sequence) FROM jobs)"
    ).fetchone()
    return row[0] if row else ""


def _movies(connection: sqlite3.Connection, query: str, key: str, limit: int) -> Iterator[MovieHealth]:
    for movie_id, stem, found_at, series, detector in connection.execute(query, (key, limit)):
        values: dict[str, Any] = json.loads(detector)
        numbers: dict[str, Any] = {name: values.get(name) for name in _MEASURES}
        numbers |= {name: values.get(name) or 0 for name in _NUMBERS}
        yield MovieHealth(
            movie_id=movie_id,
            stem=stem,
            found_at=datetime.fromisoformat(found_at),
            series=series,
            koma_mode=values.get("koma_mode") or "off",
            **numbers,
        )


_MEASURES = (
    "correlation_raw",
    "correlation_outliers",
    "correlation_koma",
    "pattern_spread",
    "pattern_correlation",
)
_NUMBERS = ("n_hot", "n_dead", "n_defects", "n_xrays", "n_stacks", "n_wanted", "n_left_out")


def _series(connection: sqlite3.Connection, movie_id: int) -> Series:
    header, files = connection.execute(
        "SELECT header, reference_files FROM movies WHERE movie_id = ?", (movie_id,)
    ).fetchone()
    size, references = json.loads(header), json.loads(files)
    gain = references["gain"]
    return Series(
        ny=size["ny"],
        nx=size["nx"],
        gain="" if gain is None else gain["sha256"],
        gain_rot=references["gain_rot"],
        gain_flip=references["gain_flip"],
    )


def _has_gain(connection: sqlite3.Connection) -> bool:
    row = connection.execute(
        "SELECT json_extract(reference_files, '$.gain') IS NOT NULL FROM movies WHERE header IS NOT NULL"
        " ORDER BY movie_id DESC LIMIT 1"
    ).fetchone()
    return bool(row and row[0])


def _gain_check(connection: sqlite3.Connection) -> GainCheck | None:
    """The verdict on the gain in use: of the newest movie's series, or of another one in turn with it that is wrong."""
    newest = connection.execute(
        "SELECT series FROM movies WHERE header IS NOT NULL ORDER BY movie_id DESC LIMIT 1"
    ).fetchone()
    if newest is None:
        return None
    found = connection.execute(
        "SELECT substr(key, 12), value FROM meta WHERE key LIKE 'gain_check:%' AND"
        " (SELECT max(movie_id) FROM movies WHERE series = substr(key, 12))"
        " >= (SELECT min(movie_id) FROM movies WHERE series = ?)",
        newest,
    )
    verdicts = {series: json.loads(value) for series, value in found}
    values = verdicts.get(newest[0])
    for other in verdicts.values():
        if other["verdict"] in WRONG_GAIN and not other["accepted"]:
            values = other
    if values is None:
        return None
    best = values["best"]
    return GainCheck(
        verdict=values["verdict"],
        best=(best["gain_rot"], best["gain_flip"]),
        confidence=values["confidence"],
        sentence=values["sentence"],
        accepted=values["accepted"],
    )
