"""Opening the database: where it may lie, how it is opened, one writer at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from komad.errors import BusyError, DiskFullError, KomadError, StoreDiskError, StoreError
from komad.mounts import network_of, read_mounts
from komad.store import ballast, schema
from komad.store.health import damaged
from komad.store.overview import refuse_strangers

BUSY_TIMEOUT_S = 20.0
"""How long a writer waits for another one. Transactions here take milliseconds."""

WAL = "journal_mode = WAL"
"""Readers do not wait for writers; what was committed stays, whatever happens."""


class Database:
    """The SQLite file of a state directory; safe to use from several threads, opened by each process on its own.

    `patience_s` is how long a writer waits while another program keeps it locked.
    """

    def __init__(self, state_directory: Path, *, patience_s: float = BUSY_TIMEOUT_S) -> None:
        self.state_directory = state_directory
        self._patience_s = patience_s
        self.path = state_directory / "komad.sqlite"
        self._engine: Engine | None = None

    def open(self, *, create: bool = True) -> Self:
        """Open the database, bringing its schema up to date; `create=False` refuses to make a new one.

        Raises
        ------
        StoreError
            The directory is on a network file system, cannot be written, or the database is of a newer komad or
            damaged.
        """
        refuse_strangers(self.state_directory)
        if not create and not self.path.exists():
            raise StoreError(
                f"no komad has run with the state directory {self.state_directory}: {self.path} is missing"
            )
        try:
            self.state_directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the state directory {self.state_directory}: {error.strerror}; set state_directory"
            ) from error
        refuse_network(self.state_directory, read_mounts())
        self._engine = _engine(self.path, self._patience_s)
        try:
            with self._explained():
                self._verify_wal()
                schema.bring_up_to_date(self._engine, self.path)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database and never waits for writers."""
        with self._explained(), self._opened().connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, patience_s: float | None = None) -> Iterator[Connection]:
        """Open a transaction as the only writer (BEGIN IMMEDIATE); any exception undoes all of it.

        Raises
        ------
        BusyError
            Another program kept it locked for longer than `patience_s`, or that of this object.
        """
        with self._explained(), self._opened().connect() as connection:
            options = {"komad_begin": "IMMEDIATE", "komad_patience_s": patience_s}
            connection = connection.execution_options(**options)  # noqa: PLW2901 - same one
            with connection.begin():
                yield connection

    def _opened(self) -> Engine:
        if self._engine is None:
            raise StoreError(f"the database {self.path} is not open")
        return self._engine

    def _verify_wal(self) -> None:
        with self.read() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        if mode != "wal":
            raise StoreError(
                f"{self.path} cannot use write-ahead logging (journal mode is {mode}): its file system does not "
                "support it; set state_directory to a folder on a local disk"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the database into ours, with what to do."""
        try:
            yield
        except DatabaseError as error:
            raise _explain(error, self.path) from error


def _engine(path: Path, patience_s: float) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": patience_s})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
        log = f"journal_size_limit = {ballast.LOG_BYTES}"
        for pragma in (WAL, log, "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        begin = f"BEGIN {options.get('komad_begin', 'DEFERRED')}"
        shorter_s = options.get("komad_patience_s")
        if shorter_s is None:
            connection.exec_driver_sql(begin)
            return
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * shorter_s:.0f}")
        try:
            connection.exec_driver_sql(begin)
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * patience_s:.0f}")

    return engine


def _explain(error: DatabaseError, path: Path) -> KomadError:
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):  # the latter where a quota is used up
        ballast.drop(path.parent)
    if name.startswith("SQLITE_FULL"):
        return DiskFullError(f"no space is left for the database {path}: make room on its disk")
    if name.startswith("SQLITE_BUSY"):
        return BusyError(f"the database {path} is kept locked by another program; trying again")
    if name.startswith("SQLITE_IOERR") or name == "SQLITE_READONLY_DBMOVED":
        return StoreDiskError(f"the disk of the database {path} gives errors ({name}): look at the disk")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, str(error.orig))
    advice = {
        "SQLITE_READONLY": "it or its folder cannot be written: check owner and permissions",
        "SQLITE_CANTOPEN": "it cannot be opened: check owner and permissions of the folder",
    }
    for prefix, text in advice.items():
        if name.startswith(prefix):
            return StoreDiskError(f"the database {path} cannot be used: {text}")
    return StoreError(f"the database {path} cannot be used: {error.orig}")


def refuse_network(directory: Path, mounts: str) -> None:
    """Raise when `directory` lies on a network file system.

    Raises
    ------
    StoreError
        It does; the message names the mount.
    """
    network = network_of(directory, mounts)
    if network is not None:
        mount, kind = network
        raise StoreError(
            f"the state directory {directory} is on a network file system ({kind}, mounted at {mount}), where the "
            "database would be damaged; set state_directory to a folder on a local disk"
        )
