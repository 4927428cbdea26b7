"""The points at which a process leaves something behind: counted, written down, and one of them kills it.

A point is an operation on a file (made, synced, put in place, removed) or a commit that changed the database, with the
file or the function it is of and how often it came so far: "replace a.mrc 1", "commit finish 2". The threads of a
worker reach them in any order; their names are the same in every run.

CRASH_POINTS is a file that gets a line for each. CRASH_AT is "before|replace a.mrc 1": the first process that comes
there makes the file CRASH_DONE and sends itself CRASH_SIGNAL (SIGKILL if there is none), later ones go on.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from komad.formats.atomic import TEMPORARY_PREFIX

OF_OTHERS = "numba"
"""What stands for files that numba writes, as it likes."""

real_open = os.open


class Points:
    """Counts what this process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._changes: dict[int, int] = {}
        self._list = os.environ.get("CRASH_POINTS")
        self._at = os.environ.get("CRASH_AT")

    def pass_by(self, name: str, work: Callable[[], Any]) -> Any:
        """Do what leaves something behind, unless the process ends before or after it."""
        if name.endswith(f" {OF_OTHERS}"):
            return work()
        with self._lock:
            self._counts[name] += 1
            point = f"{name} {self._counts[name]}"
        if self._list:
            _append(self._list, point)
        self._end_if_told(f"before|{point}")
        result = work()
        self._end_if_told(f"after|{point}")
        return result

    def commit(self, dialect: DefaultDialect, connection: Any) -> None:
        """Commit; one that changed nothing is no point."""
        database: sqlite3.Connection = connection.dbapi_connection
        before = self._changes.get(id(database), 0)
        self._changes[id(database)] = database.total_changes
        if database.total_changes == before:
            real_commit(dialect, connection)
        else:
            self.pass_by(f"commit {_who_commits()}", lambda: real_commit(dialect, connection))

    def _end_if_told(self, moment: str) -> None:
        if moment != self._at:
            return
        with suppress(FileExistsError):
            os.close(real_open(os.environ["CRASH_DONE"], os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.Signals[os.environ.get("CRASH_SIGNAL", "SIGKILL")])


real_commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit


def install() -> None:
    """Put the counting in the way of all that this process does from now on."""
    points = Points()
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def counted_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if not flags & os.O_EXCL:
            return real_open(path, flags, *arguments, **options)
        descriptor: int = points.pass_by(
            f"make {_label(path)}", lambda: real_open(path, flags, *arguments, **options)
        )
        return descriptor

    def counted_unlink(path: Any, **options: Any) -> None:
        if os.path.lexists(path):
            points.pass_by(f"unlink {_label(path)}", lambda: unlink(path, **options))
        else:
            unlink(path, **options)

    patched: Any = os
    patched.open = counted_open
    patched.unlink = patched.remove = counted_unlink
    patched.fsync = lambda file: points.pass_by(
        f"fsync {_label(Path(f'/proc/self/fd/{file}').readlink())}", lambda: fsync(file)
    )
    patched.replace = lambda source, target: points.pass_by(
        f"replace {_label(target)}", lambda: replace(source, target)
    )

    def counted_commit(self: DefaultDialect, connection: Any) -> None:
        points.commit(self, connection)

    dialect: Any = DefaultDialect
    dialect.do_commit = counted_commit


def _label(path: str | Path) -> str:
    """Name of a file; of a temporary one what is the same in every run."""
    path = Path(path)
    if "numba-cache" in path.resolve().parts:
        return OF_OTHERS
    return f"temporary{path.suffix}" if path.name.startswith(TEMPORARY_PREFIX) else path.name


def _who_commits() -> str:
    """Name of the function of `komad.store` that commits."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        if module.startswith("komad.store.") and module != "komad.store.database":
            return frame.f_code.co_name
    return "unknown"


def _append(path: str, line: str) -> None:
    descriptor = real_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
