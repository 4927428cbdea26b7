"""Where results go: proven by a file that is written there, and held by one komad at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import structlog

from komad.errors import AlreadyRunningError, OutputError
from komad.formats.atomic import TEMPORARY_PREFIX, apply_sharing, atomic_file, make_directory

logger = structlog.get_logger(__name__)

LOCK = ".komad.lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}


class HeldElsewhereError(AlreadyRunningError):
    """A komad on another computer holds the folder, or a server has not noticed yet that it is gone."""


def prove_writable(directory: Path) -> None:
    """Make a folder where it is missing, and a file in it, which is removed again.

    Raises
    ------
    OutputError, DiskFullError
        One of them cannot be made.
    """
    try:
        make_directory(directory)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {directory}: {error.strerror} ({error.filename})"
        ) from error
    proof = directory / f"{TEMPORARY_PREFIX}proof-{os.getpid()}"
    with atomic_file(proof) as temporary:
        temporary.write_bytes(b"komad can write here\n")
    with suppress(OSError):
        proof.unlink()


def hold(directory: Path, *, state_directory: Path) -> TextIO:
    """Let no second komad write to an output folder: two would write over each other's indices.

    The kernel lets go when the file that is given back is closed, or the process ends. A file system that keeps no
    locks cannot hold anything: the log says so.

    Raises
    ------
    AlreadyRunningError
        Another komad holds it; `HeldElsewhereError` when that is on another computer.
    OutputError
        The lock file cannot be written.
    """
    path = directory / LOCK
    try:
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    try:
        _take(lock, path, state_directory)
    except BaseException:
        lock.close()
        raise
    return lock


def _take(lock: TextIO, path: Path, state_directory: Path) -> None:
    host = socket.gethostname()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            logger.warning(
                "no locks here: see to it that no second komad writes to it", folder=str(path.parent)
            )
            return
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise OutputError(f"cannot lock {path}: {error.strerror}") from error
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        kind = AlreadyRunningError if holder.startswith(f"{host} ") else HeldElsewhereError
        raise kind(
            f"another komad ({holder}) writes to the output directory {path.parent}: stop it, or set another "
            "output.directory"
        ) from None
    with suppress(OSError):  # who holds it is for people
        apply_sharing(lock.fileno(), path)
        lock.truncate(0)
        lock.write(f"{host} pid {os.getpid()}, state directory {state_directory}\n")
        lock.flush()
