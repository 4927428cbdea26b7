"""File system events, as hints that shorten the wait. Nothing is lost where none arrive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import structlog
from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver

logger = structlog.get_logger(__name__)

Hint = Callable[[int, str, bool], None]
"""Called with (index of the folder, path, whether it was renamed to this name), from another thread."""


class _Handler(FileSystemEventHandler):
    """Passes on appearances only: a file that is being written says `modified` thousands of times."""

    def __init__(self, folder: int, hint: Hint) -> None:
        self._folder = folder
        self._hint = hint

    def on_created(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileCreatedEvent):
            self._hint(self._folder, os.fsdecode(event.src_path), False)

    def on_closed(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileClosedEvent):
            self._hint(self._folder, os.fsdecode(event.src_path), False)

    def on_moved(self, event: FileSystemEvent) -> None:
        # An empty destination: moved out of the folder.
        if isinstance(event, FileMovedEvent) and event.dest_path:
            self._hint(self._folder, os.fsdecode(event.dest_path), True)


class Observer:
    """Events of several folders. Where the system gives none (its limits are reached) it says so and goes on."""

    def __init__(self, hint: Hint) -> None:
        self._hint = hint
        self._observer: InotifyObserver | None = None
        self._watches: dict[int, ObservedWatch] = {}

    def start(self) -> None:
        """Start the threads; no folder is followed yet."""
        try:
            # Full events: a file moved in from outside the folder is reported as moved, not as created.
            observer = InotifyObserver(generate_full_events=True)
            observer.start()
        except OSError as error:
            _warn("all", error)
        else:
            self._observer = observer

    def stop(self) -> None:
        """Stop and wait for the threads."""
        self._watches.clear()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def follow(self, folder: int, directory: Path, *, recursive: bool) -> None:
        """Ask for a folder's events; again after it was away, for then the old watch is dead."""
        if self._observer is None:
            return
        watch = self._watches.pop(folder, None)
        if watch is not None:
            self._observer.unschedule(watch)
        handler = _Handler(folder, self._hint)
        try:
            self._watches[folder] = self._observer.schedule(handler, str(directory), recursive=recursive)
        except OSError as error:
            _warn(str(directory), error)


def _warn(folder: str, error: OSError) -> None:
    logger.warning(
        "no file system events, sweeping only",
        folder=folder,
        reason=error.strerror or str(error),
        advice="raise fs.inotify.max_user_watches and max_user_instances, or set watching.use_events = false",
    )
