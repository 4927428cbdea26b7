"""Space that is kept for the database and given back to it when its disk is full.

Why a file and not a limit: a limit is looked at every few seconds, and other programs write to the same disk between
two looks. The file is ours alone. It is larger than the write-ahead log gets (`LOG_BYTES`) and what is entered of the
jobs in hand; so when every other byte is taken, these jobs still end in order, and nothing new is begun.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

NAME = "ballast"
LOG_BYTES = 16 * 2**20
"""The write-ahead log is cut to this when it was copied into the database."""
BALLAST_BYTES = 2 * LOG_BYTES


def lay(state_directory: Path) -> bool:
    """Make the file if it is missing and there is ample room; tells whether it is there."""
    path = state_directory / NAME
    with suppress(OSError):
        if path.stat().st_size == BALLAST_BYTES:
            return True
        path.unlink()
    try:
        if shutil.disk_usage(state_directory).free < 4 * BALLAST_BYTES:
            return False
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
    except OSError:
        drop(state_directory)
        return False
    finally:
        os.close(descriptor)
    return True


def drop(state_directory: Path) -> bool:
    """Give the space back; tells whether there was any."""
    try:
        (state_directory / NAME).unlink()
    except OSError:
        return False
    return True
