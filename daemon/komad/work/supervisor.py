"""Starts the workers, notices when one dies or falls silent, and gives its jobs to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from komad.config import Settings
from komad.errors import InterruptedWorkError, KomadError, WorkerLostError
from komad.model import JobState
from komad.store import PausedBy, Store, ballast
from komad.store.growth import Role
from komad.work import orphans
from komad.work.beats import VARIABLE, Listener
from komad.work.devices import CPU, Choice, WorkerDevice, choose, look_around
from komad.work.disk import Forecast, low, shortage, volumes
from komad.work.exits import Exit
from komad.work.lease import LONG_LIFE_S, Pulse, follow, is_silent, respawn_delay_s, set_aside_s

logger = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "komad.work.worker")
DISK_INTERVAL_S = 5.0
END_LIMIT_S = 60.0
"""A silent worker is ended well before this time is over, too."""
KILL_LIMIT_S = 5.0
"""How long a killed worker is waited for."""
N_BAD_PROBES = 3
"""So often in a row a GPU that was chosen automatically may fail before the CPU helps out."""
RELEASE_INTERVAL_S = 30.0
"""A job that a full disk stopped (a quota, say) is tried again after this long."""


@dataclass(slots=True)
class _Worker:
    """A place for a worker, and the process that fills it."""

    device: WorkerDevice
    n_threads: int
    worker_id: str = ""
    process: subprocess.Popen[str] | None = None
    listener: Listener | None = None
    pulse: Pulse = field(default_factory=lambda: Pulse(beat=None, seen_at=0.0))
    started_at: float = 0.0
    start_at: float = 0.0
    """Not started again before this."""
    n_failures: int = 0
    n_stops: int = 0
    """How often the process was asked to end."""
    unkillable: subprocess.Popen[str] | None = None
    """The process before, which was killed and hangs in the kernel; no other one takes its place meanwhile."""

    def gone(self) -> None:
        """Forget the process."""
        self.process = None
        if self.listener is not None:
            self.listener.close()
            self.listener = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Aside:
    """A device that is set aside."""

    n_bad: int
    until: float
    """It is tried again at this time of our clock."""


class Supervisor:
    """One worker process per device that was chosen. For one thread: call `tick` about once a second.

    Parameters
    ----------
    store, settings
        The open store, and what the workers get.
    command
        How a worker is started.
    clock
        Monotonic seconds.
    choice
        The devices; chosen as the settings say when left out.

    Raises
    ------
    ConfigError, DeviceError
        A GPU that the settings name is not there, or cannot be used.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
        choice: Choice | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._command = tuple(command)
        self._clock = clock
        workers = settings.workers
        self.choice = choice or choose(
            workers.devices, look_around(), memory_fraction=workers.gpu_memory_fraction
        )
        n_threads = _threads(workers.threads, len(self.choice.devices))
        self._workers = [_Worker(device=device, n_threads=n_threads) for device in self.choice.devices]
        self._unreturned: dict[str, KomadError] = {}
        self._aside: dict[str, _Aside] = {}
        self._check_disk_at = 0.0
        self._forecast = Forecast()
        self._release_at = 0.0
        self._n_drains = 0
        self._how_it_ended = ""

    def start(self) -> None:
        """Take back what workers of an earlier life left behind. Only one komad runs here, so none of them counts."""
        logger.info("devices chosen", devices=list(map(str, self.choice.devices)), why=self.choice.reason)
        self._end_orphans()
        self._return_jobs()
        self._store.forget_devices()

    def tick(self, *, starting: bool = True) -> None:
        """Look after every worker, and after the disks; `starting` False starts no new ones."""
        now = self._clock()
        for worker in self._workers:
            if worker.process is not None:
                self._look_after(worker, now)
        self._end_orphans()
        self._return_jobs()
        self._settle_devices(now)
        for worker in self._workers:
            if worker.unkillable is not None and worker.unkillable.poll() is not None:
                worker.unkillable = None
            if (
                starting
                and worker.process is None
                and worker.unkillable is None
                and now >= self._may_start_at(worker)
            ):
                self._spawn(worker, now)
        self._check_disk()  # last: it writes, and waits when the database is locked

    def reload(self, settings: Settings, *, renew: bool) -> None:
        """Go on with other settings; `renew` starts each worker anew with them, after the jobs in hand."""
        self._settings = settings
        for worker in self._workers:
            if renew and worker.process is not None:
                self._ask_to_end(worker, 1)

    def is_proven(self) -> bool:
        """Whether a worker has passed its probe and beats."""
        return any(worker.pulse.beat for worker in self._workers)

    def hopeless(self) -> str:
        """Why no worker gets ready, when each has ended `N_BAD_PROBES` times in a row; else ''."""
        failing = all(worker.n_failures >= N_BAD_PROBES for worker in self._workers)
        return self._how_it_ended if failing else ""

    def stuck(self) -> list[str]:
        """Say which workers were killed and do not die, for people."""
        return [
            f"a worker of {worker.device} (pid {worker.unkillable.pid}) was killed and does not end: it waits in the "
            "kernel for a disk, a server or a driver; its jobs went back to the queue; dmesg may say for what, "
            "a restart of komad does not help"
            for worker in self._workers
            if worker.unkillable is not None
        ]

    @property
    def n_alive(self) -> int:
        """Worker processes that run."""
        return sum(worker.process is not None for worker in self._workers)

    def healthy(self) -> bool:
        """Whether each worker that fell silent was ended: it falls to `tick`, so one that was not shows a fault."""
        now = self._clock()
        timeout_s = self._settings.queue.lease_timeout_s + END_LIMIT_S
        return not any(
            worker.process is not None and is_silent(worker.pulse, now=now, timeout_s=timeout_s)
            for worker in self._workers
        )

    def drain(self) -> None:
        """Ask the workers to end after the jobs in hand; a second time: to give them back and end at once."""
        self._n_drains += 1
        for worker in self._workers:
            if worker.process is not None:
                self._ask_to_end(worker, self._n_drains)

    def kill(self) -> None:
        """End every worker now and return its jobs."""
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that hangs in a lost mount must not hold us
                    worker.process.wait(KILL_LIMIT_S)
                status = worker.process.poll()
                self._ended(worker, -signal.SIGKILL if status is None else status, self._clock())
        self._return_jobs()
        ballast.drop(self._settings.state_directory)  # nothing is in hand any more

    def _look_after(self, worker: _Worker, now: float) -> None:
        assert worker.process is not None
        assert worker.listener is not None
        worker.pulse = follow(worker.pulse, worker.listener.n_beats(), now=now)
        status = worker.process.poll()
        if status is not None:
            self._ended(worker, status, now)
        elif is_silent(worker.pulse, now=now, timeout_s=self._settings.queue.lease_timeout_s):
            worker.process.kill()
            silent_s = now - worker.pulse.seen_at
            logger.error(
                "worker was silent and is ended", worker=worker.worker_id, silent_s=round(silent_s, 1)
            )
            try:
                worker.process.wait(1.0)
            except subprocess.TimeoutExpired:
                worker.unkillable = worker.process
                logger.error("worker does not end", reason=self.stuck()[-1])
            self._lost(worker, f"showed no sign of life for {silent_s:.0f} s and was ended", now)

    def _ask_to_end(self, worker: _Worker, n_stops: int) -> None:
        """Send the signal, unless the process had as many: each further one makes it more urgent."""
        assert worker.process is not None
        if worker.n_stops < n_stops:
            worker.process.send_signal(signal.SIGTERM)
            worker.n_stops += 1

    def _ended(self, worker: _Worker, status: int, now: float) -> None:
        if status == Exit.STOPPED:
            self._unreturned[worker.worker_id] = WorkerLostError(
                f"worker {worker.worker_id} left the job behind"
            )
            worker.n_failures, worker.start_at = 0, now
            worker.gone()
            return
        how = self._how_it_ended = _how_it_ended(status)
        logger.error("worker ended", worker=worker.worker_id, device=str(worker.device), how=how)
        self._lost(worker, how, now)
        if status == Exit.BAD_DEVICE:
            self._help_out()

    def _lost(self, worker: _Worker, how: str, now: float) -> None:
        self._unreturned[worker.worker_id] = WorkerLostError(
            f"worker {worker.worker_id} {how} while it held the job"
        )
        worker.n_failures = 1 if now - worker.started_at > LONG_LIFE_S else worker.n_failures + 1
        worker.start_at = now + respawn_delay_s(worker.n_failures)
        worker.gone()

    def _settle_devices(self, now: float) -> None:
        """Stop the workers of a device that was found bad; one whose worker beats after its pause works again."""
        for device, bad in self._store.bad_devices().items():
            aside = self._aside.get(device)
            places = [worker for worker in self._workers if worker.device.device == device]
            if aside is None or bad.n_bad > aside.n_bad:
                delay_s = set_aside_s(bad.n_bad)
                logger.error(
                    "device is set aside", device=device, reason=bad.reason, tried_again_in_s=delay_s
                )
                self._aside[device] = _Aside(n_bad=bad.n_bad, until=now + delay_s)
                self._store.announce_trial(device, delay_s)
                for worker in places:
                    if worker.process is not None:
                        worker.process.send_signal(signal.SIGTERM)
            elif any(it.pulse.beat is not None and it.started_at >= aside.until for it in places):
                logger.info("device works again", device=device)
                self._store.put_back(device)
                del self._aside[device]

    def _may_start_at(self, worker: _Worker) -> float:
        aside = self._aside.get(worker.device.device)
        return worker.start_at if aside is None else max(worker.start_at, aside.until)

    def _help_out(self) -> None:
        """Start a worker on the CPU when every GPU fails over and over, if nobody asked for just these devices."""
        if self._settings.workers.devices != "auto" or any(
            worker.n_failures < N_BAD_PROBES or not worker.device.is_gpu for worker in self._workers
        ):
            return
        logger.error("no GPU works: the CPU helps out; `komad doctor` says more")
        self._workers.append(_Worker(device=CPU, n_threads=_threads(self._settings.workers.threads, 1)))

    def _end_orphans(self) -> None:
        """End workers of an earlier life, which may wake up or register even now, before others get their jobs."""
        ours = {worker.worker_id for worker in self._workers}
        strangers = self._store.leases() - ours - self._unreturned.keys()
        if not strangers:
            return
        for worker in self._store.workers():
            if worker.worker_id in strangers and orphans.end(worker):
                logger.warning("worker of an earlier life is ended", worker=worker.worker_id, pid=worker.pid)
        for worker_id in strangers:
            message = f"komad ended while worker {worker_id} held the job"
            self._unreturned[worker_id] = InterruptedWorkError(message)

    def _return_jobs(self) -> None:
        for worker_id, error in list(self._unreturned.items()):
            for job in self._store.return_jobs(worker_id, error, self._settings.queue.max_attempts):
                logger.warning(
                    "job failed" if job.state is JobState.FAILED else "job returned",
                    job_id=job.job_id,
                    movie_id=job.movie_id,
                    kind=job.kind.value,
                    attempt=job.attempt,
                    code=error.code,
                    error=str(error),
                )
            del self._unreturned[worker_id]

    def _spawn(self, worker: _Worker, now: float) -> None:
        device = worker.device
        worker.worker_id = f"{device.device.replace(':', '')}-{uuid.uuid4().hex[:8]}"
        worker.listener = Listener()
        process = subprocess.Popen(
            [*self._command, worker.worker_id, device.device, f"{device.memory_fraction:g}"],
            stdin=subprocess.PIPE,
            text=True,
            env=self._environment(worker) | {VARIABLE: str(worker.listener.child_end)},
            pass_fds=(worker.listener.child_end,),
        )
        worker.listener.started()
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:  # one that died at once is seen in the next tick
            process.stdin.write(self._settings.model_dump_json())
        worker.process = process
        worker.n_stops = 0
        worker.started_at = now
        worker.pulse = Pulse(beat=None, seen_at=now)
        logger.info("worker started", worker=worker.worker_id, device=str(device), pid=process.pid)

    def _environment(self, worker: _Worker) -> dict[str, str]:
        """What libraries read when they are imported, so it must be set before the process starts."""
        threads = str(worker.n_threads)
        # Our own variables are in the settings already; a relative path in them would be read anew, and wrongly.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KOMAD_")}
        state = self._settings.state_directory
        return {
            **inherited,
            "CUDA_VISIBLE_DEVICES": worker.device.visible,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # numbers as nvidia-smi counts
            "KOMAD_SUPERVISOR_PID": str(os.getpid()),
            "KOMAD_THREADS": threads,
            "NUMBA_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR") or str(state / "numba-cache"),
            "CUPY_CACHE_DIR": os.environ.get("CUPY_CACHE_DIR") or str(state / "cupy-cache"),
        }

    def _check_disk(self) -> None:
        """Pause claims while a disk is low; let held jobs go on when there is room."""
        now = self._clock()
        if now < self._check_disk_at:
            return
        self._check_disk_at = now + DISK_INTERVAL_S
        before = self._store.paused(PausedBy.DISK)
        reason = self._why_no_room(paused=bool(before))
        if reason:
            if not before:
                logger.warning("no job is started", reason=reason)
            if reason != before:
                self._store.pause(reason, PausedBy.DISK)
            return
        ballast.lay(self._settings.state_directory)
        if before:
            logger.info("there is room again, jobs go on")
            self._store.resume(PausedBy.DISK)
            self._release_at = now
        if now >= self._release_at:
            self._release_at = now + RELEASE_INTERVAL_S
            self._store.release_disk_held()

    def _why_no_room(self, *, paused: bool) -> str:
        """Say which disk is lost, or has no room for another movie; warn before it comes to that."""
        output, state = self._settings.output, self._settings.state_directory
        directories: dict[Role, Path] = {
            "output": output.directory,
            "archive": self._settings.archive_directory,
            "state": state,
        }
        reason = shortage(directories.values(), min_free_gb=output.min_free_gb)
        if reason:
            return reason
        grown = self._store.growth()
        limit_gb = output.min_free_gb
        for volume in volumes(directories):
            reason = low(volume, grown, min_free_gb=limit_gb, n_workers=len(self._workers), paused=paused)
            if reason:
                return reason
            ahead = self._forecast.look(volume, grown, min_free_gb=limit_gb)
            if ahead is not None and ahead[1]:
                places = ", ".join(map(str, volume.directories))
                logger.warning("a disk is going to be full", disk=places, hours_left=round(ahead[0], 1))
        return ""


def _how_it_ended(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"died of {name}" + (" (is the memory too small?)" if name == "SIGKILL" else "")
    known = {Exit.BAD_DEVICE: "found its device bad", Exit.LOST: "had lost its lease"}
    return {int(key): words for key, words in known.items()}.get(status, f"ended with status {status}")


def _threads(configured: int, n_workers: int) -> int:
    """Threads of each worker: the cores are divided among all, for one with a GPU decodes and compresses as well."""
    return configured or max(1, len(os.sched_getaffinity(0)) // max(1, n_workers))
