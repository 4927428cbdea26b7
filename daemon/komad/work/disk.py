"""Room where results are written, and folders that are lost."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from komad.store.growth import Growth, Role

GIGABYTE = 1e9
WARN_HOURS = (12.0, 2.0)
"""So long before a volume is full the log says so."""
N_BEFORE_RESUMING = 10
"""Movies that have to have room before claims go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A file system that komad writes to."""

    directories: tuple[Path, ...]
    """Our folders on it."""
    roles: tuple[Role, ...]
    free_bytes: float


def volumes(directories: Mapping[Role, Path]) -> list[Volume]:
    """File systems of our folders, each once; one that is out of reach is left out."""
    found: dict[int, Volume] = {}
    for role, directory in directories.items():
        try:
            existing = _existing(directory)
            device, free_bytes = existing.stat().st_dev, shutil.disk_usage(existing).free
        except OSError:
            continue
        before = found.get(device, Volume(directories=(), roles=(), free_bytes=free_bytes))
        folders = tuple(dict.fromkeys((*before.directories, directory)))
        found[device] = Volume(directories=folders, roles=(*before.roles, role), free_bytes=free_bytes)
    return list(found.values())


def reserve_bytes(
    volume: Volume, growth: Growth, *, min_free_gb: float, n_workers: int, paused: bool
) -> float:
    """Bytes that must be free before another movie is begun.

    `min_free_gb`; what the movies in hand are going to write; and the next one of each worker. While claims are paused,
    ten movies and a tenth of `min_free_gb` more, so that they do not stop and go with each movie that is removed.
    """
    n_next = n_workers + (N_BEFORE_RESUMING if paused else 0)
    limit = GIGABYTE * min_free_gb * (1.1 if paused else 1.0)
    return limit + growth.expected(volume.roles, n_next)


def low(volume: Volume, growth: Growth, *, min_free_gb: float, n_workers: int, paused: bool) -> str:
    """Say that a volume has no room for another movie; '' when it has."""
    wanted = reserve_bytes(volume, growth, min_free_gb=min_free_gb, n_workers=n_workers, paused=paused)
    if volume.free_bytes >= wanted:
        return ""
    places = ", ".join(map(str, volume.directories))
    until = reserve_bytes(volume, growth, min_free_gb=min_free_gb, n_workers=n_workers, paused=True)
    return (
        f"disk: {volume.free_bytes / GIGABYTE:.1f} GB free for {places}; output.min_free_gb ({min_free_gb:g}) and what "
        f"the movies in hand write have to stay free: make room, jobs go on by themselves from "
        f"{until / GIGABYTE:.1f} GB on"
    )


class Forecast:
    """Says before a volume is full, once for each of `WARN_HOURS`."""

    def __init__(self) -> None:
        self._told: dict[tuple[Path, ...], float] = {}

    def look(self, volume: Volume, growth: Growth, *, min_free_gb: float) -> tuple[float, bool] | None:
        """(hours until no movie is begun any more, whether that is news); None when nothing is written."""
        per_hour = growth.per_hour(volume.roles)
        if per_hour <= 0:
            return None
        hours = max(0.0, volume.free_bytes - GIGABYTE * min_free_gb) / per_hour
        told = self._told.get(volume.directories, math.inf)
        step = min((limit for limit in WARN_HOURS if hours < limit), default=math.inf)
        if step < told:
            self._told[volume.directories] = step
        elif hours > 1.5 * told:
            self._told[volume.directories] = math.inf
        return hours, step < told


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
