"""Watcher, supervisor and publisher: started, looked after, ended in their order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from komad import __version__, log, service
from komad.app.intake import Intake
from komad.app.references import check_references, reference_directory
from komad.app.signals import Signals
from komad.app.start import EXTENSION_INTERVAL_S
from komad.config import Settings, taken_over
from komad.errors import ConfigError, DeviceError, InternalError, KomadError
from komad.formats.atomic import remove_leftovers
from komad.formats.movies import check_finished
from komad.output.session import PROCESSED, SessionIndex
from komad.output.sharing import share_results, sharing_of
from komad.status.detector import pattern_alarm
from komad.store import Store
from komad.store.detector import read_detector
from komad.store.health import damaged
from komad.store.overview import FolderState, read_overview
from komad.watch import Watcher
from komad.work.cleanup import CleanupProcess
from komad.work.supervisor import Supervisor

logger = structlog.get_logger(__name__)

TICK_S = 0.5
STATUS_INTERVAL_S = 10.0
RELEASE_INTERVAL_S = 2.0
ALARM_INTERVAL_S = 60.0
FOLDERS_INTERVAL_S = 5.0
SWEEP_LIMIT_S = 300.0
"""A thread that got no further for so long is left to systemd's watchdog, unless it waits in the kernel."""
STOP_LIMIT_S = 75.0
"""Workers get 60 s for the jobs in hand; systemd waits longer still (TimeoutStopSec)."""
ABORT_LIMIT_S = 5.0


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
            check_finished=check_finished,
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
            waiting = sum(status.waiting for status in self._watcher.status())
            self._index.end(is_complete=not waiting and not self._store.has_more_to_do())
        logger.info("komad ended")


def _shown(settings: Settings) -> dict[str, Any]:
    """Settings as `session.json` shows them."""
    shown: dict[str, Any] = settings.model_dump(
        mode="json", include={"watch", "processing", "archive", "output"}
    )
    return shown
