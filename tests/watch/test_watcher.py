"""The way of a file from its appearance to being handed over."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from komad.config import WatchFolder, Watching
from komad.errors import MovieError, MovieMissingError, MovieTruncatedError
from komad.model import Candidate
from komad.watch.settle import Observation
from komad.watch.sweep import Selection, Sweep, look, sweep
from tests.watch.conftest import COMPLETE, Bench


def test_a_quiet_file_is_taken_once(bench: Bench, incoming: Path) -> None:
    """A complete file is taken in the second sweep, with its size and mtime, and never again."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    assert bench.sweep() == []
    assert bench.sweep() == ["a.mrc"]
    assert bench.sweep(20) == ["a.mrc"]
    status = (incoming / "a.mrc").stat()
    assert bench.candidates == [
        Candidate(path=incoming / "a.mrc", size_bytes=105, mtime_ns=status.st_mtime_ns, folder=0)
    ]


def test_two_looks_must_lie_an_interval_apart(bench: Bench, incoming: Path) -> None:
    """Sweeps in quick succession do not make a file settled."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    assert bench.sweep(10, every_s=0.25) == []
    assert bench.sweep(2, every_s=0.25) == []
    assert bench.sweep() == ["a.mrc"]


def test_a_growing_file_waits(bench: Bench, incoming: Path) -> None:
    """A file is not touched while it grows, however often it looks complete."""
    path = incoming / "a.mrc"
    for _ in range(5):
        with path.open("ab") as file:
            file.write(COMPLETE)
        assert bench.sweep() == []
    assert bench.watcher.status()[0].waiting == 1
    assert bench.sweep() == ["a.mrc"]
    assert bench.watcher.status()[0].waiting == 0


def test_a_clock_that_is_wrong_does_not_matter(bench: Bench, incoming: Path) -> None:
    """A movie dated by a camera computer ten years ahead is taken like any other."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    os.utime(incoming / "a.mrc", (2_200_000_000, 2_200_000_000))
    assert bench.sweep(2) == ["a.mrc"]


def test_renamed_into_place_is_taken_at_once(bench: Bench, incoming: Path) -> None:
    """A rename under a matching name needs no second look."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.watcher.hint(0, str(incoming / "a.mrc"), renamed=True)
    assert bench.names == ["a.mrc"]
    assert bench.sweep(3) == ["a.mrc"]


def test_renamed_but_cut_off_waits(bench: Bench, incoming: Path) -> None:
    """Renamed files too must be structurally complete."""
    (incoming / "a.mrc").write_bytes(COMPLETE[:50])
    bench.watcher.hint(0, str(incoming / "a.mrc"), renamed=True)
    assert bench.sweep(2) == []
    (incoming / "a.mrc").write_bytes(COMPLETE)
    assert bench.sweep(2) == ["a.mrc"]


def test_a_hint_starts_the_wait_early(bench: Bench, incoming: Path) -> None:
    """An event that a file was created counts as the first look."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.watcher.hint(0, str(incoming / "a.mrc"), renamed=False)
    bench.now_s += 3.0
    assert bench.sweep() == ["a.mrc"]


def test_hints_of_other_files_are_dropped(bench: Bench, incoming: Path) -> None:
    """Events of temporary names, other files and files that are gone again lead to nothing."""
    (incoming / ".a.mrc").write_bytes(COMPLETE)
    (incoming / "a.txt").write_bytes(COMPLETE)
    for name in (".a.mrc", "a.txt", "gone.mrc"):
        bench.watcher.hint(0, str(incoming / name), renamed=True)
    assert bench.sweep(3) == []


def test_known_files_of_earlier_runs_are_not_taken(incoming: Path) -> None:
    """After a restart only what is new is handed over."""
    (incoming / "old.mrc").write_bytes(COMPLETE)
    status = (incoming / "old.mrc").stat()
    bench = Bench(
        [WatchFolder(directory=incoming)],
        known={(str(incoming / "old.mrc"), status.st_size, status.st_mtime_ns)},
    )
    (incoming / "new.mrc").write_bytes(COMPLETE)
    assert bench.sweep(10) == ["new.mrc"]


def test_overwritten_under_the_same_name_is_a_new_movie(bench: Bench, incoming: Path) -> None:
    """Another movie under a name that was taken is taken too."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep(2)
    (incoming / "a.mrc").write_bytes(COMPLETE + b"longer")
    assert bench.sweep(10) == ["a.mrc", "a.mrc"]
    assert [candidate.size_bytes for candidate in bench.candidates] == [105, 111]


def test_oldest_first(bench: Bench, incoming: Path) -> None:
    """Movies that wait together are handed over in the order in which they were written."""
    for seconds, name in ((300, "a.mrc"), (100, "b.mrc"), (200, "c.mrc")):
        (incoming / name).write_bytes(COMPLETE)
        os.utime(incoming / name, (seconds, seconds))
    assert bench.sweep(2) == ["b.mrc", "c.mrc", "a.mrc"]


def test_a_cut_off_file_is_reported_once_and_seen_again_when_it_grows(bench: Bench, incoming: Path) -> None:
    """Truncated and unchanged for `give_up_s`: one report; completed later, it is taken."""
    (incoming / "a.mrc").write_bytes(COMPLETE[:60])
    bench.sweep(20)  # 57 s
    assert bench.unreadable == []
    bench.sweep(30)
    [(candidate, error)] = bench.unreadable
    assert candidate.path == incoming / "a.mrc"
    assert isinstance(error, MovieTruncatedError)
    status = bench.watcher.status()[0]
    assert (status.waiting, status.unreadable) == (0, 1)
    (incoming / "a.mrc").write_bytes(COMPLETE)
    assert bench.sweep(2) == ["a.mrc"]
    assert bench.watcher.status()[0].unreadable == 0


def test_an_empty_file_is_reported_in_the_end(bench: Bench, incoming: Path) -> None:
    """A file of zero bytes waits like a truncated one."""
    (incoming / "a.mrc").touch()
    bench.sweep(30)
    assert [candidate.path.name for candidate, _ in bench.unreadable] == ["a.mrc"]


def test_a_wrong_kind_is_reported_once_when_settled(bench: Bench, incoming: Path) -> None:
    """A file that is no movie is reported in the second sweep, once, and others go on."""
    (incoming / "a.mrc").write_bytes(b"hello")
    (incoming / "b.mrc").write_bytes(COMPLETE)
    bench.sweep()
    assert bench.unreadable == []
    assert bench.sweep(9) == ["b.mrc"]
    [(candidate, error)] = bench.unreadable
    assert candidate.path.name == "a.mrc"
    assert type(error) is MovieError


def test_a_reader_that_breaks_does_not_end_the_session(incoming: Path) -> None:
    """An unforeseen exception of the format check becomes a report that names the file."""
    bench = Bench([WatchFolder(directory=incoming)])

    def broken(path: Path) -> None:
        raise IndexError("page 7")

    bench.watcher._check_finished = broken
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep(5)
    [(_, error)] = bench.unreadable
    assert "a.mrc" in str(error)
    assert "IndexError: page 7" in str(error)


def test_a_failing_handler_keeps_the_candidate(bench: Bench, incoming: Path) -> None:
    """What could not be taken is offered again; the log says it once for one reason."""

    def fail(candidate: Candidate) -> None:
        raise RuntimeError("database is locked")

    bench.on_candidate = fail
    (incoming / "a.mrc").write_bytes(COMPLETE)
    with structlog.testing.capture_logs() as lines:
        assert bench.sweep(6) == []
    assert [line["error"] for line in lines if line["log_level"] == "warning"] == [
        "RuntimeError: database is locked"
    ]
    assert bench.watcher.status()[0].waiting == 1
    bench.on_candidate = lambda candidate: None
    assert bench.sweep(3) == ["a.mrc"]


def test_a_folder_that_goes_and_comes_back(bench: Bench, incoming: Path, tmp_path: Path) -> None:
    """An unmounted folder is shown as out of reach; back again, only new movies are taken."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep(2)
    (incoming / "b.mrc").write_bytes(COMPLETE)
    bench.sweep()
    incoming.rename(tmp_path / "away")
    bench.sweep(3)
    status = bench.watcher.status()[0]
    assert not status.reachable
    assert status.error == f"{incoming}: No such file or directory"
    assert status.waiting == 1
    (tmp_path / "away").rename(incoming)
    assert bench.sweep(12) == ["a.mrc", "b.mrc"]
    status = bench.watcher.status()[0]
    assert status.reachable
    assert status.error == ""


def test_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    """A folder that appears later is watched from then on; the other one is not held up."""
    (tmp_path / "here").mkdir()
    bench = Bench([WatchFolder(directory=tmp_path / "later"), WatchFolder(directory=tmp_path / "here")])
    (tmp_path / "here/a.mrc").write_bytes(COMPLETE)
    assert bench.sweep(2) == ["a.mrc"]
    assert [status.reachable for status in bench.watcher.status()] == [False, True]
    (tmp_path / "later").mkdir()
    (tmp_path / "later/b.mrc").write_bytes(COMPLETE)
    assert bench.sweep(2) == ["a.mrc", "b.mrc"]
    assert [candidate.folder for candidate in bench.candidates] == [1, 0]


def test_nested_watched_folders_do_not_share_movies(incoming: Path) -> None:
    """A movie belongs to the innermost watched folder, so that it gets that folder's parameters."""
    inner = incoming / "inner"
    inner.mkdir()
    (inner / "a.mrc").write_bytes(COMPLETE)
    bench = Bench([WatchFolder(directory=incoming), WatchFolder(directory=inner)])
    bench.sweep(4)
    assert [candidate.folder for candidate in bench.candidates] == [1]


def test_removed_before_it_settled(bench: Bench, incoming: Path) -> None:
    """A file that disappears again is forgotten without a word."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep()
    (incoming / "a.mrc").unlink()
    assert bench.sweep(3) == []
    assert bench.unreadable == []
    assert bench.watcher.status()[0].waiting == 0


def test_last_sweep_is_on_the_given_clock(bench: Bench) -> None:
    """`last_sweep` follows our clock, for a watchdog to compare with."""
    bench.now_s = 5000.0
    bench.watcher.sweep()
    assert bench.watcher.last_sweep == 5000.0


def slow_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """Let the clock go on by so much with every sweep over a folder; gives the times at which they begin."""
    began = []

    def slow(*args: Any, **options: Any) -> Sweep:
        began.append(bench.now_s)
        bench.now_s += seconds
        return sweep(*args, **options)

    monkeypatch.setattr("komad.watch.watcher.sweep", slow)
    return began


@pytest.mark.parametrize(("sweep_s", "pause_s"), [(0.1, 3.0), (2.0, 8.0), (20.0, 80.0), (200.0, 120.0)])
def test_looking_takes_a_fifth_of_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sweep_s: float, pause_s: float
) -> None:
    """The pause between sweeps is four times as long as a sweep, within bounds, and status says so."""
    began = slow_disk(bench, monkeypatch, sweep_s)
    while len(began) < 4:
        bench.watcher._look_around()
        bench.now_s += 0.1
    assert np.diff(began) == pytest.approx(sweep_s + pause_s, abs=0.2)
    status = bench.watcher.status()[0]
    assert (status.sweep_s, status.pause_s) == pytest.approx((sweep_s, pause_s))


def test_in_a_long_pause_unfinished_files_are_looked_at(
    bench: Bench, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A movie found by a slow sweep need not wait for the next one, 80 s later, to be taken."""
    began = slow_disk(bench, monkeypatch, 20.0)
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.watcher._look_around()
    assert bench.names == []
    bench.now_s += 3.0
    bench.watcher._look_around()
    assert bench.names == ["a.mrc"]
    assert len(began) == 1


def test_a_slow_folder_does_not_slow_down_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a network folder has its pause, the local one is swept in every interval."""
    for name in ("slow", "fast"):
        (tmp_path / name).mkdir()
    bench = Bench([WatchFolder(directory=tmp_path / name) for name in ("slow", "fast")])
    began: list[str] = []

    def as_named(selection: Selection, *args: Any, **options: Any) -> Sweep:
        name = Path(selection.root).name
        began.append(name)
        bench.now_s += 20.0 if name == "slow" else 0.0
        return sweep(selection, *args, **options)

    monkeypatch.setattr("komad.watch.watcher.sweep", as_named)
    for _ in range(20):
        bench.watcher._look_around()
        bench.now_s += 3.0
    assert (began.count("slow"), began.count("fast")) == (1, 20)


def test_a_long_sweep_gets_on(bench: Bench, incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at a file is progress, so that a sweep of many minutes is not taken for one that hangs."""
    for number in range(10):
        (incoming / f"{number}.mrc").write_bytes(COMPLETE)
    progress: list[float] = []

    def slow_look(entry: os.DirEntry[str]) -> Observation:
        progress.append(bench.watcher.last_sweep)
        bench.now_s += 100.0
        return look(entry)

    monkeypatch.setattr("komad.watch.sweep.look", slow_look)
    bench.watcher.sweep()
    assert np.diff(progress) == pytest.approx(100.0)


def test_a_folder_that_goes_away_while_its_movies_are_taken(
    bench: Bench, incoming: Path, tmp_path: Path
) -> None:
    """One line in the log, no file is reported, however long it had waited; back again, all are taken in order."""
    names = [f"{number}.mrc" for number in range(9)]
    for number, name in enumerate(names):
        (incoming / name).write_bytes(COMPLETE)
        os.utime(incoming / name, (number, number))

    def unmount(candidate: Candidate) -> None:
        if candidate.path.name == "3.mrc":
            incoming.rename(tmp_path / "away")
            bench.now_s += (
                10_000.0  # over a network taking many movies may take longer than watching.give_up_s
            )

    bench.on_candidate = unmount
    with capture_logs() as lines:
        assert bench.sweep(2) == names[:4]
        assert [line["path"] for line in lines if "path" in line] == []
        assert bench.sweep(3) == names[:4]
    (tmp_path / "away").rename(incoming)
    assert bench.sweep(3) == names
    assert bench.unreadable == []


def test_a_share_that_is_not_mounted(bench: Bench, incoming: Path, tmp_path: Path) -> None:
    """An empty mount point forgets nothing that was taken; another folder in its place is followed."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep(2)
    (incoming / "b.mrc").write_bytes(COMPLETE)
    bench.sweep()
    mounted = bench.watcher._folders[0].identity
    incoming.rename(tmp_path / "share")
    incoming.mkdir()
    assert bench.sweep(5) == ["a.mrc"]
    assert bench.watcher.status()[0].waiting == 0
    assert bench.watcher._folders[0].identity != mounted
    incoming.rmdir()
    (tmp_path / "share").rename(incoming)
    assert bench.sweep(10) == ["a.mrc", "b.mrc"]
    assert bench.unreadable == []


def test_a_file_that_is_there_and_cannot_be_read(bench: Bench, incoming: Path) -> None:
    """An input/output error of one file, though its folder is well, is reported in the end."""

    def lost(path: Path) -> None:
        raise MovieMissingError(f"{path}: Input/output error")

    bench.watcher._check_finished = lost
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep(19)
    assert bench.unreadable == []
    bench.sweep(5)
    assert [candidate.path.name for candidate, _ in bench.unreadable] == ["a.mrc"]


def test_a_folder_that_cannot_be_looked_at_keeps_only_its_own(bench: Bench, incoming: Path) -> None:
    """A link that leads nowhere in circles is told, and what was removed elsewhere is forgotten all the same."""
    (incoming / "loop.mrc").symlink_to(incoming / "loop.mrc")
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.sweep()
    (incoming / "a.mrc").unlink()
    bench.sweep()
    status = bench.watcher.status()[0]
    assert status.reachable
    assert status.error == f"{incoming / 'loop.mrc'}: Too many levels of symbolic links"
    assert status.waiting == 0


@pytest.mark.parametrize("block", [1, 7, 50])
def test_space_reserved_before_it_is_written(bench: Bench, incoming: Path, block: int) -> None:
    """A copy that sets the final size first, as Windows does, is not taken before it stops being written."""
    path = incoming / "a.mrc"
    with path.open("wb") as file:
        file.write(COMPLETE[:5])
        file.truncate(len(COMPLETE))  # complete by its length, the rest reads as zeros
        for start in range(5, len(COMPLETE), block):
            file.write(COMPLETE[start : start + block])
            file.flush()
            now = path.stat().st_mtime_ns + 1  # however coarse the times of this file system are
            os.utime(path, ns=(now, now))
            assert bench.sweep() == []
    assert bench.sweep() == ["a.mrc"]


def test_a_copy_that_sets_the_time_of_the_original(bench: Bench, incoming: Path) -> None:
    """Rsync gives the file its old time at the end: a change like any other, of mtime and ctime."""
    (incoming / "a.mrc").write_bytes(COMPLETE)
    assert bench.sweep() == []
    os.utime(incoming / "a.mrc", (1, 1))
    assert bench.sweep() == []
    assert bench.sweep() == ["a.mrc"]
    assert bench.sweep(20) == ["a.mrc"]


def test_rewritten_with_the_same_size_and_time(bench: Bench, incoming: Path) -> None:
    """Ctime tells of it while the file waits; once it was taken, size and mtime are all that is compared."""
    path = incoming / "a.mrc"
    path.write_bytes(COMPLETE)
    os.utime(path, (1, 1))

    def rewrite() -> None:
        time.sleep(0.02)  # ctime is coarse
        path.write_bytes(COMPLETE)
        os.utime(path, (1, 1))

    assert bench.sweep() == []
    rewrite()
    assert bench.sweep() == []
    assert bench.sweep() == ["a.mrc"]
    rewrite()
    assert bench.sweep(20) == ["a.mrc"]


def test_the_wall_clock_is_not_asked(bench: Bench, incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the way of a file to a candidate compares its times with now."""

    def asked() -> float:
        raise AssertionError("the wall clock was asked")

    monkeypatch.setattr(time, "time", asked)
    monkeypatch.setattr(time, "time_ns", asked)
    (incoming / "a.mrc").write_bytes(COMPLETE)
    (incoming / "cut.mrc").write_bytes(COMPLETE[:50])
    for name, moment in (("a.mrc", 4e9), ("cut.mrc", 0)):
        os.utime(incoming / name, (moment, moment))
    assert bench.sweep(30) == ["a.mrc"]
    assert [candidate.path.name for candidate, _ in bench.unreadable] == ["cut.mrc"]


@pytest.mark.parametrize("use_events", [True, False])
def test_a_copied_tree_is_found(tmp_path: Path, use_events: bool) -> None:
    """Movies in folders that appear all at once are found by the sweep."""
    (tmp_path / "source/x/y").mkdir(parents=True)
    (tmp_path / "source/x/y/a.mrc").write_bytes(COMPLETE)
    (tmp_path / "incoming").mkdir()
    bench = Bench([WatchFolder(directory=tmp_path / "incoming")], Watching(use_events=use_events))
    bench.sweep()
    shutil.copytree(tmp_path / "source", tmp_path / "incoming/session")
    assert bench.sweep(2) == ["a.mrc"]


def test_names_that_are_not_text(bench: Bench, incoming: Path) -> None:
    """A file name that is not UTF-8 is shown as a problem, cannot stop the thread, and others are taken."""
    name = os.fsdecode(b"caf\xe9.mrc")
    (incoming / name).write_bytes(COMPLETE)
    (incoming / "a.mrc").write_bytes(COMPLETE)
    bench.watcher.hint(0, str(incoming / name), renamed=True)
    assert bench.sweep(3) == ["a.mrc"]
    assert "not valid UTF-8" in bench.watcher.status()[0].error
    bench.watcher.status()[0].error.encode()


def test_what_cannot_be_looked_at_is_logged_once(bench: Bench, incoming: Path) -> None:
    """A problem below a watched folder is told when it appears, not in every sweep."""
    (incoming / os.fsdecode(b"caf\xe9.mrc")).write_bytes(COMPLETE)
    with structlog.testing.capture_logs() as lines:
        bench.sweep(4)
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["folder"] == str(incoming)
    assert "rename it" in warning["error"]


def test_many_errors_make_a_short_status(bench: Bench, incoming: Path) -> None:
    """Of many errors three are named, and their number."""
    for i in range(10):
        (incoming / os.fsdecode(b"\xe9" + str(i).encode() + b".mrc")).write_bytes(COMPLETE)
    bench.sweep()
    assert bench.watcher.status()[0].error.count("rename it") == 3
    assert bench.watcher.status()[0].error.endswith("; and 7 more")


def test_an_event_that_cannot_be_followed(
    bench: Bench, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error on the way of a hint is told and does not end the watcher: its sweeps go on."""
    monkeypatch.setattr(bench.watcher, "hint", lambda *_: incoming.relative_to("/nowhere"))
    with capture_logs() as lines:
        bench.watcher.start()
        bench.watcher._hints.put((0, "odd", True))
        deadline = time.monotonic() + 5
        while not any(line["event"] == "event dropped" for line in lines) and time.monotonic() < deadline:
            time.sleep(0.01)
        alive = bench.watcher._thread.is_alive()
        bench.watcher.stop()
    assert alive
    assert "event dropped" in [line["event"] for line in lines]
