"""The watcher's thread: sweeps, hints, and what happens to each file on its way to being a candidate."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import structlog

from komad.config import WatchFolder, Watching
from komad.errors import KomadError, MovieError, MovieMissingError, MovieShortError
from komad.formats.frame_files import check_count
from komad.model import Candidate
from komad.watch.observer import Observer
from komad.watch.settle import Observation, Waiting, is_settled, observe
from komad.watch.sweep import KnownFiles, Selection, is_text, look, sweep

logger = structlog.get_logger(__name__)


SHARE_OF_TIME = 0.2
"""Looking at a folder takes no more than this part of the time: a sweep over a slow network may take minutes."""
LONGEST_PAUSE_S = 120.0
"""But a folder is looked at again after this time."""
LONGEST_REST_S = 0.02
"""After each movie that was taken in a sweep."""
N_LOOKED_AT_AGAIN = 100
"""In such a pause so many of the files that are not finished yet are looked at in every interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderStatus:
    """A watched folder as of the last sweep."""

    directory: Path
    reachable: bool
    error: str
    """Why the folder or something in it could not be looked at; empty when all is well."""
    no_events: str
    """Why only sweeps find its files; empty when events announce them."""
    waiting: int
    """Files that are not finished yet."""
    unreadable: int
    """Files that were reported as unreadable and have not changed since."""
    sweep_s: float
    """How long the look took."""
    pause_s: float
    """Until the next one."""


class _Folder:
    """What the watcher knows of a folder."""

    def __init__(self, index: int, settings: WatchFolder, leave_out: Iterable[Path]) -> None:
        self.index = index
        self.settings = settings
        self.selection = Selection(settings, leave_out)
        self.waiting: dict[str, Waiting] = {}
        self.identity: tuple[int, int] | None = None
        self.no_events = ""
        self.turn = 0
        self.due_s = -math.inf
        self.status = FolderStatus(
            directory=settings.directory,
            reachable=False,
            error="not looked at yet",
            no_events="",
            waiting=0,
            unreadable=0,
            sweep_s=0.0,
            pause_s=0.0,
        )


class Watcher:
    """Watches folders and hands over each finished movie once.

    Parameters
    ----------
    folders, watching
        The `[[watch]]` and `[watching]` settings.
    known
        Files taken in earlier runs, as (path, size, mtime in ns).
    check_finished
        Returns when a movie is all there, else raises: an error with `retry` (truncated, missing) means wait, any
        other that the file is no movie. One that is whole but short (MovieShortError) is waited for, too.
    on_candidate
        Takes a finished movie, or a short one that has not changed for `watching.give_up_s`. When it raises, the file
        is offered again in the next sweep.
    on_unreadable
        Told once of a file that is no movie, or that stayed incomplete for `watching.give_up_s`; again only
        when the file has changed.
    clock
        Monotonic seconds.

    Notes
    -----
    The callbacks run in the watcher's thread. A folder that goes away is waited for; nothing is forgotten. The larger
    and slower a folder is, the longer are the pauses between sweeps: `SHARE_OF_TIME`, `LONGEST_PAUSE_S`.
    """

    def __init__(
        self,
        folders: Sequence[WatchFolder],
        watching: Watching,
        *,
        known: Iterable[tuple[str, int, int]],
        check_finished: Callable[[Path], None],
        on_candidate: Callable[[Candidate], None],
        on_unreadable: Callable[[Candidate, KomadError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watching = watching
        self._known = KnownFiles(known)
        self._check_finished = check_finished
        self._on_candidate = on_candidate
        self._on_unreadable = on_unreadable
        self._clock = clock
        leave_out = _left_out(folders)
        self._folders = [_Folder(index, folder, leave_out) for index, folder in enumerate(folders)]
        self._last_sweep = clock()
        self._hints: queue.SimpleQueue[tuple[int, str, bool] | None] = queue.SimpleQueue()
        self._observer = Observer(
            lambda folder, path, renamed: self._hints.put((folder, path, renamed)), self._on_overflow
        )
        self._overflowed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="komad-watcher", daemon=True)

    @property
    def last_sweep(self) -> float:
        """When the watcher last got on, by `clock`: the end of a sweep, or of a file in a long one."""
        return self._last_sweep

    @property
    def thread(self) -> threading.Thread:
        """Where it works."""
        return self._thread

    def reload(self, folders: Sequence[WatchFolder], watching: Watching) -> None:
        """Go on with other settings of the same folders, from the next look on."""
        leave_out = _left_out(folders)
        for folder, settings in zip(self._folders, folders, strict=True):
            folder.settings = settings
            folder.selection = Selection(settings, leave_out)
        self._watching = watching

    def status(self) -> tuple[FolderStatus, ...]:
        """Return how each folder stood at the last sweep, in the order of the configuration."""
        return tuple(folder.status for folder in self._folders)

    def start(self) -> None:
        """Start watching; files that lie there already are found too."""
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
        for folder in self._folders:
            if not self._stopping.is_set():
                self._sweep_folder(folder)
        self._last_sweep = self._clock()

    def hint(self, index: int, path: str, renamed: bool) -> None:
        """Look at one file of which an event told."""
        folder = self._folders[index]
        if not is_text(path) or not folder.selection.covers(path):
            return
        if folder.selection.movie_of(path) not in {None, path}:
            return  # One frame of many: the sweep looks at them together.
        try:
            seen = look(path)
        except OSError:
            return  # Gone again, or out of reach: the sweep tells.
        if not self._known.has(path, seen):
            self._consider(folder, path, seen, renamed=renamed)

    def _run(self) -> None:
        next_look = self._clock()
        while not self._stopping.is_set():
            if self._overflowed.is_set():
                self._overflowed.clear()
                logger.warning("file system events were lost, looking at everything")
                next_look = -math.inf
                for folder in self._folders:
                    folder.due_s = -math.inf
            if self._clock() >= next_look:
                try:
                    self._look_around()
                except (
                    Exception
                ):  # the rest of the session must not go unseen; `last_sweep` stands still meanwhile
                    logger.exception("sweep failed, trying again")
                next_look = self._clock() + self._watching.sweep_interval_s
            try:
                hint = self._hints.get(timeout=max(0.0, next_look - self._clock()))
            except queue.Empty:
                continue
            if hint is not None:
                try:
                    self.hint(*hint)
                except Exception:  # a hint is not worth the session: the sweep finds the file
                    logger.exception("event dropped", path=hint[1])

    def _on_overflow(self) -> None:
        self._overflowed.set()
        self._hints.put(None)

    def _look_around(self) -> None:
        """Sweep the folders whose pause is over; in others look at the files that are not finished yet."""
        for folder in self._folders:
            if self._stopping.is_set():
                return
            if self._clock() >= folder.due_s:
                self._sweep_folder(folder)
            else:
                self._look_at_waiting(folder)
        self._last_sweep = self._clock()

    def _sweep_folder(self, folder: _Folder) -> None:
        started_s = self._clock()
        found = sweep(
            folder.selection, self._known, turn=folder.turn, waiting=folder.waiting, on_look=self._get_on
        )
        sweep_s = self._clock() - started_s
        folder.turn += 1
        pause_s = max(
            self._watching.sweep_interval_s, min(sweep_s * (1 / SHARE_OF_TIME - 1), LONGEST_PAUSE_S)
        )
        root = str(folder.settings.directory)
        self._follow(folder, None if root in found.errors else _identity(folder.settings.directory))
        out_of_sight = tuple(found.errors)
        for path in folder.waiting.keys() - found.files.keys():
            if not path.startswith(out_of_sight):
                del folder.waiting[path]
        # Oldest first: the order in which they were taken is the order that neighbours are found in.
        for path, seen in sorted(found.files.items(), key=lambda item: (item[1].mtime_ns, item[0])):
            began_s = self._clock()
            if self._stopping.is_set() or self._is_lost(folder, self._consider(folder, path, seen)):
                break
            if (
                path not in folder.waiting
            ):  # thousands that are taken in a row must leave the database to others, too
                self._stopping.wait(min(self._clock() - began_s, LONGEST_REST_S))
        error = _summary(found.errors)
        if error and root not in found.errors and error != folder.status.error:
            logger.warning("part of a watched folder cannot be looked at", folder=root, error=error)
        if pause_s > max(self._watching.sweep_interval_s, 1.5 * folder.status.pause_s):
            logger.info("large or slow folder, longer pauses", folder=root, sweep_s=sweep_s, pause_s=pause_s)
        folder.due_s = self._clock() + pause_s
        folder.status = FolderStatus(
            directory=folder.settings.directory,
            reachable=root not in found.errors,
            error=error,
            no_events=folder.no_events,
            waiting=sum(not file.reported for file in folder.waiting.values()),
            unreadable=sum(file.reported for file in folder.waiting.values()),
            sweep_s=sweep_s,
            pause_s=pause_s,
        )

    def _look_at_waiting(self, folder: _Folder) -> None:
        unfinished = (path for path, file in folder.waiting.items() if not file.reported)
        for path in list(islice(unfinished, N_LOOKED_AT_AGAIN)):
            if not self._stopping.is_set():
                self.hint(folder.index, path, renamed=False)

    def _get_on(self) -> None:
        self._last_sweep = self._clock()

    def _is_lost(self, folder: _Folder, problem: KomadError | None) -> bool:
        """Whether the folder went away since the sweep: then the next one tells, and not each of its files."""
        missing = isinstance(problem, MovieMissingError)
        return missing and _identity(folder.settings.directory) != folder.identity

    def _follow(self, folder: _Folder, identity: tuple[int, int] | None) -> None:
        """Ask for events when a folder appears, comes back, or is another one than before (mounted anew)."""
        if identity == folder.identity:
            return
        folder.identity = identity
        directory = folder.settings.directory
        if identity is None:
            logger.warning("watched folder is out of reach, waiting for it", folder=str(directory))
            return
        logger.info("watching", folder=str(directory))
        if not self._watching.use_events:
            folder.no_events = "watching.use_events is false"
            return
        folder.no_events = self._observer.follow(folder.index, directory, recursive=folder.settings.recursive)
        if folder.no_events:
            logger.warning(
                "no file system events, sweeping only", folder=str(directory), reason=folder.no_events
            )

    def _consider(
        self, folder: _Folder, path: str, seen: Observation, *, renamed: bool = False
    ) -> KomadError | None:
        """Take one more look into account, and hand the file over when it is finished; gives what was wrong then."""
        now_s = self._clock()
        waiting = observe(folder.waiting.get(path), seen, now_s=now_s, renamed=renamed)
        folder.waiting[path] = waiting
        settled = is_settled(waiting, now_s=now_s, interval_s=self._settling_s(folder.settings))
        if waiting.reported or not settled:
            return None
        candidate = Candidate(
            path=Path(path), size_bytes=seen.size_bytes, mtime_ns=seen.mtime_ns, folder=folder.index
        )
        problem: KomadError | None = None
        try:
            problem = self._problem(candidate.path, folder.settings.frames_per_movie)
            given_up = now_s - waiting.since_s >= self._watching.give_up_s
            if problem is None or (given_up and isinstance(problem, MovieShortError)):
                if problem is not None:
                    logger.warning("taken as it is, no more comes", path=path, error=str(problem))
                self._on_candidate(candidate)
                self._known.add(path, seen.size_bytes, seen.mtime_ns)
                del folder.waiting[path]
            elif not problem.retry or (given_up and _is_there(path)):
                self._on_unreadable(candidate, problem)
                folder.waiting[path] = replace(waiting, reported=True)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the file stays and is offered again
            problem = error if isinstance(error, KomadError) else None
            trouble = f"{type(error).__name__}: {error}"
            if trouble != waiting.trouble:
                logger.warning("movie not taken, trying again", path=path, error=trouble)
            folder.waiting[path] = replace(waiting, trouble=trouble)
        self._get_on()
        return problem

    def _settling_s(self, settings: WatchFolder) -> float:
        """How long a movie must stay as it is; longer where only time tells that no frame comes any more."""
        if settings.frame_files is None or settings.frames_per_movie is not None:
            return self._watching.sweep_interval_s
        return max(self._watching.sweep_interval_s, settings.frame_settle_s)

    def _problem(self, path: Path, frames_per_movie: int | None) -> KomadError | None:
        """Say what is wrong with a settled file; an error that a retry can help is one that may pass."""
        try:
            check_count(path, frames_per_movie)
            self._check_finished(path)
        except KomadError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a file that no reader foresaw must not end the session
            return MovieError(f"{path}: cannot be read ({type(error).__name__}: {error})")
        return None


def _left_out(folders: Sequence[WatchFolder]) -> list[Path]:
    """Paths that are no movies: the folders themselves, which have their own turn, and references."""
    left_out = [folder.directory for folder in folders]
    for folder in folders:
        references = folder.references
        left_out += [path for path in (references.gain, references.dark, references.defects) if path]
    return left_out


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


def _is_there(path: str) -> bool:
    try:
        look(path)
    except OSError:
        return False
    return True
