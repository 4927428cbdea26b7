"""Room where results are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

GIGABYTE = 1e9


def shortage(directories: Iterable[Path], *, min_free_gb: float) -> str:
    """Say which directory has less than `min_free_gb` GB free or cannot be looked at; '' when all is well."""
    for directory in dict.fromkeys(directories):
        try:
            free_gb = shutil.disk_usage(_existing(directory)).free / GIGABYTE
        except OSError as error:
            return f"disk: {directory} is out of reach ({error.strerror}); jobs go on when it is back"
        if free_gb < min_free_gb:
            return (
                f"disk: {free_gb:.1f} GB free for {directory}, {min_free_gb:g} GB are wanted (output.min_free_gb); "
                "make room, jobs then go on by themselves"
            )
    return ""


def _existing(directory: Path) -> Path:
    """Nearest parent that is there: the directory is made when it is first written to."""
    return next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))
