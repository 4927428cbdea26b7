"""When is a file finished? The decision, pure: no clock of its own, no file system.

A file counts as settled when it was renamed into place, or when size, mtime and ctime were the same in two looks
that lie at least one sweep interval apart on our own monotonic clock. Times of the file are compared with each
other only, never with now: the camera computer's clock is its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What one look at a file showed."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A file that is being watched until it is finished."""

    seen: Observation
    since_s: float
    """Our clock when the file was first seen as it is now."""
    renamed: bool = False
    """It came here under a finished name by a rename, and has not changed since."""
    reported: bool = False
    """It was reported as unreadable, and has not changed since."""
    trouble: str = ""
    """What went wrong when it was last handed over."""


def observe(earlier: Waiting | None, seen: Observation, *, now_s: float, renamed: bool = False) -> Waiting:
    """Take one more look at a file into account. Any change starts the wait anew."""
    if earlier is not None and earlier.seen == seen:
        return replace(earlier, renamed=True) if renamed else earlier
    return Waiting(seen=seen, since_s=now_s, renamed=renamed)


def is_settled(waiting: Waiting, *, now_s: float, interval_s: float) -> bool:
    """Tell whether the file has stopped changing, as far as watching can know."""
    return waiting.renamed or now_s - waiting.since_s >= interval_s
