"""A watched folder, a clock that is set by hand, and a watcher that notes down what it hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from komad.config import WatchFolder, Watching
from komad.errors import KomadError, MovieError, MovieMissingError, MovieTruncatedError
from komad.model import Candidate
from komad.watch import Watcher

WATCHING = Watching(sweep_interval_s=3.0, give_up_s=60.0, use_events=False)
COMPLETE = b"MOVIE" + bytes(100)


def check_complete(path: Path) -> None:
    """A container of 105 bytes that begins with MOVIE."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MovieMissingError(f"{path} is gone") from error
    if not content.startswith(COMPLETE[: min(5, len(content))]):
        raise MovieError(f"{path} is no movie")
    if len(content) < len(COMPLETE):
        raise MovieTruncatedError(f"{path} has {len(content)} of {len(COMPLETE)} bytes")


@dataclass
class Bench:
    """Drives a watcher sweep by sweep and keeps what came out."""

    folders: list[WatchFolder]
    watching: Watching = WATCHING
    known: set[tuple[str, int, int]] = field(default_factory=set)
    now_s: float = 1000.0
    candidates: list[Candidate] = field(default_factory=list)
    unreadable: list[tuple[Candidate, KomadError]] = field(default_factory=list)
    on_candidate: Callable[[Candidate], None] = lambda candidate: None

    def __post_init__(self) -> None:
        self.watcher = Watcher(
            self.folders,
            self.watching,
            known=self.known,
            check_finished=check_complete,
            on_candidate=self._take,
            on_unreadable=lambda candidate, error: self.unreadable.append((candidate, error)),
            clock=lambda: self.now_s,
        )

    def _take(self, candidate: Candidate) -> None:
        self.on_candidate(candidate)
        self.candidates.append(candidate)

    def sweep(self, times: int = 1, *, every_s: float = 3.0) -> list[str]:
        """Sweep, each after an interval; the names taken so far."""
        for _ in range(times):
            self.watcher.sweep()
            self.now_s += every_s
        return self.names

    @property
    def names(self) -> list[str]:
        return [candidate.path.name for candidate in self.candidates]


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """The folder the camera writes to."""
    directory = tmp_path / "incoming"
    directory.mkdir()
    return directory


@pytest.fixture
def bench(incoming: Path) -> Bench:
    """A bench on that folder with the default patterns."""
    return Bench([WatchFolder(directory=incoming)])
