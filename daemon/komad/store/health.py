"""Whether the database can be used, without touching it: nothing is made, nothing is brought up to date."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from komad.errors import DamagedError, StoreError
from komad.store.overview import DATABASE, open_read_only


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseHealth:
    """What a look at it tells."""

    there: bool
    revision: str = ""
    """Its schema."""
    damage: str = ""
    """What SQLite finds wrong with it, or why it cannot be read; '' when all is well."""


def refuse_damage(state_directory: Path, *, used: bool) -> None:
    """Check a database before it is opened for good; `used` tells that there is more of a session than the database.

    Raises
    ------
    DamagedError
        It is damaged, or empty though a session has left results.
    """
    path = state_directory / DATABASE
    if path.exists() and path.stat().st_size == 0:
        if used:
            raise damaged(path, "it is empty")
        return
    if not path.exists():
        return
    try:
        with open_read_only(state_directory) as connection:
            damage = _quick_check(connection)
    except StoreError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError):
            return  # locked, or not ours: no damage, and opening it tells
        raise damaged(path, str(error.__cause__)) from error
    if damage:
        raise damaged(path, damage.splitlines()[-1])


def damaged(path: Path, how: str) -> DamagedError:
    """Say that the database cannot be trusted, and what to do."""
    return DamagedError(
        f"the database {path} is damaged ({how}): `komad rebuild` sets it aside and makes a new one from the results "
        "and archives, which stay as they are"
    )


def read_health(state_directory: Path) -> DatabaseHealth:
    """Look at the pages and indices of the database (PRAGMA quick_check); seconds for a large one."""
    if not (state_directory / DATABASE).exists():
        return DatabaseHealth(there=False)
    try:
        with open_read_only(state_directory) as connection:
            damage = _quick_check(connection)
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except (StoreError, sqlite3.Error, ValueError) as error:  # ValueError: names that are no text
        return DatabaseHealth(there=True, damage=str(error))
    return DatabaseHealth(there=True, revision=row[0] if row else "", damage=damage)


def _quick_check(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with pages and indices; '' when all is well."""
    found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else found
