"""Workers whose supervisor is gone: one that slept meanwhile must not wake up and write what is another's by now."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from komad.store import WorkerRow

GONE_LIMIT_S = 5.0
"""How long the end of a killed process is waited for; one that hangs in a lost mount ends when it wakes up."""


def boot_id() -> str:
    """Tell this run of the kernel from all others: numbers of processes hold for one only."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def end(worker: WorkerRow) -> bool:
    """Kill a worker's process, if it still runs, and wait until it is gone; tells whether it ran."""
    if worker.boot_id != boot_id():
        return False
    try:
        process = os.pidfd_open(worker.pid)
    except ProcessLookupError:
        return False
    try:
        if not _is(worker):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        gone = select.poll()
        gone.register(process, select.POLLIN)
        gone.poll(1000 * GONE_LIMIT_S)
    except (ProcessLookupError, PermissionError):
        return False  # it ended meanwhile, or belongs to somebody else
    finally:
        os.close(process)
    return True


def _is(worker: WorkerRow) -> bool:
    """Whether the process of that number is the worker: the number may have been given to another one since."""
    try:
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return worker.worker_id.encode() in command.split(b"\0")
