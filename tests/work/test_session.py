"""A session with KOMA by real worker processes: whoever does what and when, each movie's result is the same."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import numpy.typing as npt
import pytest
from structlog.testing import capture_logs

from komad.config import Archive, Koma, Settings
from komad.formats.images import write_mrc
from komad.model import JobKind, JobState, Movie, series_of
from komad.store import Store
from komad.store.listing import list_jobs
from komad.work import supervisor as supervisor_module
from komad.work.archive import archive_movie, read_source
from komad.work.correct import make_micrographs
from komad.work.session import SessionInMemory
from komad.work.supervisor import Supervisor
from tests.work.conftest import SHAPE, MakeMovie, counts, wait_until

N_MOVIES = 7
KOMA = Koma(radius=2)
STEMS = [f"m{number}" for number in range(1, N_MOVIES + 1)]
Pictures = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def movies(make_movie: MakeMovie) -> list[Movie]:
    """The movies as the camera wrote them."""
    return [make_movie(stem, seed=number) for number, stem in enumerate(STEMS)]


@pytest.fixture
def undisturbed(movies: list[Movie], settings: Settings, tmp_path: Path) -> Pictures:
    """Dose-weighted sums of the movies, one after the other, without a database."""
    session, sums = SessionInMemory(KOMA), {}
    for movie in movies:
        frames = read_source(movie)
        archived = archive_movie(movie, frames, archive=Archive(enabled=False), directory=tmp_path)
        koma = session.pattern(movie, archived.stack_sum)
        outliers = archived.stack_sum.outliers
        result = make_micrographs(movie, frames, outliers=outliers, output=settings.output, koma=koma)
        assert result.sum_dose_weighted is not None
        sums[movie.stem] = result.sum_dose_weighted
    return sums


class Session:
    """Workers on a database that has the movies."""

    def __init__(self, settings: Settings, store: Store, movies: Sequence[Movie], koma: Koma) -> None:
        self.store = store
        self.settings = settings
        self.supervisor = Supervisor(store, settings)
        for movie in movies:
            series = series_of(movie, settings.watch[0].directory)
            store.add_movie(replace(movie, koma=koma.model_dump(), series=series))
        self.supervisor.start()

    def tick(self) -> None:
        """As the daemon does."""
        self.supervisor.tick()
        self.store.release_koma_held()

    def run(self) -> None:
        """Until everything is done."""
        wait_until(self.is_done, tick=self.tick)

    def is_done(self) -> bool:
        """Whether every job is."""
        return {job.state for job in list_jobs(self.store.state_directory)} == {JobState.DONE}

    def n_corrected(self) -> int:
        """Movies that are done."""
        return len(list_jobs(self.store.state_directory, state="done", kind="correct"))

    def pictures(self) -> Pictures:
        """The dose-weighted sums on disk."""
        directory = self.settings.output.directory
        return {stem: np.array(mrcfile.read(directory / f"{stem}.mrc")) for stem in STEMS}

    def details(self, stem: str) -> dict[str, Any]:
        """What the movie's JSON says of the detector."""
        path = self.settings.output.directory / f"{stem}.json"
        return json.loads(path.read_text())["detector"]


Start = Callable[..., Session]


@pytest.fixture
def start(
    settings: Settings, store: Store, movies: list[Movie], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Start a session with so many workers."""
    monkeypatch.setattr(supervisor_module, "respawn_delay_s", lambda n_failures: 0.1)
    started = []

    def begin(*, n_workers: int = 1, koma: Koma = KOMA, taken: Sequence[Movie] = movies) -> Session:
        workers = settings.workers.model_copy(update={"devices": ("cpu",) * n_workers})
        session = Session(settings.model_copy(update={"workers": workers}), store, taken, koma)
        started.append(session)
        return session

    with capture_logs():
        yield begin
        for session in started:
            session.supervisor.kill()


def assert_same(pictures: Pictures, expected: Pictures) -> None:
    """To the last bit."""
    for stem in STEMS:
        np.testing.assert_array_equal(pictures[stem], expected[stem], err_msg=stem)


def test_one_worker(start: Start, undisturbed: Pictures) -> None:
    """One worker goes on from archive to micrograph with the frames in memory, and nobody waits for neighbours."""
    session = start()
    session.run()
    assert_same(session.pictures(), undisturbed)
    for number, stem in enumerate(STEMS, start=1):
        assert session.details(stem)["n_stacks"] == min(number - 1, 4)
        correct = session.store.jobs_of(number)[JobKind.CORRECT]
        events = [event.event for event in session.store.history(correct.job_id)]
        assert events == ["release", "claim", "finish"]


def test_two_workers_one_of_them_killed_and_all_again(start: Start, undisturbed: Pictures) -> None:
    """Two workers, a kill -9 in the middle, sums deleted, jobs made again: the same pictures."""
    session = start(n_workers=2)
    wait_until(lambda: session.n_corrected() >= 2, tick=session.tick)
    os.kill(session.store.workers()[0].pid, signal.SIGKILL)
    session.run()
    assert_same(session.pictures(), undisturbed)
    for path in session.store.stack_sum_directory.glob("*[2468].sum"):
        path.unlink()
    with session.store.write() as connection:
        connection.exec_driver_sql("UPDATE stack_sums SET facts = NULL WHERE movie_id < 4")
    for number, kind in ((7, JobKind.CORRECT), (6, JobKind.CORRECT), (5, JobKind.ARCHIVE)):
        session.store.retry(session.store.jobs_of(number)[kind].job_id)
    session.run()
    assert_same(session.pictures(), undisturbed)


def test_end_of_a_centred_session(start: Start) -> None:
    """Centred windows wait for later movies, at the end of the session for their time and no longer."""
    session = start(koma=Koma(mode="centred", radius=2, max_wait_s=600))
    wait_until(lambda: session.n_corrected() == N_MOVIES - 2, tick=session.tick)
    # Their time passes, whatever the machine is busy with.
    with session.store.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET ended_at = '2000-01-01' WHERE kind = 'archive'")
    session.run()
    windows = {number: session.store.koma_window(number) for number in range(1, N_MOVIES + 1)}
    assert [window.members for window in windows.values() if window] == [
        (2, 3, 4, 5),
        (1, 3, 4, 5),
        (1, 2, 4, 5),
        (2, 3, 5, 6),
        (3, 4, 6, 7),
        (3, 4, 5, 7),
        (3, 4, 5, 6),
    ]


def test_two_cameras_and_another_gain(
    start: Start, make_movie: MakeMovie, settings: Settings, tmp_path: Path
) -> None:
    """Two cameras that write into one folder in turns, and a gain that is replaced in mid-session, do not mix."""
    gains = [tmp_path / f"gain{number}.mrc" for number in (1, 2)]
    for number, gain in enumerate(gains):
        response = np.random.default_rng(number).normal(1, 0.02, SHAPE[1:]).astype(np.float32)
        write_mrc(gain, 1 / response, pixel_size_angstrom=1.5)
    taken = []
    for number in range(8):
        if number % 2:
            small = make_movie(f"small{number}", seed=number)
            with mrcfile.mmap(small.path, "r+") as file:
                file.set_data(counts(number)[:, :128, :128])
            status = small.path.stat()
            changes = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            header = replace(small.header, ny=128, nx=128)
            taken.append(replace(small, header=header, **changes))  # type: ignore[arg-type]
        else:
            taken.append(make_movie(f"large{number}", seed=number, gain=gains[number >= 4]))
    session = start(taken=taken, n_workers=2)
    session.run()
    windows = [session.store.koma_window(number) for number in range(1, 9)]
    members = [window.members for window in windows if window is not None]
    assert members == [(), (), (1,), (2,), (), (2, 4), (5,), (2, 4, 6)]
    assert [session.details(movie.stem)["n_stacks"] for movie in taken] == [len(each) for each in members]


def test_session_of_one_movie(start: Start, movies: list[Movie]) -> None:
    """A movie without neighbours is corrected without a pattern, and says so."""
    session = start(taken=movies[:1])
    session.run()
    details = session.details("m1")
    assert details["n_stacks"] == 0
    assert "0 of 4" in json.dumps(details)
