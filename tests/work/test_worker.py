"""Signs of life of a worker process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from komad.config import Queue, Settings
from komad.store import Store
from komad.store.growth import NO_GROWTH
from komad.work import devices
from komad.work.assembly_line import AssemblyLine
from komad.work.device import CPU
from komad.work.exits import Exit
from komad.work.supervisor import Supervisor
from komad.work.worker import Worker


@pytest.mark.parametrize(("busy_for_s", "beats"), [(None, 1), (899.0, 1), (901.0, 0)])
def test_no_beat_for_a_job_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, busy_for_s: float | None, beats: int
) -> None:
    """A worker stops beating when one job exceeds its time, so that the supervisor ends it; an idle one beats."""
    since = None if busy_for_s is None else monotonic() - busy_for_s
    monkeypatch.setattr(
        "komad.work.worker.AssemblyLine", lambda *_: SimpleNamespace(activity=lambda: ("correcting a", since))
    )
    seen: list[tuple[str, str]] = []
    store: Any = SimpleNamespace(beat=lambda *told, patience_s: seen.append(told) or True)
    worker = Worker(Settings(queue=Queue(job_timeout_s=900)), store, "w", devices.CPU)
    assert worker._beat()
    assert seen == [("w", "correcting a", None)] * beats


def test_thread_that_fails_while_it_tells(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose thread ended is broken, whatever went wrong on the way: it must not live on and do nothing."""
    line = AssemblyLine(settings, store, "w", CPU)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("komad.work.assembly_line.logger", SimpleNamespace(exception=fail))
    with pytest.raises(OSError, match="no space"):
        line._guarded(fail)
    assert line.status() is Exit.BROKEN


def test_supervisor_that_died_first(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends when the supervisor died before the worker could look who its parent is."""
    monkeypatch.setenv("KOMAD_SUPERVISOR_PID", "999999999")
    assert Worker(settings, store, "w", devices.CPU)._is_orphan()
    monkeypatch.setenv("KOMAD_SUPERVISOR_PID", str(os.getppid()))
    assert not Worker(settings, store, "w", devices.CPU)._is_orphan()


def test_environment_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """A worker gets its device, threads and kernel cache before it imports anything, and the settings unchanged."""
    monkeypatch.setenv("KOMAD_OUTPUT__DIRECTORY", "relative")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    told = tmp_path / "told.json"
    script = (
        "import json, os, sys; from komad.config import Settings\n"
        "settings = Settings.model_validate_json(sys.stdin.read())\n"
        "told = {**os.environ, 'output': str(settings.output.directory), 'arguments': sys.argv[1:]}\n"
        f"json.dump(told, open({str(told)!r}, 'w'))"
    )
    store: Any = SimpleNamespace(
        paused=lambda _: "",
        bad_devices=dict,
        leases=set,
        release_disk_held=int,
        return_jobs=lambda *_: [],
        growth=lambda: NO_GROWTH,
    )
    supervisor = Supervisor(store, settings, command=(sys.executable, "-W", "ignore", "-c", script))
    supervisor.tick()
    process = supervisor._workers[0].process
    assert isinstance(process, subprocess.Popen)
    process.wait(30)
    got = json.loads(told.read_text())
    assert got["output"] == str(settings.output.directory)
    assert got["arguments"][1:] == ["cpu", "0"]
    assert (got["CUDA_VISIBLE_DEVICES"], got["KOMAD_THREADS"], got["NUMBA_NUM_THREADS"]) == ("", "1", "1")
    assert got["KOMAD_SUPERVISOR_PID"] == str(os.getpid())
    assert got["NUMBA_CACHE_DIR"] == str(settings.state_directory / "numba-cache")
    assert got["CUPY_CACHE_DIR"] == str(settings.state_directory / "cupy-cache")
