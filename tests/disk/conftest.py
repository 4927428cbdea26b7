"""A small session: two movies of one series, done by a real worker process on a disk that fails."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from komad.config import Output, Settings, WatchFolder, Workers
from komad.errors import KomadError
from komad.ingest import describe
from komad.model import Candidate, JobState
from komad.output.session import SessionIndex
from komad.store import Store
from komad.store.listing import list_jobs
from komad.work import supervisor as supervisor_module
from komad.work.supervisor import Supervisor
from tests.disk.faults import Faults, compile_library, environment, results
from tests.work.conftest import make_movie, numba_cache, settings, store, wait_until, write_movie

FOUND_AT = "2026-01-02T03:04:05.000+00:00"

__all__ = ["make_movie", "numba_cache", "settings", "store"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes calls fail."""
    return compile_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of the supervisor are short."""
    for name in ("DISK_INTERVAL_S", "RELEASE_INTERVAL_S"):
        monkeypatch.setattr(supervisor_module, name, 0.2)
    monkeypatch.setattr(supervisor_module, "respawn_delay_s", lambda n_failures: 0.1)


class Session:
    """A movie in the database of a new folder, and what becomes of it. `root` has state, output and camera."""

    def __init__(self, root: Path, numba_cache: Path) -> None:
        self.root = root
        camera, state = root / "camera", root / "state"
        camera.mkdir(parents=True)
        state.mkdir()
        (state / "numba-cache").symlink_to(numba_cache)
        acquisition = {"pixel_size_angstrom": 1.5, "voltage_kv": 300, "dose_per_frame": 1.0}
        folder = WatchFolder.model_validate({"directory": camera, "acquisition": acquisition})
        self.settings = Settings(
            state_directory=state,
            watch=(folder,),
            output=Output(directory=root / "output", min_free_gb=0),
            workers=Workers(devices=("cpu",), threads=1),
        )
        self.written = (root / "output", state)
        path = camera / "a.mrc"
        path.write_bytes(_movie(root))
        os.utime(path, (0, 0))
        status = path.stat()
        candidate = Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)
        with Store(state).open() as store:
            movie = describe(candidate, folder, self.settings.processing, reference_directory=None)
            store.add_movie(replace(movie, found_at=FOUND_AT))

    def work(self, faults: Faults | None = None, *, until: Callable[[], bool] = lambda: False) -> None:
        """Run a supervisor with its worker until every job has ended, or `until` holds."""
        with (
            Store(self.settings.state_directory).open() as store,
            environment(faults.environment if faults else {}),
        ):
            supervisor = Supervisor(store, self.settings)
            supervisor.start()
            try:
                wait_until(lambda: until() or self._all_ended(), tick=lambda: _tick(supervisor), limit_s=90)
                supervisor.drain()
                wait_until(lambda: supervisor.n_alive == 0, tick=lambda: supervisor.tick(starting=False))
            finally:
                supervisor.kill()

    def states(self) -> list[str]:
        """States of archive and correct job."""
        return [job.state for job in reversed(list_jobs(self.settings.state_directory))]

    def _all_ended(self) -> bool:
        return not {*self.states()} & {JobState.QUEUED, JobState.RUNNING, JobState.HELD}

    def published(self) -> dict[str, object]:
        """Publish as the daemon does; gives all results."""
        output = self.settings.output.directory
        index = SessionIndex(output)
        with Store(self.settings.state_directory).open() as store:
            index.publish(
                {key: value for key, value in movie.summary.items() if key != "output_directory"}
                | {"movie_id": movie.movie_id, "sequence": movie.sequence}
                for movie in store.finished_since(0)
            )
        index.end(is_complete=True)
        return results(output)


@functools.cache
def _movie(root: Path) -> bytes:
    """The same bytes for all sessions in a folder: mrcfile writes the time into them."""
    path = write_movie(root / "template.mrc")
    data = path.read_bytes()
    path.unlink()
    return data


def _tick(supervisor: Supervisor) -> None:
    try:
        supervisor.tick()
    except KomadError as error:
        if not error.retry:
            raise


MakeSession = Callable[[], Session]


@pytest.fixture
def make_session(tmp_path: Path, numba_cache: Path) -> MakeSession:
    """Make sessions in the same folder, one after the other, so that their results can be compared."""

    def make() -> Session:
        shutil.rmtree(tmp_path / "session", ignore_errors=True)
        return Session(tmp_path / "session", numba_cache)

    return make
