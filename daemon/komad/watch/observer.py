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
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyFullEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD

from komad.mounts import network_of, read_mounts

logger = structlog.get_logger(__name__)

Hint = Callable[[int, str, bool], None]
"""Called with (index of the folder, path, whether it was renamed to this name), from another thread."""


APPEARANCES = [FileCreatedEvent, FileClosedEvent, FileMovedEvent]
"""All that the kernel is asked for: its queue is short, and reading and writing a movie makes thousands of others."""


class _Handler(FileSystemEventHandler):
    """Passes on appearances."""

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


class _Queue(InotifyFD):
    """The kernel's queue of events, with a word when it was too short and some were lost."""

    def __init__(self, overflowed: Callable[[], None]) -> None:
        super().__init__()
        self._overflowed = overflowed

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow:
            self._overflowed()


class _Inotify(InotifyObserver):
    """watchdog's observer with our queue, and full events: a file moved in from outside is moved, not created."""

    def __init__(self, overflowed: Callable[[], None]) -> None:
        self._inotify_fd = _Queue(overflowed)
        self._inotify_fd.start()
        BaseObserver.__init__(self, InotifyFullEmitter, inotify_fd=self._inotify_fd)


class Observer:
    """Events of several folders. Where none come (network, limits of the system) it says so and goes on.

    `overflowed` is called, from another thread, when the kernel had to drop events.
    """

    def __init__(self, hint: Hint, overflowed: Callable[[], None]) -> None:
        self._hint = hint
        self._overflowed = overflowed
        self._observer: _Inotify | None = None
        self._watches: dict[int, ObservedWatch] = {}

    def stop(self) -> None:
        """Stop and wait for the threads."""
        self._watches.clear()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def follow(self, folder: int, directory: Path, *, recursive: bool) -> str:
        """Ask for a folder's events; again after it was away, for then the old watch is dead.

        Gives '', or why none will come.
        """
        watch = self._watches.pop(folder, None)
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)
        network = network_of(directory, read_mounts())
        if network is not None:
            mount, kind = network
            return f"{mount} is a network file system ({kind}): what other computers write is not announced"
        try:
            if self._observer is None:
                self._observer = _started(self._overflowed)
            self._watches[folder] = self._observer.schedule(
                _Handler(folder, self._hint), str(directory), recursive=recursive, event_filter=APPEARANCES
            )
        except OSError as error:
            return (
                f"{error.strerror or error}: raise fs.inotify.max_user_watches and max_user_instances, or set "
                "watching.use_events = false"
            )
        return ""


def _started(overflowed: Callable[[], None]) -> _Inotify:
    observer = _Inotify(overflowed)
    observer.start()
    return observer
