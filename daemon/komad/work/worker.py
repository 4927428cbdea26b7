"""The worker process: shows signs of life while its pipeline works, and ends in order.

Started by the supervisor as `python -m komad.work.worker WORKER_ID DEVICE MEMORY_FRACTION`, the settings as JSON on
standard input. DEVICE is cpu or cuda:N, whose memory may be taken up to MEMORY_FRACTION; it is the only GPU that the
process sees (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from time import monotonic
from types import FrameType

import structlog

from komad import log
from komad.config import Settings
from komad.errors import BusyError, DeviceError, DiskFullError, KomadError, StoreDiskError
from komad.output.sharing import share_results
from komad.store import Store
from komad.work.assembly_line import AssemblyLine
from komad.work.beats import Beater
from komad.work.device import open_device
from komad.work.devices import WorkerDevice
from komad.work.exits import Exit
from komad.work.nvml import GpuWatch
from komad.work.orphans import boot_id

logger = structlog.get_logger(__name__)

BEAT_INTERVAL_S = 2.0
BEAT_PATIENCE_S = 0.5
"""How long a beat waits for a database that is locked; it has to be ready for the next one."""
PATIENCE_S = 600.0
"""How long the end of a job waits: what was computed is worth it."""
GRACE_S = 60.0
"""How long the jobs in hand may take after SIGTERM; systemd allows more (TimeoutStopSec)."""


class Worker:
    """One process, one device. Its main thread beats; the threads of `AssemblyLine` work."""

    def __init__(self, settings: Settings, store: Store, worker_id: str, device: WorkerDevice) -> None:
        self._settings = settings
        self._store = store
        self._worker_id = worker_id
        opened = open_device(device.device, device.memory_fraction)
        self._line = AssemblyLine(settings, store, worker_id, opened)
        self._gpu = GpuWatch(device.visible)
        self._beater = Beater()
        self._signals = 0
        self._wake = threading.Event()
        # As the supervisor told: it may have died before we asked.
        self._parent = int(os.environ.get("KOMAD_SUPERVISOR_PID", os.getppid()))

    def run(self) -> Exit:
        """Work until told to stop; gives the exit status."""
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches all of the terminal; the daemon tells us
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN
        )  # the same; the daemon starts us anew with other settings
        signal.signal(signal.SIGTERM, self._on_signal)
        self._line.start()
        self._gpu.start()
        deadline: float | None = None
        while (status := self._line.status()) is None:
            if not self._beat():
                return Exit.LOST
            if self._signals and deadline is None:
                self._line.stop()
                deadline = monotonic() + GRACE_S
            if self._signals > 1 or self._is_orphan() or (deadline is not None and monotonic() > deadline):
                self._line.abandon()
                return Exit.STOPPED
            self._wake.wait(BEAT_INTERVAL_S if deadline is None else 0.1)
            self._wake.clear()
        return status

    def _beat(self) -> bool:
        """Show a sign of life, unless one job takes so long that the supervisor has to end it.

        That goes by the pipe; the row in the database is for people, and tells us when we were declared lost.
        """
        activity, since = self._line.activity()
        if since is not None and monotonic() - since > self._settings.queue.job_timeout_s:
            return True
        self._beater.beat()
        try:
            return self._store.beat(self._worker_id, activity, self._gpu.state(), patience_s=BEAT_PATIENCE_S)
        except (BusyError, DiskFullError, StoreDiskError):
            return True

    def _is_orphan(self) -> bool:
        return os.getppid() != self._parent

    def _on_signal(self, *_: int | FrameType | None) -> None:
        self._signals += 1
        self._wake.set()


def main(arguments: list[str]) -> Exit:
    """Set the process up and run its worker."""
    worker_id, name, memory_fraction = arguments
    device = WorkerDevice(
        device=name,
        memory_fraction=float(memory_fraction),
        visible=os.environ["CUDA_VISIBLE_DEVICES"],
    )
    settings = Settings.model_validate_json(sys.stdin.read())
    log.configure(settings.log)
    share_results(settings)
    structlog.contextvars.bind_contextvars(worker=worker_id)
    with Store(settings.state_directory, patience_s=PATIENCE_S).open(create=False) as store:
        store.register_worker(worker_id, boot_id=boot_id(), pid=os.getpid(), device=name)
        try:
            return Worker(settings, store, worker_id, device).run()
        except DeviceError as error:
            store.set_aside(name, str(error))
            raise
        finally:
            with suppress(BusyError, DiskFullError, StoreDiskError):  # the supervisor removes it, too
                store.remove_worker(worker_id, patience_s=BEAT_PATIENCE_S)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except DeviceError as problem:
        logger.error("device failed its probe", error=str(problem))
        status = Exit.BAD_DEVICE
    except KomadError as problem:
        logger.error("worker cannot go on", code=problem.code, error=str(problem))
        status = Exit.BROKEN
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(status)  # a thread may hang in a read of a lost mount; waiting for it would hang too
