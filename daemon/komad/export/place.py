"""Links and copies under names that others expect; what is there and is not ours stays as it is."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from komad.errors import OutputError
from komad.formats.atomic import TEMPORARY_PREFIX, atomic_file, explained, make_directory
from komad.formats.images import is_foreign

NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def put(source: Path, target: Path, *, copy: bool) -> bool:
    """Make `target` a link to `source`, or a copy of it; gives whether anything had to be done.

    A link is relative where both lie on one file system, so that the whole tree can be moved or mounted elsewhere;
    else absolute. What was put there before stays, a link that leads nowhere is replaced.

    Raises
    ------
    OutputError
        Something else has this name, or it cannot be written.
    DiskFullError
        No space is left for a copy.
    """
    make_directory(target.parent)
    if target.is_symlink() and not copy and _leads_to(target, source):
        return False
    if os.path.lexists(target) and not _may_replace(source, target, copy=copy):
        if _same_file(source, target):
            return False
        raise OutputError(
            f"{target} is there already and is not what komad would put there; it is kept: move it away, or export to "
            "another place"
        )
    try:
        if copy:
            _copy(source, target)
        else:
            _link(source, target)
    except OSError as error:
        if not copy and error.errno in NO_LINKS:
            raise OutputError(f"cannot link {target}: its file system keeps no links; add --copy") from error
        raise explained(target, error) from error
    return True


def take_back(source: Path, target: Path) -> None:
    """Remove what `put` put there, a link or a copy, while its source is there; anything else stays.

    Raises
    ------
    OutputError
        It cannot be removed.
    """
    is_ours = _leads_to(target, source) if target.is_symlink() else _same_file(source, target)
    if is_ours and source.is_file():
        try:
            target.unlink()
        except OSError as error:
            raise explained(target, error) from error


def _leads_to(link: Path, source: Path) -> bool:
    return os.path.normpath(link.parent.resolve() / link.readlink()) == str(_whole(source))


def _whole(source: Path) -> Path:
    """The path without links to folders; the file itself may be a link, which stays one."""
    return source.parent.resolve() / source.name


def _may_replace(source: Path, target: Path, *, copy: bool) -> bool:
    if target.is_symlink():
        return not target.exists() or (copy and _leads_to(target, source))
    # A copy of a picture that was made anew.
    return copy and not _same_file(source, target) and target.suffix == ".mrc" and not is_foreign(target)


def _same_file(source: Path, target: Path) -> bool:
    """Whether a copy is still one: copies have the time of their source."""
    try:
        ours, theirs = source.stat(), target.stat()
    except OSError:
        return False
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)
        status = source.stat()
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(source: Path, target: Path) -> None:
    whole, folder = _whole(source), target.parent.resolve()
    is_alike = whole.parent.stat().st_dev == folder.stat().st_dev
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    temporary.symlink_to(os.path.relpath(whole, folder) if is_alike else whole)
    temporary.replace(target)
