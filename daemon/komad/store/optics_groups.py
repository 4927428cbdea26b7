"""Optics groups by beam shift: which movie is in which, kept so that it never changes and a restart goes on.

Every movie is put into its group in the transaction that adds or completes it, so that two that come at once do not
both open a group at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.optics.groups import (
    REVIEWED_SHIFTS,
    BeamShift,
    Centre,
    ShiftGroups,
    group_name,
    nearest_session,
)
from komad.store.tables import optics_groups, optics_sessions, optics_shifts


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Where and how a movie was taken, as its group is found from it."""

    folder: str
    """The watched folder: another one has groups of its own."""
    name: str
    """The configured group, with which the names of groups begin."""
    tolerance: float | None
    """None: found from the shifts."""
    shift: BeamShift


def assign(connection: Connection, movie_id: int, taken: Taken) -> str:
    """Put a movie into its group, an old or a new one; gives the name of the group. The connection is a writer's."""
    session_id, groups = _session(connection, taken)
    if taken.tolerance is not None:
        groups.tolerance = taken.tolerance
    number = groups.assign(taken.shift, free_number=_last_number(connection, taken.name) + 1)
    _put(connection, session_id, taken.name, groups, {number})
    _put_shift(connection, movie_id, _group_id(connection, taken.name, number), taken.shift)
    if taken.tolerance is None and groups.wants_review:
        _review(connection, session_id, taken.name, groups)
    return group_name(taken.name, number)


def readmit(connection: Connection, movie_id: int, number: int, taken: Taken) -> None:
    """Enter a movie whose group is known, into a database that is made anew."""
    session_id, groups = _session(connection, taken)
    groups.readmit(taken.shift, number)
    _put(connection, session_id, taken.name, groups, {number})
    _put_shift(connection, movie_id, _group_id(connection, taken.name, number), taken.shift)


def _session(connection: Connection, taken: Taken) -> tuple[int, ShiftGroups]:
    """The session that a movie was taken in, with its open groups; a new one where there is none."""
    c = optics_sessions.c
    rows = connection.execute(
        select(optics_sessions).where(c.folder == taken.folder, c.name == taken.name)
    ).all()
    sessions = [
        ShiftGroups(
            unit=row.unit,
            magnification=row.magnification,
            first_at_s=row.first_at_s,
            last_at_s=row.last_at_s,
            tolerance=row.tolerance,
            n_movies=row.n_movies,
            n_reviewed=row.n_reviewed,
        )
        for row in rows
    ]
    found = nearest_session(sessions, taken.shift)
    if found is None:
        groups = ShiftGroups.beginning_with(taken.shift, taken.tolerance)
        values = {"folder": taken.folder, "name": taken.name, "unit": groups.unit, **_values(groups)}
        values["magnification"] = groups.magnification
        session_id: int = connection.execute(
            insert(optics_sessions).values(values).returning(c.session_id)
        ).scalar_one()
        return session_id, groups
    session_id = next(row.session_id for row, session in zip(rows, sessions, strict=True) if session is found)
    g = optics_groups.c
    for row in connection.execute(select(optics_groups).where(g.session_id == session_id, g.is_open)):
        found.centres[row.number] = Centre(x=row.x, y=row.y, n_movies=row.n_movies)
    return session_id, found


def _values(groups: ShiftGroups) -> dict[str, float]:
    return {
        name: getattr(groups, name)
        for name in ("first_at_s", "last_at_s", "tolerance", "n_movies", "n_reviewed")
    }


def _put(connection: Connection, session_id: int, name: str, groups: ShiftGroups, changed: set[int]) -> None:
    """Store a session and some of its groups."""
    connection.execute(
        update(optics_sessions).where(optics_sessions.c.session_id == session_id).values(_values(groups))
    )
    for number in changed:
        centre = groups.centres[number]
        place = {"x": centre.x, "y": centre.y, "n_movies": centre.n_movies, "is_open": True}
        statement = upsert(optics_groups).values(name=name, number=number, session_id=session_id, **place)
        connection.execute(statement.on_conflict_do_update(index_elements=["name", "number"], set_=place))


def _review(connection: Connection, session_id: int, name: str, groups: ShiftGroups) -> None:
    """Look at the newest shifts of a session for a gap between places."""
    newest = (
        select(optics_shifts.c.x, optics_shifts.c.y, optics_groups.c.number)
        .join(optics_groups)
        .where(optics_groups.c.session_id == session_id)
        .order_by(optics_shifts.c.movie_id.desc())
        .limit(REVIEWED_SHIFTS)
    )
    rows = connection.execute(newest).all()[::-1]
    before = dict(groups.centres)
    groups.review(np.array([(row.x, row.y) for row in rows]), [row.number for row in rows])
    changed = {number for number, centre in groups.centres.items() if before.get(number) != centre}
    _put(connection, session_id, name, groups, changed)
    closed = before.keys() - groups.centres.keys()
    g = optics_groups.c
    connection.execute(
        update(optics_groups).where(g.name == name, g.number.in_(closed)).values(is_open=False)
    )


def _last_number(connection: Connection, name: str) -> int:
    number = select(func.max(optics_groups.c.number)).where(optics_groups.c.name == name)
    return connection.execute(number).scalar() or 0


def _group_id(connection: Connection, name: str, number: int) -> int:
    c = optics_groups.c
    group_id: int = connection.execute(
        select(c.group_id).where(c.name == name, c.number == number)
    ).scalar_one()
    return group_id


def _put_shift(connection: Connection, movie_id: int, group_id: int, shift: BeamShift) -> None:
    values = {"group_id": group_id, "x": shift.x, "y": shift.y}
    statement = upsert(optics_shifts).values(movie_id=movie_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["movie_id"], set_=values))
