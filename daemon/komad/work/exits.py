"""How a worker process ended."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit status of a worker; a negative one is a signal."""

    STOPPED = 0
    """As asked."""
    BROKEN = 1
    """Something in the program or the database failed; the log says what."""
    BAD_DEVICE = 3
    """The device failed its probe; the job is not to blame."""
    LOST = 4
    """The supervisor had declared it lost."""
