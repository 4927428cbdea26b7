"""The watcher's thread: sweeps, hints, and what happens to each file on its way to being a candidate."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import structlog

from komad.config import WatchFolder, Watching
from komad.errors import KomadError, MovieError
from komad.model import Candidate
from komad.watch.observer import Observer
from komad.watch.settle import Observation, Waiting, is_settled, observe
from komad.watch.sweep import KnownFiles, Selection, is_text, look, sweep

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderStatus:
    """A watched folder as of the last sweep."""

    directory: Path
    reachable: bool
    error: str
    """Why the folder or something in it could not be looked at; empty when all is well."""
    waiting: int
    """Files that are not finished yet."""
    unreadable: int
    """Files that were reported as unreadable and have not changed since."""


class Watcher:
    """Watches folders and hands over each finished movie once.

    Parameters
    ----------
    folders, watching
        The `[[watch]]` and `[watching]` settings.
    known
        Files taken in earlier runs, as (path, size, mtime in ns).
    check_complete
        Returns when a container is structurally complete, else raises: an error with `retry` (truncated,
        missing) means wait, any other that the file is no movie.
    on_candidate
        Takes a finished movie. When it raises, the file is offered again in the next sweep.
    on_unreadable
        Told once of a file that is no movie, or that stayed incomplete for `watching.give_up_s`; again only
        when the file has changed.
    clock
        Monotonic seconds.

    Notes
    -----
    The callbacks run in the watcher's thread. A folder that goes away is waited for; nothing is forgotten.
    """

    def __init__(
        self,
        folders: Sequence[WatchFolder],
        watching: Watching,
        *,
        known: Iterable[tuple[str, int, int]],
        check_complete: Callable[[Path], None],
        on_candidate: Callable[[Candidate], None],
        on_unreadable: Callable[[Candidate, KomadError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = tuple(folders)
        self._watching = watching
        self._known = KnownFiles(known)
        self._check_complete = check_complete
        self._on_candidate = on_candidate
        self._on_unreadable = on_unreadable
        self._clock = clock
        leave_out = [folder.directory for folder in folders]
        for folder in folders:
            references = folder.references
            leave_out += [path for path in (references.gain, references.dark, references.defects) if path]
        self._selections = [Selection(folder, leave_out) for folder in folders]
        self._waiting: list[dict[str, Waiting]] = [{} for _ in folders]
        self._status = [
            FolderStatus(
                directory=folder.directory,
                reachable=False,
                error="not looked at yet",
                waiting=0,
                unreadable=0,
            )
            for folder in folders
        ]
        self._identity: list[tuple[int, int] | None] = [None] * len(self._folders)
        self._turn = 0
        self._last_sweep = clock()
        self._hints: queue.SimpleQueue[tuple[int, str, bool] | None] = queue.SimpleQueue()
        self._observer = Observer(lambda folder, path, renamed: self._hints.put((folder, path, renamed)))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="komad-watcher", daemon=True)

    @property
    def last_sweep(self) -> float:
        """When the watcher last got on, by `clock`: the end of a sweep, or of one file in a long one."""
        return self._last_sweep

    def status(self) -> tuple[FolderStatus, ...]:
        """Return how each folder stood at the last sweep, in the order of the configuration."""
        return tuple(self._status)

    def start(self) -> None:
        """Start watching; files that lie there already are found too."""
        if self._watching.use_events:
            self._observer.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop after the file in hand; returns when no callback runs any more."""
        self._stopping.set()
        self._hints.put(None)
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        self._observer.stop()

    def sweep(self) -> None:
        """Look at every folder once."""
        for index in range(len(self._folders)):
            if not self._stopping.is_set():
                self._sweep_folder(index)
        self._turn += 1
        self._last_sweep = self._clock()

    def _run(self) -> None:
        next_sweep = self._clock()
        while not self._stopping.is_set():
            if self._clock() >= next_sweep:
                try:
                    self.sweep()
                except (
                    Exception
                ):  # the rest of the session must not go unseen; `last_sweep` stands still meanwhile
                    logger.exception("sweep failed, trying again")
                next_sweep = self._clock() + self._watching.sweep_interval_s
            try:
                hint = self._hints.get(timeout=max(0.0, next_sweep - self._clock()))
            except queue.Empty:
                continue
            if hint is not None:
                try:
                    self.hint(*hint)
                except Exception:  # a hint is not worth the session: the sweep finds the file
                    logger.exception("event dropped", path=hint[1])

    def hint(self, index: int, path: str, renamed: bool) -> None:
        """Look at one file of which an event told."""
        if not is_text(path) or not self._selections[index].covers(path):
            return
        try:
            seen = look(path)
        except OSError:
            return  # Gone again, or out of reach: the sweep tells.
        if not self._known.has(path, seen):
            self._consider(index, path, seen, renamed=renamed)

    def _sweep_folder(self, index: int) -> None:
        waiting = self._waiting[index]
        found = sweep(self._selections[index], self._known, turn=self._turn, waiting=waiting)
        root = str(self._folders[index].directory)
        self._follow(index, None if root in found.errors else _identity(self._folders[index].directory))
        if not found.errors:
            for path in waiting.keys() - found.files.keys():
                del waiting[path]
        # Oldest first: the order in which they were taken is the order that neighbours are found in.
        for path, seen in sorted(found.files.items(), key=lambda item: (item[1].mtime_ns, item[0])):
            if self._stopping.is_set():
                break
            self._consider(index, path, seen)
        error = _summary(found.errors)
        if error and root not in found.errors and error != self._status[index].error:
            logger.warning("part of a watched folder cannot be looked at", folder=root, error=error)
        self._status[index] = FolderStatus(
            directory=self._folders[index].directory,
            reachable=root not in found.errors,
            error=error,
            waiting=sum(not file.reported for file in waiting.values()),
            unreadable=sum(file.reported for file in waiting.values()),
        )

    def _follow(self, index: int, identity: tuple[int, int] | None) -> None:
        """Ask for events when a folder appears, comes back, or is another one than before (mounted anew)."""
        if identity == self._identity[index]:
            return
        self._identity[index] = identity
        folder = self._folders[index]
        if identity is None:
            logger.warning("watched folder is out of reach, waiting for it", folder=str(folder.directory))
        else:
            logger.info("watching", folder=str(folder.directory))
            self._observer.follow(index, folder.directory, recursive=folder.recursive)

    def _consider(self, index: int, path: str, seen: Observation, *, renamed: bool = False) -> None:
        """Take one more look into account, and hand the file over when it is finished."""
        now_s = self._clock()
        waiting = observe(self._waiting[index].get(path), seen, now_s=now_s, renamed=renamed)
        self._waiting[index][path] = waiting
        settled = is_settled(waiting, now_s=now_s, interval_s=self._watching.sweep_interval_s)
        if waiting.reported or not settled:
            return
        candidate = Candidate(
            path=Path(path), size_bytes=seen.size_bytes, mtime_ns=seen.mtime_ns, folder=index
        )
        try:
            problem = self._problem(candidate.path)
            if problem is None:
                self._on_candidate(candidate)
                self._known.add(path, seen.size_bytes, seen.mtime_ns)
                del self._waiting[index][path]
            elif not problem.retry or now_s - waiting.since_s >= self._watching.give_up_s:
                self._on_unreadable(candidate, problem)
                self._waiting[index][path] = replace(waiting, reported=True)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the file stays and is offered again
            trouble = f"{type(error).__name__}: {error}"
            if trouble != waiting.trouble:
                logger.warning("movie not taken, trying again", path=path, error=trouble)
            self._waiting[index][path] = replace(waiting, trouble=trouble)
        self._last_sweep = self._clock()

    def _problem(self, path: Path) -> KomadError | None:
        """Say what is wrong with a settled file; an error that a retry can help is one that may pass."""
        try:
            self._check_complete(path)
        except KomadError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a file that no reader foresaw must not end the session
            return MovieError(f"{path}: cannot be read ({type(error).__name__}: {error})")
        return None


def _summary(errors: Mapping[str, str]) -> str:
    """Put errors into one line: three of them, and how many more there are."""
    named = "; ".join(f"{place}: {reason}" for place, reason in islice(errors.items(), 3))
    return f"{named}; and {len(errors) - 3} more" if len(errors) > 3 else named


def _identity(directory: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; None when it is out of reach."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)
