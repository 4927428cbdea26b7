"""A small installation on disk, and the real daemon run on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.invariants import _sound_databases
from tests.work.conftest import make_movie, numba_cache, settings, store, wait_until

__all__ = ["_sound_databases", "make_movie", "numba_cache", "settings", "store"]

CONFIG = """
state_directory = "state"

[[watch]]
directory = "camera"
[watch.acquisition]
pixel_size_angstrom = 1.5
voltage_kv = 300
dose_per_frame = 1.0

[watching]
sweep_interval_s = 0.3

[output]
directory = "output"
min_free_gb = 0

[workers]
devices = "cpu"
"""


class RunningDaemon:
    """`komad run` in its own process, with a systemd that listens."""

    def __init__(self, config: Path) -> None:
        self._messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        address = f"komad-test-{uuid.uuid4().hex}"
        self._messages.bind(f"\0{address}")
        self._told = ""
        self.log = config.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "komad", "run", "--config", str(config)],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, "NOTIFY_SOCKET": f"@{address}"},
            start_new_session=True,
        )

    def told(self) -> str:
        """Everything that was told to systemd so far."""
        try:
            while True:
                self._told += self._messages.recv(4096).decode() + "\n"
        except BlockingIOError:
            return self._told

    def kill_all(self) -> None:
        """Kill -9 the daemon and all its workers at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; gives the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.stop()
        self._messages.close()
        self.log.close()


@pytest.fixture
def config(settings: object, tmp_path: Path) -> Path:
    """Write the configuration beside the folders that `settings` made."""
    path = tmp_path / "komad.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run_daemon(config: Path) -> Iterator[Callable[[], RunningDaemon]]:
    """Start daemons; each is ready when it is given back, and ended after the test."""
    daemons = []

    def start() -> RunningDaemon:
        daemon = RunningDaemon(config)
        daemons.append(daemon)
        wait_until(lambda: daemon.process.poll() is not None or "READY=1" in daemon.told())
        return daemon

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def run_daemon_now(config: Path) -> Iterator[Callable[[], RunningDaemon]]:
    """Start daemons without waiting until they are ready."""
    daemons = []

    def start() -> RunningDaemon:
        daemons.append(RunningDaemon(config))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()
