"""File systems that are really full, read-only or gone: mounted here where that is allowed, else skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from komad.errors import DiskFullError
from komad.store import PausedBy, Store, ballast
from komad.work.supervisor import Supervisor
from tests.disk.conftest import Session


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB in memory."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "komad-test", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path, *, leave_bytes: int) -> Path:
    """Take the space of a file system with one file."""
    usage = os.statvfs(folder)
    path = folder / "of another program"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, usage.f_bavail * usage.f_frsize - leave_bytes))
    return path


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("leave_bytes", [0, 300_000])
def test_full(small: Path, numba_cache: Path, leave_bytes: int) -> None:
    """A disk that another program fills, before or within a movie: komad waits, says so, and ends the movie later."""
    session = Session(small / "session", numba_cache)
    session.settings.output.directory.mkdir()
    others = fill(small, leave_bytes=leave_bytes)
    seen: list[str] = []

    def look() -> bool:
        with Store(session.settings.state_directory).open(create=False) as store:
            reason = store.paused(PausedBy.DISK)
        held = [state for state in session.states() if state == "held"]
        if not seen and (reason or held):
            seen.append(reason)
            others.unlink()
        return False

    if leave_bytes == 0:
        others.unlink()
        others = fill(small, leave_bytes=200_000)  # the database itself was made before
    session.work(until=look)
    assert seen
    assert "make room" in seen[0] or not seen[0]
    assert session.states() == ["done", "done"]
    assert len(session.published()) > 10


@pytest.mark.usefixtures("quick")
def test_read_only(small: Path, tmp_path: Path, numba_cache: Path) -> None:
    """An output disk that becomes read-only holds the movie; when it can be written again, the movie is done."""
    session = Session(tmp_path / "session", numba_cache)
    output = small / "output"
    output.mkdir()
    changed = session.settings.output.model_copy(update={"directory": output})
    session.settings = session.settings.model_copy(update={"output": changed})
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    seen: list[str] = []

    def look() -> bool:
        with Store(session.settings.state_directory).open(create=False) as store:
            reason = store.paused(PausedBy.DISK)
        if reason and not seen:
            seen.append(reason)
            subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        return False

    session.work(until=look)
    assert "cannot be written" in seen[0]
    assert session.states() == ["done", "done"]


def test_ballast(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk without a free byte the database gets the space that was kept for it: what is in hand is entered."""
    state = small / "state"
    monkeypatch.setattr(ballast, "BALLAST_BYTES", 4 * 2**20)
    with Store(state).open() as store:
        assert ballast.lay(state)
        fill(small, leave_bytes=0)
        with pytest.raises(DiskFullError, match="no space is left for the database"):  # noqa: PT012
            for _ in range(20):
                store.pause("x" * 100_000, PausedBy.DISK)
        assert not (state / ballast.NAME).exists()
        for _ in range(20):
            store.pause("y" * 100_000, PausedBy.DISK)
        assert store.paused(PausedBy.DISK) == "y" * 100_000


def test_supervisor_lays_and_drops_ballast(numba_cache: Path, tmp_path: Path) -> None:
    """While komad runs, space for the database is kept; not while it is stopped."""
    session = Session(tmp_path / "session", numba_cache)
    state = session.settings.state_directory
    workers = session.settings.workers.model_copy(update={"devices": ()})
    with Store(state).open() as store:
        supervisor = Supervisor(store, session.settings.model_copy(update={"workers": workers}))
        supervisor.tick()
        assert (state / ballast.NAME).stat().st_blocks * 512 >= ballast.BALLAST_BYTES
        supervisor.kill()
    assert not (state / ballast.NAME).exists()
