"""Looks at folders without waiting for file systems that do not answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A folder that the session reads from or writes to."""

    role: str
    """watch, output, archive or state."""
    path: Path
    reachable: bool
    free_bytes: int | None = None
    device: int | None = None
    """Equal for folders on the same file system."""


def look(folders: Iterable[tuple[str, Path]], *, timeout_s: float = 0.5) -> tuple[Place, ...]:
    """Ask each (role, path) for its free space; one that does not answer in time counts as unreachable.

    A folder that komad will make itself counts as reachable when the folder above it is there. Each question has its
    own thread, because a lost network mount blocks whoever touches it, for minutes.
    """
    found: dict[int, Place] = {}
    pending = []
    wanted = list(folders)
    for index, (role, path) in enumerate(wanted):

        def ask(index: int = index, role: str = role, path: Path = path) -> None:
            found[index] = _ask(role, path)

        thread = threading.Thread(target=ask, daemon=True, name=f"komad-look-{index}")
        thread.start()
        pending.append(thread)
    for thread in pending:
        thread.join(timeout_s)
    return tuple(
        found.get(index, Place(role=role, path=path, reachable=False))
        for index, (role, path) in enumerate(wanted)
    )


def _ask(role: str, path: Path) -> Place:
    try:
        there = path if role == "watch" or path.exists() else path.parent
        usage = os.statvfs(there)
        return Place(
            role=role,
            path=path,
            reachable=True,
            free_bytes=usage.f_bavail * usage.f_frsize,
            device=there.stat().st_dev,
        )
    except OSError:
        return Place(role=role, path=path, reachable=False)
