"""A worker or the daemon is killed at each of its points; the next one goes on, and the end is compared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from structlog.testing import capture_logs

from komad import app
from komad.config import Settings
from komad.model import JobState
from komad.store import Store
from komad.work import supervisor as supervisor_module
from tests.crash import haste, installation
from tests.crash.nursery import Nursery
from tests.work.conftest import write_movie

LIMIT_S = 60.0


@dataclass(kw_only=True, slots=True)
class Kills:
    """What came of them."""

    points: list[str]
    n_kills: int = 0
    n_left: int = 0
    """Kills that left temporary files."""
    missed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{len(self.points)} points, {self.n_kills} kills ({self.n_left} left temporary files), "
            f"{len(self.missed)} not reached again, {len(self.faults)} faults, {self.seconds:.0f} s"
        )


def kill_workers(place: Path, numba_cache: Path, moments: Sequence[str] = ()) -> Kills:
    """Kill a worker before and after every point, or at these moments; compare with a run that nobody disturbed."""
    started = time.monotonic()
    with capture_logs():
        settings = installation.with_movies(place / "run", numba_cache)
    installation.put_back(place / "run", place / "template")
    with Nursery(place / "nursery", numba_cache) as nursery, _hurried(nursery):
        listed = place / "points"
        _run(
            settings, {}
        )  # compiles what is not compiled yet: loops may differ in the last bit from those kept on disk
        installation.put_back(place / "template", place / "run")
        _run(settings, {"CRASH_POINTS": str(listed)})
        points = [point for point in dict.fromkeys(listed.read_text().splitlines()) if _is_fixed(point)]
        right = installation.content(settings)
        kills = Kills(points=points, faults=_faults(settings))
        for moment in moments or [f"{side}|{point}" for point in points for side in ("before", "after")]:
            installation.put_back(place / "template", place / "run")
            done = place / "killed"
            done.unlink(missing_ok=True)
            try:
                left = _run(settings, {"CRASH_AT": moment, "CRASH_DONE": str(done)})
            except AssertionError as error:
                kills.faults.append(f"{moment}: {error}")
                continue
            if not done.exists():
                kills.missed.append(moment)
                continue
            kills.n_kills += 1
            kills.n_left += bool(left)
            kills.faults += [f"{moment}: {fault}" for fault in _faults(settings)]
            kills.faults += [
                f"{moment}: {fault}"
                for fault in installation.differences(right, installation.content(settings))
            ]
    kills.seconds = time.monotonic() - started
    return kills


def kill_daemons(place: Path, numba_cache: Path, moments: Sequence[str] = ()) -> Kills:
    """Do the same with `komad run`, from the start to the end in order, its workers being real processes."""
    started = time.monotonic()
    settings = installation.settings_at(place / "run", numba_cache)
    for seed, stem in enumerate(installation.STEMS):
        write_movie(settings.watch[0].directory / f"{stem}.mrc", seed)
    configuration = installation.configuration(settings)
    installation.put_back(place / "run", place / "template")
    listed, done = place / "points", place / "killed"
    _run_daemon(configuration, settings, {})
    installation.put_back(place / "template", place / "run")
    _run_daemon(configuration, settings, {"CRASH_POINTS": str(listed)})
    points = [point for point in dict.fromkeys(listed.read_text().splitlines()) if _is_early(point)]
    right = installation.content(settings)
    kills = Kills(points=points, faults=_faults(settings))
    installation.put_back(place / "run", place / "right")
    for moment in moments or [f"{side}|{point}" for point in points for side in ("before", "after")]:
        installation.put_back(place / "template", place / "run")
        done.unlink(missing_ok=True)
        at = {"CRASH_AT": moment, "CRASH_DONE": str(done)}
        try:
            while _run_daemon(configuration, settings, at) == -signal.SIGKILL:
                kills.n_left += bool(installation.temporaries(place / "run"))
        except AssertionError as error:
            kills.faults.append(f"{moment}: {error}")
            continue
        if not done.exists():
            kills.missed.append(moment)
            continue
        kills.n_kills += 1
        found = _faults(settings) + installation.differences(right, installation.content(settings))
        kills.faults += [f"{moment}: {fault}" for fault in found]
        if found:
            installation.put_back(place / "run", place / f"faulty-{kills.n_kills}")
    kills.seconds = time.monotonic() - started
    return kills


def _run_daemon(configuration: Path, settings: Settings, environment: dict[str, str]) -> int:
    """Run until all is done, then tell it to stop; gives the exit status, also when it ended before."""
    command = [sys.executable, "-m", "tests.crash.daemon", "run", "--config", str(configuration)]
    with (
        configuration.with_suffix(".log").open("ab") as log,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd,
    ):
        systemd.bind("")  # the kernel gives it a name
        address = systemd.getsockname().decode().replace("\0", "@", 1)
        told = {"NOTIFY_SOCKET": address}
        daemon = subprocess.Popen(command, env={**os.environ, **environment, **told}, stdout=log, stderr=log)
        try:
            deadline, heard = time.monotonic() + LIMIT_S, b""
            while (status := daemon.poll()) is None:
                with suppress(BlockingIOError):
                    heard += systemd.recv(4096)
                if b"READY=1" in heard and _all_published(settings):
                    break
                assert time.monotonic() < deadline, "waited in vain"
                time.sleep(0.05)
            if status is None:
                daemon.send_signal(signal.SIGTERM)
                status = daemon.wait(LIMIT_S)
            assert status in {0, -signal.SIGKILL}, f"ended with {status}"
            return status
        finally:
            daemon.kill()
            daemon.wait()


def _all_published(settings: Settings) -> bool:
    path = settings.output.directory / "processed.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") == len(installation.STEMS)


def _is_early(point: str) -> bool:
    """Whether a point is the same in every run: later ones are a matter of time."""
    return _is_fixed(point) and int(point.rsplit(maxsplit=1)[-1]) <= 2


def _faults(settings: Settings) -> list[str]:
    return installation.faults(settings, {stem: seed for seed, stem in enumerate(installation.STEMS)})


def _is_fixed(point: str) -> bool:
    """Whether a point is the same in every run: beats after the first one are a matter of time."""
    return not point.startswith("commit beat ") or point == "commit beat 1"


@contextmanager
def _hurried(nursery: Nursery) -> Iterator[None]:
    """Fork workers from the nursery, and wait for nothing."""
    with (
        capture_logs(),
        patch.object(supervisor_module, "subprocess", nursery),
        patch.object(supervisor_module, "respawn_delay_s", lambda n_failures: 0.0),
        patch("komad.store.jobs.after_failure", haste.soon),
    ):
        yield


def _run(settings: Settings, environment: dict[str, str]) -> list[str]:
    """Run the daemon until all is done, and start it once more; gives the temporary files that lay there between."""
    with patch.dict(os.environ, environment), Store(settings.state_directory).open() as store:
        daemon = app.Daemon(settings, store)
        supervisor = daemon._supervisor
        try:
            daemon._end_earlier_life()
            _until(lambda: _all_done(store), daemon, starting=True)
            supervisor.drain()
            _until(lambda: supervisor.n_alive == 0, daemon, starting=False)
        finally:
            supervisor.kill()
            daemon._end()
        left = installation.temporaries(settings.state_directory.parent)
        app.Daemon(settings, store)._end_earlier_life()
    return left


def _until(condition: Any, daemon: app.Daemon, *, starting: bool) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        daemon._tick(starting=starting)
        time.sleep(0.01)


def _all_done(store: Store) -> bool:
    with store.read() as connection:
        states = connection.exec_driver_sql("SELECT DISTINCT state FROM jobs").scalars().all()
    assert JobState.FAILED not in states, "a job failed"
    return states == [JobState.DONE]
