"""Room where results are written, and folders that are lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

GIGABYTE = 1e9


def shortage(directories: Iterable[Path], *, min_free_gb: float) -> str:
    """Say which directory has less than `min_free_gb` GB free or cannot be used; '' when all is well."""
    for directory in dict.fromkeys(directories):
        try:
            existing = _existing(directory)
            free_gb = shutil.disk_usage(existing).free / GIGABYTE
        except OSError as error:
            return f"disk: {directory} is out of reach ({error.strerror}); jobs go on when it is back"
        if not os.access(existing, os.W_OK | os.X_OK):
            return (
                f"disk: {directory} cannot be written: it is mounted read-only, or komad's user may not; "
                "jobs go on when it can"
            )
        if free_gb < min_free_gb:
            return (
                f"disk: {free_gb:.1f} GB free for {directory}, {min_free_gb:g} GB are wanted (output.min_free_gb); "
                "make room, jobs then go on by themselves"
            )
    return ""


def absence(folder: Path) -> str:
    """Say why a watched folder as a whole cannot be read; '' when something is in it."""
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is not None:
                return ""
    except OSError as error:
        return f"{folder} is out of reach ({error.strerror}); jobs go on when it is back"
    return f"{folder} is empty, as when it is not mounted; jobs go on when it is back"


def _existing(directory: Path) -> Path:
    """Nearest parent that is there: the directory is made when it is first written to."""
    return next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))
