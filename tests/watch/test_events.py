"""The watcher's thread with real events of the file system."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from watchdog.observers.inotify_c import InotifyEvent

from komad.config import WatchFolder, Watching
from komad.model import Candidate
from komad.watch import Watcher, observer
from komad.watch.sweep import Sweep, sweep
from tests.watch.conftest import COMPLETE, check_complete


@contextmanager
def running(directory: Path, watching: Watching) -> Iterator[tuple[Watcher, list[str]]]:
    """A started watcher and the names it has taken."""
    taken: list[str] = []

    def take(candidate: Candidate) -> None:
        taken.append(candidate.path.name)

    watcher = Watcher(
        [WatchFolder(directory=directory)],
        watching,
        known=(),
        check_finished=check_complete,
        on_candidate=take,
        on_unreadable=lambda candidate, error: taken.append(f"{candidate.path.name}: {error.code}"),
    )
    watcher.start()
    try:
        until(lambda: watcher.status()[0].reachable)
        yield watcher, taken
    finally:
        watcher.stop()


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for a condition; fail after a while."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)


@pytest.mark.parametrize("from_outside", [True, False])
def test_a_rename_is_taken_long_before_the_next_sweep(
    tmp_path: Path, incoming: Path, from_outside: bool
) -> None:
    """A movie renamed into place is taken at once, from a temporary name or from another folder."""
    temporary = (tmp_path if from_outside else incoming) / ".a.mrc.tmp"
    with running(incoming, Watching(sweep_interval_s=60.0)) as (_, taken):
        temporary.write_bytes(COMPLETE)
        time.sleep(0.1)
        assert taken == []
        temporary.rename(incoming / "a.mrc")
        until(lambda: taken == ["a.mrc"], 3.0)


def test_a_rename_in_a_new_sub_folder(incoming: Path) -> None:
    """Sub-folders that the camera makes during the session are followed too."""
    with running(incoming, Watching(sweep_interval_s=0.5)) as (_, taken):
        (incoming / "GridSquare_1/Data").mkdir(parents=True)
        (incoming / "GridSquare_1/Data/.tmp").write_bytes(COMPLETE)
        (incoming / "GridSquare_1/Data/.tmp").rename(incoming / "GridSquare_1/Data/a.mrc")
        until(lambda: taken == ["a.mrc"])


@pytest.mark.parametrize("use_events", [True, False])
def test_grown_in_place(incoming: Path, use_events: bool) -> None:
    """A movie written slowly under its final name is taken once it is quiet, with events or without."""
    with running(incoming, Watching(sweep_interval_s=0.2, use_events=use_events)) as (_, taken):
        with (incoming / "a.mrc").open("wb") as file:
            for part in range(5):
                assert taken == []  # still incomplete, however long a busy machine lets us wait
                file.write(COMPLETE[part * 21 : (part + 1) * 21])
                file.flush()
                time.sleep(0.1)
        until(lambda: taken == ["a.mrc"])


def test_a_burst_is_taken_completely(incoming: Path) -> None:
    """Fifty movies at once, half renamed, half grown in place: each is taken exactly once."""
    with running(incoming, Watching(sweep_interval_s=0.2)) as (_, taken):
        for i in range(0, 50, 2):
            (incoming / f"{i}.mrc").write_bytes(COMPLETE)
            (incoming / f".{i + 1}").write_bytes(COMPLETE)
            (incoming / f".{i + 1}").rename(incoming / f"{i + 1}.mrc")
        until(lambda: len(taken) >= 50)
        time.sleep(0.5)
    assert sorted(taken) == sorted(f"{i}.mrc" for i in range(50))


def test_events_are_followed_again_after_the_folder_was_away(tmp_path: Path, incoming: Path) -> None:
    """When a folder is replaced (mounted again), renames in the new one are seen at once."""
    with running(incoming, Watching(sweep_interval_s=0.3)) as (watcher, taken):
        incoming.rename(tmp_path / "old")
        until(lambda: not watcher.status()[0].reachable)
        incoming.mkdir()
        until(lambda: watcher.status()[0].reachable)
        (incoming / ".a").write_bytes(COMPLETE)
        (incoming / ".a").rename(incoming / "a.mrc")
        until(lambda: taken == ["a.mrc"])


@pytest.mark.parametrize("where", ["construct", "schedule"])
def test_inotify_limits_leave_the_sweep(incoming: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """When the system gives no more watches a log line says so and the sweep finds the movies."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    method = "__init__" if where == "construct" else "schedule"
    monkeypatch.setattr(observer._Inotify, method, refuse)
    with (
        structlog.testing.capture_logs() as lines,
        running(incoming, Watching(sweep_interval_s=0.1)) as (watcher, taken),
    ):
        (incoming / "a.mrc").write_bytes(COMPLETE)
        until(lambda: taken == ["a.mrc"])
        said = watcher.status()[0].no_events
    assert said.startswith("inotify watch limit reached: raise fs.inotify.max_user_watches")
    assert [line["reason"] for line in lines if "no file system events" in line["event"]] == [said]


def test_a_sweep_that_fails_is_tried_again(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error in a sweep is logged, and does not end the thread."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    calls: list[int] = []

    def failing_once(*args: Any, **options: Any) -> Sweep:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("unforeseen")
        return sweep(*args, **options)

    monkeypatch.setattr("komad.watch.watcher.sweep", failing_once)
    with (
        structlog.testing.capture_logs() as lines,
        running(incoming, Watching(sweep_interval_s=0.1)) as (_, taken),
    ):
        until(lambda: taken == ["a.mrc"])
    assert "sweep failed, trying again" in [line["event"] for line in lines]


def test_no_inotify_on_a_network_file_system(
    tmp_path: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel's list says NFS no events are asked for, log and status say so, and the sweep finds movies."""
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {incoming.resolve()} rw - nfs4 nas:/k3 rw\n"
    monkeypatch.setattr(observer, "read_mounts", lambda: mounts)
    before = set(threading.enumerate())
    with (
        structlog.testing.capture_logs() as lines,
        running(incoming, Watching(sweep_interval_s=0.1)) as (watcher, taken),
    ):
        (incoming / "a.mrc").write_bytes(COMPLETE)
        until(lambda: taken == ["a.mrc"])
        said = watcher.status()[0].no_events
        [thread] = set(threading.enumerate()) - before
        assert thread.name == "komad-watcher", "no thread of inotify's"
    assert said.startswith(f"{incoming.resolve()} is a network file system (nfs4)")
    assert said in [line.get("reason") for line in lines]


def test_events_that_the_kernel_dropped(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real overflow of the kernel's queue starts a sweep at once, and nothing is missed."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    go_on = threading.Event()
    read = observer._Queue.read_events

    def slow(self: observer._Queue) -> list[InotifyEvent]:
        go_on.wait()
        return read(self)

    monkeypatch.setattr(observer._Queue, "read_events", slow)
    with (
        structlog.testing.capture_logs() as lines,
        running(incoming, Watching(sweep_interval_s=6.0)) as (watcher, taken),
    ):
        try:
            for number in range(limit // 2 + 1000):
                (incoming / f"{number % 50}.txt").touch()  # created, closed
                (incoming / f"{number % 50}.txt").unlink()
            (incoming / ".a.tmp").write_bytes(COMPLETE)
            (incoming / ".a.tmp").rename(incoming / "a.mrc")
        finally:
            go_on.set()
        until(lambda: "file system events were lost, looking at everything" in [it["event"] for it in lines])
        until(lambda: watcher.status()[0].waiting == 1, 2.0)
        (incoming / "b.tmp").write_bytes(COMPLETE)
        (incoming / "b.tmp").rename(incoming / "b.mrc")
        until(lambda: taken == ["b.mrc"], 3.0)  # events come again
        until(lambda: taken == ["b.mrc", "a.mrc"], 10.0)


def test_stop_without_start(incoming: Path) -> None:
    """A watcher that was never started can be stopped."""
    Watcher(
        [WatchFolder(directory=incoming)],
        Watching(),
        known=(),
        check_finished=check_complete,
        on_candidate=lambda candidate: None,
        on_unreadable=lambda candidate, error: None,
    ).stop()


def test_stop_ends_all_threads(incoming: Path) -> None:
    """After stop no thread of the watcher is left, and it returns quickly in mid-interval."""
    before = set(threading.enumerate())
    with running(incoming, Watching(sweep_interval_s=60.0)):
        pass
    assert set(threading.enumerate()) <= before
