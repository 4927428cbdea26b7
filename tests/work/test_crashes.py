"""Workers killed between any two steps, or asleep while their jobs are given away: the end is the same."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from komad.config import Settings
from komad.model import JobKind, JobState
from komad.store import Store
from komad.work import supervisor as supervisor_module
from komad.work.supervisor import Supervisor
from tests.crash import installation
from tests.crash.kills import kill_workers
from tests.work.conftest import MakeMovie, wait_until

WORKER = (sys.executable, "-m", "tests.crash.worker")
KILLED_AT = ("before|replace b.mrcz 1", "after|replace a.star 1", "after|commit finish 1")


@pytest.mark.timeout(600)  # compiles all loops where none are kept
def test_killed_between_two_steps(tmp_path: Path, numba_cache: Path) -> None:
    """Whatever a killed worker left half done, the next one ends it, and every file is as it would have been."""
    kills = kill_workers(tmp_path, numba_cache, KILLED_AT)
    assert kills.n_kills == len(KILLED_AT)
    assert kills.faults == []


def test_worker_that_wakes_up(tmp_path: Path, numba_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that slept while komad died and its job was done by another one takes nothing of it away."""
    monkeypatch.setattr(supervisor_module, "respawn_delay_s", lambda n_failures: 0.1)
    monkeypatch.setenv("CRASH_AT", "before|unlink a.star 1")
    monkeypatch.setenv("CRASH_DONE", str(tmp_path / "stopped"))
    monkeypatch.setenv("CRASH_SIGNAL", "SIGSTOP")
    with capture_logs():
        settings = installation.with_movies(tmp_path / "run", numba_cache)
        settings.output.directory.mkdir()
        (settings.output.directory / "a.star").touch()  # of an earlier run
        with Store(settings.state_directory).open() as store:
            first = Supervisor(store, settings, command=WORKER)
            first.start()
            wait_until((tmp_path / "stopped").exists, tick=first.tick)
            sleeper = psutil.Process(store.workers()[0].pid)
            second = Supervisor(store, settings, command=WORKER)
            try:
                second.start()
                was_ended = sleeper.status() == psutil.STATUS_ZOMBIE  # before its job was given away
                correct = store.jobs_of(1)[JobKind.CORRECT].job_id
                wait_until(lambda: store.job(correct).state is JobState.DONE, tick=second.tick)
                os.kill(sleeper.pid, signal.SIGCONT)
                sleeper.wait(10)
                assert was_ended
                assert (settings.output.directory / "a.star").exists()
            finally:
                second.kill()
                first.kill()


def test_worker_that_came_late(settings: Settings, store: Store, make_movie: MakeMovie) -> None:
    """A worker of a daemon that is gone, which registers after the next one started, does not keep its job."""
    idle = settings.model_copy(update={"workers": settings.workers.model_copy(update={"devices": ()})})
    supervisor = Supervisor(store, idle)
    with capture_logs():
        supervisor.start()
        store.add_movie(make_movie())
        store.register_worker("cpu-late", boot_id="another", pid=os.getpid(), device="cpu")
        job = store.claim("cpu-late")
        assert job is not None
        supervisor.tick()
    assert store.job(job.job_id).state is JobState.QUEUED
    assert store.workers() == []
