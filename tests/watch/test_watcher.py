"""The way of a file from its appearance to being handed over."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from komad.config import WatchFolder, Watching
from komad.errors import MovieError, MovieTruncatedError
from komad.model import Candidate
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

    bench.watcher._check_complete = broken
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
