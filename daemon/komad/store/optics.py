"""Optics groups as plots and the status show them. Reads only, without SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from komad.store.overview import open_read_only


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A movie and where its beam was."""

    movie_id: int
    stem: str
    group: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group and where its centre is now."""

    name: str
    session: int
    x: float
    y: float
    n_movies: int
    is_open: bool
    """Movies can still join it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpticsGroups:
    """The groups of one session of the microscope, or of all."""

    unit: str
    """Of the shifts: epu or serialem."""
    tolerances: tuple[float, ...]
    """Of the sessions shown."""
    groups: tuple[Group, ...]
    shots: tuple[Shot, ...]
    """In the order in which the movies were found."""


def read_groups(state_directory: Path, *, newest_session: bool = False) -> OpticsGroups:
    """Read the groups of all sessions with the unit of the newest one, or of the newest session only.

    Raises StoreError when there is no database that can be read.
    """
    with open_read_only(state_directory) as connection:
        sessions = connection.execute(
            "SELECT session_id, unit, tolerance FROM optics_sessions ORDER BY session_id DESC"
        ).fetchall()
        if not sessions:
            return OpticsGroups(unit="", tolerances=(), groups=(), shots=())
        unit = sessions[0][1]
        shown = [row for row in sessions if row[1] == unit][: 1 if newest_session else None]
        numbers = ", ".join(str(session_id) for session_id, _, _ in shown)
        name = "printf('%s-%03d', optics_groups.name, optics_groups.number)"
        groups = connection.execute(
            f"SELECT {name}, session_id, x, y, n_movies, is_open FROM optics_groups "  # noqa: S608 - our own numbers
            f"WHERE session_id IN ({numbers}) ORDER BY optics_groups.name, number"
        ).fetchall()
        shots = connection.execute(
            f"SELECT optics_shifts.movie_id, stem, {name}, optics_shifts.x, optics_shifts.y FROM optics_shifts "  # noqa: S608
            "JOIN optics_groups USING (group_id) JOIN movies USING (movie_id) "
            f"WHERE session_id IN ({numbers}) ORDER BY optics_shifts.movie_id"
        ).fetchall()
    return OpticsGroups(
        unit=unit,
        tolerances=tuple(tolerance for _, _, tolerance in shown),
        groups=tuple(
            Group(name=name, session=session, x=x, y=y, n_movies=n_movies, is_open=bool(is_open))
            for name, session, x, y, n_movies, is_open in groups
        ),
        shots=tuple(
            Shot(movie_id=movie_id, stem=stem, group=group, x=x, y=y) for movie_id, stem, group, x, y in shots
        ),
    )
