"""Folders where each frame is a file: movies are handed over as one, when all of their frames are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from komad.config import WatchFolder
from komad.errors import MovieError
from komad.formats import movies
from komad.watch import watcher
from tests.formats.files import counts, write_mrc_movie
from tests.watch.conftest import Bench

TEMPLATE = "{movie}_frame{frame}.mrc"
FRAME = counts((1, 8, 9))


def add(folder: Path, movie: str, *numbers: int) -> None:
    """Write frames of a movie."""
    for number in numbers:
        write_mrc_movie(folder / f"{movie}_frame{number}.mrc", FRAME, 0)


def bench_of(incoming: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Bench:
    """A bench whose watcher looks into the files themselves."""
    monkeypatch.setattr("tests.watch.conftest.check_complete", movies.check_complete)
    folder = WatchFolder.model_validate({"directory": incoming, "frame_files": TEMPLATE, **settings})
    return Bench([folder])


def test_a_movie_of_a_known_number_of_frames(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken once, when it has all; late frames are waited for, and it is told after the limit that they lack."""
    bench = bench_of(incoming, monkeypatch, frames_per_movie=3)
    add(incoming, "a", 1, 3)
    add(incoming, "b", 1, 2, 3)
    (incoming / "sum.mrc").write_bytes(b"")
    assert bench.sweep(2) == ["b_frame{frame}.mrc"]
    assert bench.candidates[0].size_bytes == 3 * (1024 + 72)
    bench.sweep(30)
    assert [str(error).split(" (")[0] for _, error in bench.unreadable] == [
        f"{incoming}/a_frame{{frame}}.mrc has 2 of 3 frames"
    ]
    add(incoming, "a", 2)
    assert bench.sweep(20) == ["b_frame{frame}.mrc", "a_frame{frame}.mrc"]


def test_a_movie_of_any_number_of_frames(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is complete when no frame came for a while, and none is missing in between."""
    bench = bench_of(incoming, monkeypatch, frame_settle_s=30.0)
    for number in range(3):
        add(incoming, "a", number)
        assert bench.sweep(5) == []
    add(incoming, "b", 0, 2)
    assert bench.sweep(6) == ["a_frame{frame}.mrc"]
    assert bench.sweep(12) == ["a_frame{frame}.mrc"]
    add(incoming, "b", 1)
    assert bench.sweep(12) == ["a_frame{frame}.mrc", "b_frame{frame}.mrc"]


def test_a_change_makes_another_movie(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that comes after its movie was taken, or is written anew, brings the movie once more; no look else."""
    bench = bench_of(incoming, monkeypatch, frame_settle_s=3.0)
    add(incoming, "a", 1, 2)
    assert bench.sweep(12) == ["a_frame{frame}.mrc"]
    add(incoming, "a", 3)
    bench.sweep(12)
    assert [candidate.size_bytes // (1024 + 72) for candidate in bench.candidates] == [2, 3]


def test_two_many_frames_are_told(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More frames than there may be are no movie."""
    bench = bench_of(incoming, monkeypatch, frames_per_movie=2)
    add(incoming, "a", 1, 2, 3)
    assert bench.sweep(3) == []
    assert [type(error) for _, error in bench.unreadable] == [MovieError]


def test_events_of_single_frames_wait_for_the_sweep(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint about one frame is passed over; one about a movie that waits is not."""
    bench = bench_of(incoming, monkeypatch, frames_per_movie=1)
    add(incoming, "a", 1)
    looked: list[str] = []
    look = watcher.look
    monkeypatch.setattr(watcher, "look", lambda path: looked.append(path) or look(path))
    bench.watcher.hint(0, str(incoming / "a_frame1.mrc"), True)
    assert (looked, bench.names) == ([], [])
    bench.watcher.hint(0, str(incoming / "a_frame{frame}.mrc"), False)
    bench.now_s += 3.0
    bench.watcher.hint(0, str(incoming / "a_frame{frame}.mrc"), False)
    assert bench.names == ["a_frame{frame}.mrc"]


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_files": "a.mrc"},
        {"frames_per_movie": 3},
        {"frame_files": TEMPLATE, "frames_per_movie": 0},
        {"frame_files": "{movie}/{frame}.mrc", "recursive": False},
    ],
)
def test_settings_that_cannot_be(incoming: Path, settings: dict[str, object]) -> None:
    """A template without its words or below a folder that is not entered, and a number of frames without one."""
    with pytest.raises(ValueError, match="frame"):
        WatchFolder.model_validate({"directory": incoming, **settings})
