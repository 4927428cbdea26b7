"""The state directory: one komad at a time, and nobody else's business."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from komad.errors import AlreadyRunningError, StoreError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the state directory; the kernel lets go of it however we end."""
    path = directory / "komad.lock"
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = path.open("a+", encoding="ascii")
    except OSError as error:
        raise StoreError(f"cannot use the state directory {directory}: {error.strerror} ({path})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise AlreadyRunningError(
                f"another komad (pid {pid}) works with the state directory {directory}; stop it first "
                f"(systemctl stop komad, or kill {pid}), or set another state_directory"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def close_to_others(directory: Path) -> None:
    """Leave the state directory and its database to our user and, for reading, to our group."""
    try:
        for path in (directory, *directory.glob("komad.sqlite*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            allowed = 0o7750 if path == directory else 0o640
            if mode & ~allowed:
                path.chmod(mode & allowed)
    except OSError as error:
        raise StoreError(
            f"cannot use the state directory {directory}: {error.strerror} ({error.filename}); check its owner"
        ) from error
