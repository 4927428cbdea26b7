"""The daemon put together: settings in, running daemon out; order of start and stop, signals."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from komad import __version__, log, service
from komad.config import Processing, Settings, taken_over
from komad.errors import (
    AlreadyRunningError,
    ConfigError,
    DeviceError,
    DiskFullError,
    InternalError,
    KomadError,
    MovieChangedError,
    MovieMissingError,
    OutputError,
    ParameterError,
    StoreError,
)
from komad.formats.atomic import remove_leftovers
from komad.formats.images import read_image
from komad.formats.movies import check_complete
from komad.formats.references import check as check_fit
from komad.ingest import describe, missing_parameters, reconsider, references
from komad.ingest.describe import stem_of
from komad.model import Candidate, JobKind, Movie, series_of
from komad.output.places import HeldElsewhereError, hold, prove_writable
from komad.output.session import PROCESSED, SessionIndex
from komad.output.sharing import share_results, sharing_of
from komad.status.detector import pattern_alarm
from komad.store import Store
from komad.store.detector import read_detector
from komad.store.health import damaged, refuse_damage
from komad.store.overview import FolderState, read_overview
from komad.watch import Watcher
from komad.work.cleanup import CleanupProcess
from komad.work.disk import absence
from komad.work.supervisor import Supervisor

logger = structlog.get_logger(__name__)

TICK_S = 0.5
STATUS_INTERVAL_S = 10.0
RETRY_INTERVAL_S = 5.0
"""Between two looks at folders that are not there yet when komad starts."""
PATIENCE_S = 10.0
"""A folder that takes longer to be written to does not answer."""
EXTENSION_INTERVAL_S = 10.0
HELD_LIMIT_S = 120.0
"""A server may take so long to notice that the komad of another computer is gone."""
RELEASE_INTERVAL_S = 2.0
ALARM_INTERVAL_S = 60.0
FOLDERS_INTERVAL_S = 5.0
LOOK_AGAIN_INTERVAL_S = 5.0
N_LOOKED_AT_AGAIN = 50
"""The newest movies that lack values (sidecars come soon after their movie), as many of the others in turn, and as many
that wait for their gain."""
SWEEP_LIMIT_S = 300.0
"""A thread that got no further for so long is left to systemd's watchdog, unless it waits in the kernel."""
STOP_LIMIT_S = 75.0
"""Workers get 60 s for the jobs in hand; systemd waits longer still (TimeoutStopSec)."""
ABORT_LIMIT_S = 5.0


def run(settings: Settings, *, reread: Callable[[], Settings] | None = None) -> int:
    """Run until SIGTERM or SIGINT, then end after the jobs in hand; a second signal ends at once. Gives 0.

    Parameters
    ----------
    settings
        Loaded and checked.
    reread
        Reads the settings again: on SIGHUP.

    Raises
    ------
    ConfigError, ReferenceFileError
        Nothing is watched, results cannot be given to their group, or a reference that the configuration names cannot
        be used.
    AlreadyRunningError
        Another komad works with the state directory, or writes to the output directory.
    DamagedError, StoreError
        The database is damaged, or cannot be used.
    OutputError
        Results can never be written where they shall go.
    DeviceError
        No device works.
    """
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: then the journal shows where we were
    log.configure(settings.log)
    if not settings.watch:
        raise ConfigError("no folder is watched: add a [[watch]] table; `komad config example` prints one")
    share_results(settings)
    signals = Signals()
    signals.listen()
    with locked(settings.state_directory), ExitStack() as held:
        refuse_damage(
            settings.state_directory,
            used=(settings.output.directory / PROCESSED).exists()
            or (settings.state_directory / "stack_sums").exists(),
        )
        with Store(settings.state_directory).open() as store:
            _close_to_others(settings.state_directory)
            if Start(settings, held).wait(signals):
                check_references(settings, reference_directory(settings))
                Daemon(settings, store, signals=signals, reread=reread).run()
    return 0


class Signals:
    """What signals ask for: to stop, or to read the configuration again."""

    def __init__(self) -> None:
        self.n_stops = 0
        self.reload = False
        self.wake = threading.Event()

    def listen(self) -> None:
        """Take the signals; SIGHUP means a reload, but on a terminal that it was closed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        on_terminal = sys.stdin is not None and sys.stdin.isatty()
        signal.signal(signal.SIGHUP, self._on_stop if on_terminal else self._on_reload)

    def _on_stop(self, *_: int | FrameType | None) -> None:
        self.n_stops += 1
        self.wake.set()

    def _on_reload(self, *_: int | FrameType | None) -> None:
        self.reload = True
        self.wake.set()


class Start:
    """Waits until all folders are there that komad writes to: a network mount may come later than we do.

    They are tried in a thread, because whoever touches a lost mount may never come back.
    """

    def __init__(self, settings: Settings, held: ExitStack) -> None:
        self._settings = settings
        self._held = held
        self._began = time.monotonic()
        self._doing = ""

    def wait(self, signals: Signals) -> bool:
        """Wait; False when a signal came first. Raises what waiting cannot cure."""
        said, extended_at, try_at = "", 0.0, 0.0
        trial: _Trial | None = None
        while not signals.n_stops:
            now = time.monotonic()
            if trial is None and now >= try_at:
                trial = _Trial(self._try)
            if trial is not None and trial.done.wait(TICK_S):
                if not trial.outcome():
                    return True
                reason, trial, try_at = trial.outcome(), None, now + RETRY_INTERVAL_S
            elif trial is not None and now - trial.began > PATIENCE_S:
                reason = f"{self._doing} does not answer"
            else:
                reason = said
            if reason != said:
                logger.warning("waiting to start", reason=reason)
                service.notify(f"STATUS=waiting to start: {reason}")
                said = reason
            if now >= extended_at:
                service.take_longer()
                extended_at = now + EXTENSION_INTERVAL_S
            if trial is None:
                signals.wake.wait(TICK_S)
        return False

    def _try(self) -> str:
        """Write to each folder and hold the output; gives what is still missing, or ''."""
        for path in _reference_files(self._settings):
            self._doing = str(path.parent)
            if _may_come(path):
                return f"{path} is not there, and its folder is empty, as when it is not mounted"
        output = self._settings.output.directory
        for directory in dict.fromkeys(
            (self._settings.state_directory, self._settings.archive_directory, output)
        ):
            self._doing = str(directory)
            try:
                prove_writable(directory)
            except DiskFullError:
                pass  # it is there; jobs wait until there is room
            except OutputError as error:
                if _is_final(error):
                    raise
                return str(error)
        try:
            self._held.enter_context(hold(output, state_directory=self._settings.state_directory))
        except HeldElsewhereError as error:
            if time.monotonic() - self._began > HELD_LIMIT_S:
                raise
            return str(error)
        except OutputError as error:
            return str(error)
        return ""


class _Trial:
    """Something that may hang, done in a thread."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._work = work
        self._result: str | KomadError = ""
        self.began = time.monotonic()
        self.done = threading.Event()
        threading.Thread(target=self._run, name="komad-trial", daemon=True).start()

    def outcome(self) -> str:
        """What it gave, or raises what it raised."""
        if isinstance(self._result, KomadError):
            raise self._result
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except KomadError as error:
            self._result = error
        except Exception as error:
            logger.exception("unexpected error")
            self._result = InternalError(f"{type(error).__name__}: {error}")
        finally:
            self.done.set()


def _is_final(error: OutputError) -> bool:
    """Whether it stays as it is until a person does something: a file in the place of a folder, a name too long."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return False
    if cause.errno == errno.EEXIST:  # a link that leads nowhere may lead to a mount
        return Path(cause.filename).exists()
    return cause.errno in {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EPERM}


def _reference_files(settings: Settings) -> Iterator[Path]:
    for folder in settings.watch:
        files = folder.references
        yield from (path for path in (files.gain, files.dark, files.defects) if path is not None)


def _may_come(path: Path) -> bool:
    """Whether a file is missing because its disk is not mounted yet: the nearest folder that is there is empty."""
    try:
        if path.exists():
            return False
        nearest = next(place for place in path.parents if place.exists())
        with os.scandir(nearest) as entries:
            return next(entries, None) is None
    except PermissionError:
        return False
    except OSError:
        return True


def check_references(settings: Settings, directory: Path | None) -> None:
    """Bind and read the references of every folder: a gain that is missing stops us now, not at the first movie.

    Private copies are kept in `directory`; None makes none.

    Raises
    ------
    ReferenceFileError
        One cannot be used.
    """
    for folder in settings.watch:
        bound = references.bind(folder.references, directory)
        for file in (bound.gain, bound.dark):
            if file is not None:
                read_image(file.path)


def reference_directory(settings: Settings) -> Path:
    """Where references are kept by content."""
    return settings.state_directory / "references"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the state directory; the kernel lets go of it however we end."""
    path = directory / "komad.lock"
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = path.open("a+", encoding="ascii")
    except OSError as error:
        raise StoreError(f"cannot use the state directory {directory}: {error.strerror} ({path})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise AlreadyRunningError(
                f"another komad (pid {pid}) works with the state directory {directory}; stop it first "
                f"(systemctl stop komad, or kill {pid}), or set another state_directory"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _close_to_others(directory: Path) -> None:
    """Leave the state directory and its database to our user and, for reading, to our group."""
    try:
        for path in (directory, *directory.glob("komad.sqlite*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            allowed = 0o7750 if path == directory else 0o640
            if mode & ~allowed:
                path.chmod(mode & allowed)
    except OSError as error:
        raise StoreError(
            f"cannot use the state directory {directory}: {error.strerror} ({error.filename}); check its owner"
        ) from error


class Intake:
    """Takes finished files into the database, and looks again at those that could not be described or lack values.

    The looking again has its own thread: a camera's disk that hangs must not stop anything else.
    """

    def __init__(
        self, settings: Settings, store: Store, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._store = store
        self._looked_at: int | None = None
        self._stopping = threading.Event()
        self._clock = clock
        self.got_on_at = clock()
        """When the looking again last got on."""
        self.thread = threading.Thread(target=self._look_again, name="komad-intake", daemon=True)

    def start(self) -> None:
        """Start looking again."""
        self.thread.start()

    def reload(self, settings: Settings) -> None:
        """Take other settings for movies that are described from now on."""
        self._settings = settings

    def stop(self) -> None:
        """Stop looking again."""
        self._stopping.set()
        self.thread.join(1.0)

    def take(self, candidate: Candidate) -> None:
        """Describe a finished file and add it with its jobs; one that cannot be described is added as failed.

        Raises
        ------
        KomadError
            What is wrong may pass: the watcher offers the file again.
        """
        try:
            movie = self._describe(candidate)
        except MovieChangedError:
            raise
        except KomadError as error:
            if error.retry:
                raise
            self.report(candidate, error)
        else:
            self._add(movie)

    def report(self, candidate: Candidate, error: KomadError) -> None:
        """Add a file that is no movie, so that a person sees it."""
        movie_id = self._store.add_unreadable(candidate, stem=stem_of(candidate.path), error=error)
        if movie_id is not None:
            logger.warning(
                "failed", movie=candidate.path.name, movie_id=movie_id, code=error.code, error=str(error)
            )

    def _describe(self, candidate: Candidate) -> Movie:
        folder = self._settings.watch[candidate.folder]
        movie = describe(
            candidate,
            folder,
            self._settings.processing,
            reference_directory=reference_directory(self._settings),
            supplied=self._store.supplied_values(),
        )
        # A movie must not be bound for good to a reference that does not fit or is only half written.
        check_fit(movie.references, (movie.header.ny, movie.header.nx))
        koma = self._settings.koma.model_dump()
        return replace(movie, koma=koma, series=series_of(movie, folder.directory))

    def _rebind(self, movie: Movie) -> None:
        """Archive and correct a movie with the references that are configured now, if they are others."""
        with suppress(ParameterError):  # its folder is not watched any more: only a person can help
            folder = self._settings.watch[self._folder_of(movie.path)]
            bound = references.bind(folder.references, reference_directory(self._settings))
            if bound == movie.references:
                return
            check_fit(bound, (movie.header.ny, movie.header.nx))
            movie = replace(movie, references=bound)
            self._store.rebind(replace(movie, series=series_of(movie, folder.directory)))
            logger.info(
                "has another gain now, and is archived again", movie=movie.stem, movie_id=movie.movie_id
            )

    def _add(self, movie: Movie) -> None:
        missing = missing_parameters(movie.acquisition, self._settings.processing)
        added = self._store.add_movie(movie, held={JobKind.CORRECT: missing} if missing else {})
        if added is not None:
            logger.info(
                "found", movie=added.stem, movie_id=added.movie_id, path=str(added.path), held=missing
            )

    def _look_again(self) -> None:
        while not self._stopping.wait(LOOK_AGAIN_INTERVAL_S):
            self.got_on_at = self._clock()
            try:
                self._store.release_folder_held(self._is_back)
                for candidate in self._store.to_describe():
                    self._describe_again(candidate)
                    self.got_on_at = self._clock()
                for movie in self._incomplete():
                    self._reconsider(movie)
                    self.got_on_at = self._clock()
                for movie in self._store.gain_held(limit=N_LOOKED_AT_AGAIN):
                    self._rebind(movie)
                    self.got_on_at = self._clock()
            except KomadError as error:
                logger.warning("cannot look again at movies, trying later", code=error.code, error=str(error))
            except Exception:  # one file that nobody foresaw must not end the looking for all others
                logger.exception("cannot look again at movies, trying later")

    def _incomplete(self) -> list[Movie]:
        """The newest that lack values, and the next of those before them, so that each has its turn."""
        newest = self._store.incomplete_movies(limit=N_LOOKED_AT_AGAIN)
        if len(newest) < N_LOOKED_AT_AGAIN:
            return newest
        before = min(self._looked_at or newest[-1].movie_id, newest[-1].movie_id)
        others = self._store.incomplete_movies(limit=N_LOOKED_AT_AGAIN, before=before)
        self._looked_at = others[-1].movie_id if others else None
        return newest + others

    def _is_back(self, path: Path) -> bool:
        """Whether the watched folder of a movie can be read again, or is not watched any more."""
        folders = [
            folder.directory for folder in self._settings.watch if path.is_relative_to(folder.directory)
        ]
        return not any(absence(folder) for folder in folders)

    def _describe_again(self, found: Candidate) -> None:
        """Do as a person asked who retried a file that could not be described."""
        candidate = found
        try:
            status = found.path.stat()
            folder = self._folder_of(found.path)
            candidate = replace(found, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=folder)
            self._add(self._describe(candidate))
        except OSError as error:
            self.report(candidate, MovieMissingError(f"{found.path}: cannot be read ({error.strerror})"))
        except KomadError as error:
            self.report(candidate, error)

    def _reconsider(self, movie: Movie) -> None:
        """Bind values that were unknown: a sidecar came later, or the configuration was completed."""
        with suppress(ParameterError):  # its folder is not watched any more: only a person can help
            folder = self._settings.watch[self._folder_of(movie.path)]
            acquisition = reconsider(movie, folder)
            if acquisition != movie.acquisition:
                processing = Processing.model_validate(dict(movie.processing))
                missing = missing_parameters(acquisition, processing)
                self._store.complete(movie, acquisition, missing=missing)

    def _folder_of(self, path: Path) -> int:
        """Index of the watched folder that holds `path`, the nearest one."""
        holding = [
            (len(folder.directory.parts), index)
            for index, folder in enumerate(self._settings.watch)
            if path.is_relative_to(folder.directory)
        ]
        if not holding:
            raise ParameterError(f"{path} is in no watched folder; add it to the configuration")
        return max(holding)[1]


class Daemon:
    """Watcher, supervisor and publisher in their order.

    Parameters
    ----------
    settings, store
        What is done, and the open store.
    signals
        What signals ask for.
    reread
        Reads the settings again; None: they stay.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        signals: Signals | None = None,
        reread: Callable[[], Settings] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._signals = signals or Signals()
        self._reread = reread
        self._index = SessionIndex(settings.output.directory, settings=_shown(settings))
        self._refuse_older_database()
        self._published = 0
        self._supervisor = Supervisor(store, settings, clock=clock)
        self._cleanup = CleanupProcess(settings, store)
        self._intake = Intake(settings, store, clock=clock)
        self._watcher = Watcher(
            settings.watch,
            settings.watching,
            known=store.known_files(),
            check_complete=check_complete,
            on_candidate=self._intake.take,
            on_unreadable=self._intake.report,
            clock=clock,
        )
        self._trouble = ""
        self._standing = ""
        self._ready = False
        self._extended_at = 0.0
        self._status = ""
        self._counts = ""
        self._status_at = 0.0
        self._release_at = 0.0
        self._alarm_at = 0.0
        self._folders_at = 0.0
        self._folders: list[FolderState] = []
        self._alarm = ""
        self._reading: threading.Thread | None = None
        self._read: Settings | KomadError | None = None
        self._refused = ""

    def _refuse_older_database(self) -> None:
        """Raise DamagedError when results were published that the database does not know."""
        last = self._store.last_sequence(self._index.last_sequence)
        if last < self._index.last_queued_sequence:
            raise damaged(
                self._store.path,
                f"it knows {last} results, {PROCESSED} has {self._index.last_queued_sequence}: it is an old copy, or "
                "komad.sqlite-wal was lost",
            )

    def run(self) -> None:
        """Start everything, look after it until a signal comes, end everything.

        Raises
        ------
        DeviceError
            No worker ever got ready, and none will.
        """
        self._end_earlier_life()
        self._watcher.start()
        self._intake.start()
        logger.info(
            "komad runs",
            version=__version__,
            pid=os.getpid(),
            watched=[str(folder.directory) for folder in self._settings.watch],
            output=str(self._settings.output.directory),
            devices=[str(device) for device in self._supervisor.choice.devices],
        )
        try:
            while not self._signals.n_stops:
                self._tick(starting=True)
                self._tell_ready()
                self._reload()
                self._signals.wake.wait(TICK_S)
                self._signals.wake.clear()
            service.notify("STOPPING=1")
            self._drain()
        finally:
            self._cleanup.stop()
            self._supervisor.kill()
            self._end()

    def _tell_ready(self) -> None:
        """Tell systemd once that all is proven; a worker that has passed its probe is the last of it."""
        if self._ready:
            return
        if self._supervisor.is_proven():
            self._ready = True
            logger.info("ready")
            service.notify("READY=1")
        elif reason := self._supervisor.hopeless():
            raise DeviceError(f"no worker gets ready: the last one {reason}; `komad doctor` says more")
        elif time.monotonic() >= self._extended_at:
            self._extended_at = time.monotonic() + EXTENSION_INTERVAL_S
            service.take_longer()

    def _end_earlier_life(self) -> None:
        """End what an earlier life left behind: its workers first, for what they still write is no leftover yet."""
        self._supervisor.start()
        written = (self._settings.output.directory, self._settings.archive_directory)
        for directory in (*written, self._store.stack_sum_directory, reference_directory(self._settings)):
            remove_leftovers(directory)

    def _tick(self, *, starting: bool) -> None:
        """Look after workers and publish; trouble with disks or the database is told once and tried again."""
        may_go_on = True
        try:
            self._supervisor.tick(starting=starting)
            if starting:
                self._cleanup.tick()
            self._release()
            self._publish()
            self._watch_detector()
            self._tell_folders()
            self._count()
        except KomadError as error:
            if str(error) != self._trouble:
                logger.error("trouble, trying again", code=error.code, error=str(error))
            self._trouble = str(error)
            may_go_on = error.retry  # a full or lost disk is waited for; systemd must not end us meanwhile
        else:
            self._trouble = ""
        if self._gets_on() and may_go_on:
            service.notify("WATCHDOG=1")
        self._show_status()

    def _gets_on(self) -> bool:
        """Whether no part of us hangs in a way that a new start may cure; this thread shows it by asking.

        A thread that waits in the kernel would do so after a new start again, while the workers would lose what they
        have in hand: that is told, and waited for.
        """
        now = self._clock()
        limit_s = SWEEP_LIMIT_S + self._settings.watching.sweep_interval_s
        standing = {
            name: thread
            for name, thread, got_on_at in (
                ("watching", self._watcher.thread, self._watcher.last_sweep),
                ("looking again at movies", self._intake.thread, self._intake.got_on_at),
            )
            if now - got_on_at > limit_s
        }
        waiting = [name for name, thread in standing.items() if service.waits_in_kernel(thread)]
        said = ", ".join(
            f"{name} stands still" + (": a file system does not answer" if name in waiting else "")
            for name in standing
        )
        if said and said != self._standing:
            logger.error(said, help="" if waiting else "left to systemd's watchdog")
        self._standing = said
        return len(waiting) == len(standing) and self._supervisor.healthy()

    def _reload(self) -> None:
        """On SIGHUP: read the settings again, beside all else, and go on with what may change."""
        if self._signals.reload and self._reading is None and self._reread is not None:
            self._signals.reload = False
            self._reading = threading.Thread(target=self._read_again, name="komad-reload", daemon=True)
            self._reading.start()
        if self._reading is None or self._reading.is_alive():
            return
        self._reading = None
        if isinstance(self._read, Settings):
            self._refused = ""
            self._take_over(self._read)
        else:
            self._refused = f"the configuration was not taken over: {self._read}"
            logger.error("configuration not taken over, all stays as it was", error=str(self._read))

    def _read_again(self) -> None:
        assert self._reread is not None
        try:
            read = self._reread()
            if not read.watch:
                raise ConfigError("no folder is watched")
            sharing_of(read.output)
            check_references(read, reference_directory(self._settings))
            self._read = read
        except KomadError as error:
            self._read = error
        except Exception as error:
            logger.exception("unexpected error")
            self._read = InternalError(f"{type(error).__name__}: {error}; the log has the traceback")

    def _take_over(self, read: Settings) -> None:
        settings, changed, waiting = taken_over(self._settings, read)
        # What workers look at binds to them when they start; what only we look at does not.
        ours = ("watch ", "watching.", "processing.", "koma.max_wait_s", "output.min_free_gb")
        self._settings = settings
        share_results(settings)
        self._watcher.reload(settings.watch, settings.watching)
        self._intake.reload(settings)
        self._cleanup.reload(settings)
        self._supervisor.reload(settings, renew=not all(name.startswith(ours) for name in changed))
        self._index.show(_shown(settings))
        logger.info("configuration read again", changed=changed)
        log.configure(settings.log)
        if waiting:
            logger.warning("these settings need a restart", settings=waiting)

    def _release(self) -> None:
        """Let movies go on that have waited for their neighbours for long enough."""
        if time.monotonic() < self._release_at:
            return
        self._release_at = time.monotonic() + RELEASE_INTERVAL_S
        n_released = self._store.release_koma_held()
        if n_released:
            logger.info("movies go on without all of their neighbours", n_movies=n_released)

    def _watch_detector(self) -> None:
        """Say once when the gain reference fits no more."""
        if time.monotonic() < self._alarm_at:
            return
        self._alarm_at = time.monotonic() + ALARM_INTERVAL_S
        alarm = pattern_alarm(read_detector(self._settings.state_directory))
        if alarm and not self._alarm:
            logger.warning("the detector has changed", reason=alarm)
        self._alarm = alarm

    def _tell_folders(self) -> None:
        """Let `komad status` know how the watched folders are."""
        if time.monotonic() < self._folders_at:
            return
        self._folders_at = time.monotonic() + FOLDERS_INTERVAL_S
        folders = [
            FolderState(
                path=str(status.directory),
                waiting=status.waiting,
                unreadable=status.unreadable,
                error=status.error,
                no_events=status.no_events,
                sweep_s=round(status.sweep_s, 1),
                pause_s=round(status.pause_s, 1),
            )
            for status in self._watcher.status()
        ]
        if folders != self._folders:
            self._store.put_folders(folders)
            self._folders = folders

    def _publish(self) -> None:
        """Bring what was finished into the indices, in order; they know what they have, also after a crash."""
        finished = self._store.finished_since(self._published)
        here = str(self._settings.output.directory)
        summaries = [
            {name: value for name, value in movie.summary.items() if name != "output_directory"}
            | {"movie_id": movie.movie_id, "sequence": movie.sequence}
            for movie in finished
            if movie.summary.get("output_directory") == here
        ]
        self._index.publish(summaries)
        if finished:
            self._published = finished[-1].sequence

    def _count(self) -> None:
        """Count for the status line."""
        if not service.is_wanted() or time.monotonic() < self._status_at:
            return
        self._status_at = time.monotonic() + STATUS_INTERVAL_S
        overview = read_overview(self._settings.state_directory, now=datetime.now(UTC))
        jobs = overview.jobs
        corrected = jobs.get(("correct", "done"), 0)
        failed = sum(count for (_, state), count in jobs.items() if state == "failed")
        waiting = sum(count for (_, state), count in jobs.items() if state in {"queued", "running"})
        self._counts = f"{corrected} movies corrected, {waiting} jobs to do, {failed} failed"
        paused = filter(None, (overview.paused_by_person, overview.paused_by_disk))
        self._counts = "; ".join((self._counts, *(f"paused: {reason}" for reason in paused)))

    def _show_status(self) -> None:
        """One line for `systemctl status`: counts, and all that is in trouble."""
        lost = [f"{folder.path}: {folder.error}" for folder in self._folders if folder.error]
        starting = "" if self._ready else "starting: no worker has passed its probe yet"
        parts = (
            starting,
            self._counts,
            self._trouble,
            self._standing,
            self._refused,
            *self._supervisor.stuck(),
            *lost,
        )
        status = " ".join("; ".join(filter(None, parts)).split())
        if status != self._status:
            self._status = status
            service.notify(f"STATUS={status}")

    def _drain(self) -> None:
        """End after the jobs in hand; a second signal gives them back and ends at once."""
        logger.info("stopping after the jobs in hand; a second signal stops at once")
        stopping = threading.Thread(target=self._watcher.stop, daemon=True)  # it may hang in a dead mount
        stopping.start()
        self._intake.stop()
        self._supervisor.drain()
        deadline, aborted = time.monotonic() + STOP_LIMIT_S, False
        while self._supervisor.n_alive and time.monotonic() < deadline:
            if self._signals.n_stops > 1 and not aborted:
                logger.warning("stopping at once, jobs in hand are returned")
                self._supervisor.drain()
                deadline, aborted = time.monotonic() + ABORT_LIMIT_S, True
            self._tick(starting=False)
            self._signals.wake.clear()
            self._signals.wake.wait(0.1)
        stopping.join(1.0)

    def _end(self) -> None:
        with suppress(KomadError):
            self._publish()
            self._index.flush()
        logger.info("komad ended")


def _shown(settings: Settings) -> dict[str, Any]:
    """Settings as `session.json` shows them."""
    shown: dict[str, Any] = settings.model_dump(
        mode="json", include={"watch", "processing", "archive", "output"}
    )
    return shown
