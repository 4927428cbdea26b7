"""Files that are complete or absent (temporary name, fsync, replace, fsync of the folder), or grow. Whose they are."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from komad.errors import DiskFullError, OutputError, OutputLostError

TEMPORARY_PREFIX = ".komad-"
"""Start of temporary names: the leading dot hides them from globs and watchers."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""No room is left: it goes on when some is made."""
LOST = frozenset(
    {
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    }
)
"""The disk, or the way to it, is at fault and not what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """Whose files and new folders are; what is None is as the umask and the folder give it."""

    gid: int | None = None
    file_mode: int | None = None
    directory_mode: int | None = None


_shared: dict[Path, Sharing] = {}
"""By folder; holds for this process and all that it writes below."""


def share(directory: Path, sharing: Sharing) -> None:
    """Say whose files and folders are that this process makes in `directory` and below."""
    _shared[directory] = sharing


def apply_sharing(descriptor: int, path: Path) -> None:
    """Give an open new file or folder to its group, with the permissions that `share` told for `path`.

    Raises
    ------
    OSError
        The process is not in the group, or the file system keeps no groups or permissions.
    """
    sharing = next((_shared[place] for place in (path, *path.parents) if place in _shared), None)
    if sharing is None:
        return
    status = os.fstat(descriptor)
    if sharing.gid is not None and status.st_gid != sharing.gid:
        os.fchown(descriptor, -1, sharing.gid)
    if stat.S_ISDIR(status.st_mode):
        if sharing.directory_mode is not None:  # a folder in a setgid folder stays one
            os.fchmod(descriptor, sharing.directory_mode | status.st_mode & stat.S_ISGID)
    elif sharing.file_mode is not None:
        os.fchmod(descriptor, sharing.file_mode)


def make_directory(path: Path) -> None:
    """Make a folder with all above it that are missing, each shared as `path` is. Errors as `atomic_file`."""
    try:
        missing = [place for place in (path, *path.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                apply_sharing(descriptor, path)
            finally:
                os.close(descriptor)
        if not missing:
            path.mkdir(exist_ok=True)  # raises when it is no folder
    except OSError as error:
        problem = explained(path, error)
        if isinstance(problem, DiskFullError):
            raise problem from error
        raise type(problem)(
            f"cannot make the folder {path}: {error.strerror or error}; check that it is mounted, and that neither it "
            "nor a folder above it is a file"
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give an empty temporary file beside `path` to write to; it becomes `path` when the block ends well.

    After any error in the block, or a crash, `path` is what it was before. When two write the same path, the last one
    wins as a whole.

    Raises
    ------
    DiskFullError
        No space or quota is left.
    OutputLostError
        The disk gives errors, is read-only, or its file system is lost.
    OutputError
        The folder is missing, or anything else.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise explained(path, error) from error
    try:
        _mark_in_use(descriptor)
        apply_sharing(descriptor, path)
        yield temporary
        os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explained(path, error) from error
        raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically. Errors as `atomic_file`."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically. Errors as `atomic_file`."""
    write_bytes(path, text.encode())


def append(path: Path, data: bytes) -> None:
    """Add `data` to a file with one write and make it durable; a file that is missing is made.

    Only one process may do so at a time. After any error the file is as long as before. Errors as `atomic_file`.
    """
    try:
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                if not before:
                    apply_sharing(file.fileno(), path)
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        if not before:
            sync_folder(path.parent)
    except OSError as error:
        raise explained(path, error) from error


def remove_leftovers(directory: Path) -> int:
    """Remove temporary files that a crash left in `directory`; those being written now stay. Gives their number."""
    removed = 0
    for leftover in directory.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                leftover.unlink()
                removed += 1
            finally:
                os.close(descriptor)
    return removed


def _mark_in_use(descriptor: int) -> None:
    # The kernel drops the lock when the writer dies. File systems without locks keep their leftovers.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)


def explained(path: Path, error: OSError) -> DiskFullError | OutputError:
    """What it means that `path` cannot be written, and who is to blame: the disk, or this one file."""
    if error.errno in FULL:
        return DiskFullError(f"cannot write {path}: {error.strerror}; free space in {path.parent}")
    place = (
        "" if error.filename is None or Path(error.filename).parent == path.parent else f" ({error.filename})"
    )
    kind = OutputLostError if error.errno in LOST else OutputError
    return kind(f"cannot write {path}: {error.strerror or error}{place}")
