"""The daemon put together: settings in, running daemon out; order of start and stop, signals."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from komad import __version__, log, service
from komad.config import Processing, Settings
from komad.errors import (
    AlreadyRunningError,
    ConfigError,
    KomadError,
    MovieChangedError,
    MovieMissingError,
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
from komad.output.session import SessionIndex
from komad.status.detector import pattern_alarm
from komad.store import Store
from komad.store.detector import read_detector
from komad.store.overview import FolderState, read_overview
from komad.watch import Watcher
from komad.work.disk import absence
from komad.work.supervisor import Supervisor

logger = structlog.get_logger(__name__)

TICK_S = 0.5
STATUS_INTERVAL_S = 10.0
RELEASE_INTERVAL_S = 2.0
ALARM_INTERVAL_S = 60.0
FOLDERS_INTERVAL_S = 5.0
LOOK_AGAIN_INTERVAL_S = 5.0
N_LOOKED_AT_AGAIN = 50
"""The newest movies that lack values (sidecars come soon after their movie), as many of the others in turn, and as many
that wait for their gain."""
SWEEP_LIMIT_S = 300.0
"""A watcher that got no further for so long (a dead mount) is left to systemd's watchdog."""
STOP_LIMIT_S = 75.0
"""Workers get 60 s for the jobs in hand; systemd waits longer still (TimeoutStopSec)."""
ABORT_LIMIT_S = 5.0


def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, then end after the jobs in hand; a second signal ends at once. Gives 0.

    Raises
    ------
    ConfigError, ReferenceFileError
        Nothing is watched, or a reference that the configuration names cannot be used.
    AlreadyRunningError
        Another komad works with the state directory.
    StoreError
        The database cannot be used.
    """
    log.configure(settings.log)
    if not settings.watch:
        raise ConfigError("no folder is watched: add a [[watch]] table; `komad config example` prints one")
    with _locked(settings.state_directory):
        check_references(settings, reference_directory(settings))
        with Store(settings.state_directory).open() as store:
            Daemon(settings, store).run()
    return 0


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
def _locked(directory: Path) -> Iterator[None]:
    """Hold the state directory; the kernel lets go of it however we end."""
    path = directory / "komad.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
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


class Intake:
    """Takes finished files into the database, and looks again at those that could not be described or lack values.

    The looking again has its own thread: a camera's disk that hangs must not stop anything else.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._looked_at: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="komad-intake", daemon=True)

    def start(self) -> None:
        """Start looking again."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking again."""
        self._stopping.set()
        self._thread.join(1.0)

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
            try:
                self._store.release_folder_held(self._is_back)
                for candidate in self._store.to_describe():
                    self._describe_again(candidate)
                for movie in self._incomplete():
                    self._reconsider(movie)
                for movie in self._store.gain_held(limit=N_LOOKED_AT_AGAIN):
                    self._rebind(movie)
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
    """Watcher, supervisor and publisher in their order."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        written = (settings.output.directory, settings.archive_directory, store.stack_sum_directory)
        for directory in (*written, reference_directory(settings)):
            remove_leftovers(directory)
        self._index = SessionIndex(settings.output.directory, settings=_shown(settings))
        self._published = 0
        self._supervisor = Supervisor(store, settings)
        self._intake = Intake(settings, store)
        self._watcher = Watcher(
            settings.watch,
            settings.watching,
            known=store.known_files(),
            check_complete=check_complete,
            on_candidate=self._intake.take,
            on_unreadable=self._intake.report,
        )
        self._signals = 0
        self._wake = threading.Event()
        self._trouble = ""
        self._status_at = 0.0
        self._release_at = 0.0
        self._alarm_at = 0.0
        self._folders_at = 0.0
        self._folders: list[FolderState] = []
        self._alarm = ""

    def run(self) -> None:
        """Start everything, look after it until a signal comes, end everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._supervisor.start()
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
        service.notify("READY=1")
        try:
            while not self._signals:
                self._tick(starting=True)
                self._wake.wait(TICK_S)
            service.notify("STOPPING=1")
            self._drain()
        finally:
            self._supervisor.kill()
            self._end()

    def _tick(self, *, starting: bool) -> None:
        """Look after workers and publish; trouble with disks or the database is told once and tried again."""
        try:
            self._supervisor.tick(starting=starting)
            self._release()
            self._publish()
            self._watch_detector()
            self._tell_folders()
            self._show_status()
        except KomadError as error:
            if str(error) != self._trouble:
                logger.error("trouble, trying again", code=error.code, error=str(error))
            self._trouble = str(error)
            if not error.retry:
                return
            # A full or lost disk is waited for; systemd must not end us meanwhile.
        else:
            self._trouble = ""
        sweep_age_s = time.monotonic() - self._watcher.last_sweep
        if (
            sweep_age_s < SWEEP_LIMIT_S + self._settings.watching.sweep_interval_s
            and self._supervisor.healthy()
        ):
            service.notify("WATCHDOG=1")

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

    def _show_status(self) -> None:
        if not service.is_wanted() or time.monotonic() < self._status_at:
            return
        self._status_at = time.monotonic() + STATUS_INTERVAL_S
        jobs = read_overview(self._settings.state_directory, now=datetime.now(UTC)).jobs
        corrected = jobs.get(("correct", "done"), 0)
        failed = sum(count for (_, state), count in jobs.items() if state == "failed")
        waiting = sum(count for (_, state), count in jobs.items() if state in {"queued", "running"})
        service.notify(f"STATUS={corrected} movies corrected, {waiting} jobs to do, {failed} failed")

    def _drain(self) -> None:
        """End after the jobs in hand; a second signal gives them back and ends at once."""
        logger.info("stopping after the jobs in hand; a second signal stops at once")
        stopping = threading.Thread(target=self._watcher.stop, daemon=True)  # it may hang in a dead mount
        stopping.start()
        self._intake.stop()
        self._supervisor.drain()
        deadline, aborted = time.monotonic() + STOP_LIMIT_S, False
        while self._supervisor.n_alive and time.monotonic() < deadline:
            if self._signals > 1 and not aborted:
                logger.warning("stopping at once, jobs in hand are returned")
                self._supervisor.drain()
                deadline, aborted = time.monotonic() + ABORT_LIMIT_S, True
            self._tick(starting=False)
            self._wake.clear()
            self._wake.wait(0.1)
        stopping.join(1.0)

    def _end(self) -> None:
        with suppress(KomadError):
            self._publish()
            self._index.flush()
        logger.info("komad ended")

    def _on_signal(self, *_: int | FrameType | None) -> None:
        self._signals += 1
        self._wake.set()


def _shown(settings: Settings) -> dict[str, Any]:
    """Settings as `session.json` shows them."""
    shown: dict[str, Any] = settings.model_dump(
        mode="json", include={"watch", "processing", "archive", "output"}
    )
    return shown
