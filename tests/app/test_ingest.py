"""Files as cameras, people and file systems leave them: each becomes a movie of its own, or a failure with a reason."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from structlog.testing import capture_logs

from komad.app import Intake
from komad.config import Settings, Watching
from komad.errors import MovieChangedError
from komad.formats.movies import check_finished, read_frames
from komad.ingest import missing_parameters, with_supplied
from komad.model import Candidate, JobKind, JobState, Movie
from komad.simulate.eer import write_eer_frames
from komad.store import Store
from komad.store.listing import list_jobs
from komad.store.overview import read_overview
from komad.store.rows import PausedBy
from komad.watch import Watcher
from komad.work.archive import read_source
from tests.app.conftest import RunningDaemon
from tests.app.test_daemon import published
from tests.work.conftest import counts, wait_until, write_movie

Run = Callable[[], RunningDaemon]

LIMIT_S = 150.0
"""The first daemon of a fresh checkout compiles its kernels, on cores that others use too."""
pytestmark = pytest.mark.timeout(300)


class Session:
    """Watcher, intake and store on real files, with a clock that is set by hand."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        self.camera = settings.watch[0].directory
        self.now_s = 0.0
        self.intake = Intake(settings, store)
        self.watcher = Watcher(
            settings.watch,
            Watching(sweep_interval_s=3.0, use_events=False),
            known=store.known_files(),
            check_finished=check_finished,
            on_candidate=self.intake.take,
            on_unreadable=self.intake.report,
            clock=lambda: self.now_s,
        )

    def sweep(self, times: int = 10) -> dict[str, str]:
        """Sweep; gives the stem of each movie by its path below the camera's folder."""
        with capture_logs():
            for _ in range(times):
                self.watcher.sweep()
                self.now_s += 3.0
        return {str(movie.path.relative_to(self.camera)): movie.stem for movie in self.movies()}

    def movies(self) -> list[Movie]:
        """All movies, as they were found."""
        return [self.store.movie(number + 1) for number in range(len(self.store.known_files()))]


@pytest.fixture
def session(settings: Settings, store: Store) -> Session:
    """A session on an empty folder."""
    return Session(settings, store)


ODD_NAMES = [
    "two words.mrc",
    "Ünïcodé-日本.mrc",
    "-rf.mrc",
    "#1.mrc",
    "it's.mrc",
    'say "a".mrc',
    "a.mrc.mrc",
    "3@b.mrc",
    "$(touch x);`x`.mrc",
    "%s{0}.mrc",
    "n" * 251 + ".mrc",
    "é" * 125 + ".mrc",
    "bell\x07\x1b[31m.mrc",
]


def test_odd_names_become_micrographs(run_daemon: Run, config: Path) -> None:
    """The real daemon makes a micrograph, an archive and readable metadata of a movie of any name that can be text."""
    camera, output = config.parent / "camera", config.parent / "output"
    for number, name in enumerate(ODD_NAMES):
        write_movie(camera / "m.mrc", seed=number).rename(camera / name)
    daemon = run_daemon()
    wait_until(lambda: len(published(config)) == len(ODD_NAMES), limit_s=LIMIT_S)
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in (output / "processed.jsonl").read_text().splitlines()]
    assert {Path(line["movie"]).name for line in lines} == set(ODD_NAMES)
    for line in lines:
        number = ODD_NAMES.index(Path(line["movie"]).name)
        np.testing.assert_array_equal(read_frames(Path(line["archive"])), counts(number))
        for name in line["files"].values():
            assert (output / name).is_file()
        general = starfile.read(output / line["files"]["motion"], always_dict=True)["general"]
        assert general["rlnMicrographMovieName"] == line["movie"]
    table = starfile.read(output / "corrected_micrographs.star")["micrographs"]
    assert len(table) == len(ODD_NAMES)


def test_a_line_break_fails_one_movie_with_a_reason(run_daemon: Run, config: Path) -> None:
    """A name that no STAR file can hold is archived and then fails; the log keeps one line for each entry."""
    camera = config.parent / "camera"
    for number, name in enumerate(("a\nb.mrc", "good.mrc")):
        write_movie(camera / "m.mrc", seed=number).rename(camera / name)
    daemon = run_daemon()

    def errors() -> dict[str, str]:
        return {job.stem: job.error_code for job in list_jobs(config.parent / "state") if job.error_code}

    wait_until(lambda: published(config) == ["good"] and errors() == {"a_b": "star"}, limit_s=LIMIT_S)
    assert daemon.stop() == 0
    assert (config.parent / "output" / "a_b.mrcz").is_file()
    for line in (config.parent / "komad.log").read_text().splitlines():
        json.loads(line)


def test_the_same_name_in_many_folders(run_daemon: Run, config: Path) -> None:
    """Each is a movie of its own, also where only case differs: archive and micrograph are of its own frames."""
    camera, output = config.parent / "camera", config.parent / "output"
    names = ["grid1/a.mrc", "grid2/a.mrc", "grid2/A.mrc", "grid3/a.tiff.mrc", "a_noDW.mrc", "a.mrc"]
    for number, name in enumerate(names):
        (camera / name).parent.mkdir(exist_ok=True)
        write_movie(camera / name, seed=number)
    daemon = run_daemon()
    wait_until(lambda: len(published(config)) == len(names), limit_s=LIMIT_S)
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in (output / "processed.jsonl").read_text().splitlines()]
    written = [name.casefold() for line in lines for name in line["files"].values()]
    assert len(set(written)) == len(written)
    for line in lines:
        number = names.index(str(Path(line["movie"]).relative_to(camera)))
        np.testing.assert_array_equal(read_frames(Path(line["archive"])), counts(number))
        total = mrcfile.read(output / line["files"]["micrograph_no_dw"]).ravel()
        alike = [np.corrcoef(total, counts(other).sum(0).ravel())[0, 1] for other in range(len(names))]
        assert int(np.argmax(alike)) == number


def test_links(session: Session, tmp_path: Path) -> None:
    """Each name of a file is a movie; loops and dangling links are none; a link that is turned leads to a new one."""
    camera = session.camera
    (tmp_path / "other").mkdir()
    first = write_movie(tmp_path / "other" / "x.mrc", seed=1)
    second = write_movie(tmp_path / "other" / "y.mrc", seed=2)
    os.utime(second, (1000, 1000))
    for name, target in (("one.mrc", first), ("two.mrc", first), ("gone.mrc", tmp_path / "gone.mrc")):
        (camera / name).symlink_to(target)
    (camera / "folder").symlink_to(tmp_path / "other")
    (camera / "up").symlink_to(camera.parent)
    (camera / "self.mrc").symlink_to(camera / "self.mrc")
    os.link(first, camera / "hard.mrc")
    assert session.sweep() == {"hard.mrc": "hard", "one.mrc": "one", "two.mrc": "two"}
    (camera / "one.mrc").unlink()
    (camera / "one.mrc").symlink_to(second)
    session.sweep()
    assert [(movie.path.name, movie.stem) for movie in session.movies()][3:] == [("one.mrc", "one-2")]
    np.testing.assert_array_equal(read_source(session.movies()[3]), counts(2))
    with pytest.raises(MovieChangedError, match="taken as a new movie"):
        read_source(session.movies()[1])


def test_rewritten_before_it_is_archived(run_daemon: Run, config: Path) -> None:
    """The old row fails as changed, the new file is a movie of its own, and its frames are the ones that are there."""
    camera, output = config.parent / "camera", config.parent / "output"
    path = write_movie(camera / "a.mrc", seed=1)
    with Store(config.parent / "state").open() as store:
        store.pause("the test rewrites a movie", PausedBy.PERSON)
        daemon = run_daemon()
        wait_until(lambda: len(store.known_files()) == 1)
        write_movie(path, seed=2)
        wait_until(lambda: len(store.known_files()) == 2)
        store.resume(PausedBy.PERSON)
        wait_until(lambda: published(config) == ["a-2"], limit_s=LIMIT_S)
        archive = store.jobs_of(1)[JobKind.ARCHIVE]
        assert (archive.state, archive.error_code) == (JobState.FAILED, "movie_changed")
    assert daemon.stop() == 0
    np.testing.assert_array_equal(read_frames(output / "a-2.mrcz"), counts(2))
    assert not (output / "a.mrcz").exists()


def test_rewritten_between_archive_and_correction(run_daemon: Run, config: Path) -> None:
    """What was archived is what is corrected; the new file is another movie, with an archive of its own."""
    camera, output = config.parent / "camera", config.parent / "output"
    config.write_text(config.read_text().replace("voltage_kv = 300\n", ""))
    path = write_movie(camera / "a.mrc", seed=1)
    with Store(config.parent / "state").open() as store:
        daemon = run_daemon()
        wait_until(lambda: len(store.known_files()) == 1)
        wait_until(lambda: store.jobs_of(1)[JobKind.ARCHIVE].state is JobState.DONE, limit_s=LIMIT_S)
        write_movie(path, seed=2)
        wait_until(lambda: len(store.known_files()) == 2)
        store.supply(
            {"voltage_kv": 300}, movie_id=None, with_supplied=with_supplied, missing=missing_parameters
        )
        wait_until(lambda: sorted(published(config)) == ["a", "a-2"], limit_s=LIMIT_S)
    assert daemon.stop() == 0
    for stem, seed in (("a", 1), ("a-2", 2)):
        np.testing.assert_array_equal(read_frames(output / f"{stem}.mrcz"), counts(seed))
        total = mrcfile.read(output / f"{stem}_noDW.mrc").mean()
        assert total == pytest.approx(counts(seed).sum(0).mean(), rel=1e-3)


def test_rewritten_while_it_is_read(session: Session) -> None:
    """Frames of two files are never mixed: a change while the frames are read is noticed after the last one."""
    write_movie(session.camera / "a.mrc", seed=1)
    session.sweep(3)
    [movie] = session.movies()

    def rewrite(index: int) -> None:
        if index == 2:
            with mrcfile.open(movie.path, "r+") as file:
                file.set_data(counts(2))
            os.utime(movie.path, (5, 5))

    with pytest.raises(MovieChangedError):
        read_source(movie, on_frame=rewrite)


def test_removed_while_queued(run_daemon: Run, config: Path) -> None:
    """It is tried again for a while, then fails as missing; the others are made. Back again, a retry makes it."""
    camera = config.parent / "camera"
    path = write_movie(camera / "a.mrc", seed=1)
    write_movie(camera / "b.mrc", seed=2)
    config.write_text(config.read_text() + "\n[queue]\nmax_attempts = 2\n")
    with Store(config.parent / "state").open() as store:
        store.pause("the test removes a movie", PausedBy.PERSON)
        daemon = run_daemon()
        wait_until(lambda: len(store.known_files()) == 2)
        path.rename(config.parent / "away.mrc")
        store.resume(PausedBy.PERSON)
        archive = next(
            job for job in list_jobs(store.state_directory) if job.stem == "a" and job.kind == "archive"
        )
        wait_until(lambda: store.job(archive.job_id).state is JobState.FAILED, limit_s=LIMIT_S)
        assert store.job(archive.job_id).error_code == "movie_missing"
        wait_until(lambda: published(config) == ["b"], limit_s=LIMIT_S)
        (config.parent / "away.mrc").rename(path)
        store.retry(archive.job_id)
        wait_until(lambda: published(config) == ["b", "a"])
    assert daemon.stop() == 0


def test_a_copy_that_stands_still_with_its_final_size(session: Session) -> None:
    """Space reserved and half of it written for longer than an interval: both states are movies, the last one whole."""
    path = session.camera / "a.mrc"
    write_movie(path, seed=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    os.utime(path, (1, 1))
    assert session.sweep(3) == {"a.mrc": "a"}
    path.write_bytes(whole)
    session.sweep()
    first, last = session.movies()
    assert (first.stem, last.stem) == ("a", "a-2")
    np.testing.assert_array_equal(read_source(last), counts(1))
    with pytest.raises(MovieChangedError):
        read_source(first)


@contextmanager
def looking_again(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Intake]:
    """An intake that looks again at movies all the time."""
    monkeypatch.setattr("komad.app.intake.LOOK_AGAIN_INTERVAL_S", 0.02)
    intake = Intake(settings, store)
    intake.start()
    yield intake
    intake.stop()


def without_voltage(settings: Settings) -> Settings:
    """Leave the voltage to the sidecar."""
    folder = settings.watch[0]
    acquisition = folder.acquisition.model_copy(update={"voltage_kv": None})
    return settings.model_copy(update={"watch": (folder.model_copy(update={"acquisition": acquisition}),)})


def candidate(path: Path) -> Candidate:
    """A candidate of a file as it is."""
    status = path.stat()
    return Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)


def test_a_sidecar_written_slowly(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a number is never taken; the value is bound when its line is whole; rewriting it changes nothing."""
    sidecar = settings.watch[0].directory / "a.mrc.mdoc"
    with capture_logs(), looking_again(without_voltage(settings), store, monkeypatch) as intake:
        sidecar.write_text("[FrameSet = 0]\nVoltage = 2")
        intake.take(candidate(write_movie(settings.watch[0].directory / "a.mrc")))
        time.sleep(0.2)
        assert store.movie(1).acquisition.voltage_kv is None
        with sidecar.open("a") as file:
            file.write("00\n")
        wait_until(lambda: store.movie(1).acquisition.voltage_kv == 200, limit_s=10)
        sidecar.write_text("[FrameSet = 0]\nVoltage = 120\n")
        time.sleep(0.2)
        assert store.movie(1).acquisition.voltage_kv == 200


def test_every_late_sidecar_is_found(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of many movies that wait gets its sidecar, though the newest never get theirs."""
    monkeypatch.setattr("komad.app.intake.N_LOOKED_AT_AGAIN", 4)
    camera = settings.watch[0].directory
    with capture_logs(), looking_again(without_voltage(settings), store, monkeypatch) as intake:
        for number in range(15):
            intake.take(candidate(write_movie(camera / f"{number}.mrc", seed=0)))
        for number in (0, 6):
            (camera / f"{number}.mrc.mdoc").write_text("[FrameSet = 0]\nVoltage = 200\n")
        wait_until(lambda: store.movie(7).acquisition.voltage_kv == 200, limit_s=10)
        wait_until(lambda: store.movie(1).acquisition.voltage_kv == 200, limit_s=10)
    assert store.movie(2).acquisition.voltage_kv is None


def test_hundreds_of_files_at_start(settings: Settings, store: Store) -> None:
    """What lies there at start is taken completely, the oldest first, in a time that grows with the number only."""
    template = write_movie(settings.watch[0].directory / "0.mrc").read_bytes()
    n_files = 400
    rng = np.random.default_rng(1)
    times = rng.permutation(n_files)
    for number, seconds in enumerate(times):
        path = settings.watch[0].directory / f"{number}.mrc"
        path.write_bytes(template)
        os.utime(path, (seconds, seconds))
    session = Session(settings, store)
    session.sweep(2)
    order = [int(movie.path.stem) for movie in session.movies()]
    assert order == np.argsort(times).tolist()
    claimed = [store.claim("w") for _ in range(3)]
    assert [job.movie_id for job in claimed if job] == [1, 2, 3]


def test_status_says_how_folders_are(run_daemon: Run, config: Path) -> None:
    """Files that are not finished, and those that are none, show up in what `komad status` reads."""
    camera = config.parent / "camera"
    (camera / "bad.mrc").write_bytes(b"no movie" * 1000)
    (camera / "cut.mrc").write_bytes(write_movie(camera / "a.mrc").read_bytes()[:5000])
    daemon = run_daemon()

    def seen() -> list[tuple[str, int, int]]:
        folders = read_overview(config.parent / "state", now=datetime.now(UTC)).folders
        return [(folder.path, folder.waiting, folder.unreadable) for folder in folders]

    wait_until(lambda: seen() == [(str(camera), 1, 1)], limit_s=30)
    assert daemon.stop() == 0


def write_eer(path: Path) -> Path:
    """An EER movie of 2 x 20 raw frames, whose file tells pixel size and dose."""
    frames = np.random.default_rng(1).poisson(2.0, (2, 48, 64)).clip(0, 20).astype(np.uint8)
    for _ in write_eer_frames(path, frames, pixel_size_angstrom=1.5, raw_frames_per_frame=20):
        pass
    return path


def test_an_eer_movie_that_is_to_be_grouped_impossibly(settings: Settings, store: Store) -> None:
    """It fails with both numbers and the way out; with the setting corrected, a retry takes it."""
    path = write_eer(settings.watch[0].directory / "a.eer")
    wrong = settings.processing.model_copy(update={"eer_grouping": 41})
    session = Session(settings.model_copy(update={"processing": wrong}), store)
    with capture_logs():
        for _ in range(3):
            session.watcher.sweep()
            session.now_s += 3.0
    [job] = list_jobs(settings.state_directory, state=JobState.FAILED)
    assert (job.error_code, job.path) == ("parameter", str(path))
    assert "41 raw frames, and the movie has 40: give less" in job.error_message
    session.intake.reload(settings)
    store.retry(job.job_id)
    with capture_logs():
        for candidate in store.to_describe():
            session.intake._describe_again(candidate)
    assert store.movie(1).header.eer is not None


def test_an_exposure_that_was_stopped_is_not_lost(session: Session) -> None:
    """An EER movie with fewer raw frames than it announces is taken when none came for `give_up_s`, with a note."""
    path = write_eer(session.camera / "a.eer")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'name="numberOfFrames">40<', b'name="numberOfFrames">80<'))
    assert session.sweep(200) == {}  # 597 s
    assert session.watcher.status()[0].waiting == 1
    assert session.sweep(3) == {"a.eer": "a"}
    [movie] = session.movies()
    assert "the file has 40 raw frames and announces 80" in movie.acquisition.notes["exposure"]
    assert read_source(movie).shape == movie.header.shape == (40, 48, 64)
    cut = session.camera / "b.eer"
    cut.write_bytes(whole[:-500])
    with capture_logs():
        for _ in range(202):
            session.watcher.sweep()
            session.now_s += 3.0
    [job] = list_jobs(session.store.path.parent, state=JobState.FAILED)
    assert (job.path, job.error_code) == (str(cut), "movie_truncated")


def test_an_eer_movie_without_a_dose_is_held_until_it_is_supplied(settings: Settings, store: Store) -> None:
    """The reason names --total-dose; supplied, it is shared out to the frames that there are, and the movie goes on."""
    path = write_eer(settings.watch[0].directory / "a.eer")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'name="totalDose"', b'name="otherDose"'))
    known = settings.watch[0].acquisition.model_copy(update={"dose_per_frame": None})
    folder = settings.watch[0].model_copy(update={"acquisition": known})
    session = Session(settings.model_copy(update={"watch": (folder,)}), store)
    assert session.sweep(3) == {"a.eer": "a"}
    [movie] = session.movies()
    assert (movie.header.n_frames, movie.acquisition.dose_per_frame) == (40, None)
    archive = store.claim("w")
    assert archive is not None
    store.finish(store.begin(archive), {}, 1.0)
    reason = store.jobs_of(1)[JobKind.CORRECT].reason
    assert "dose per frame unknown" in reason
    assert "--total-dose" in reason
    store.supply({"total_dose": 20}, movie_id=None, with_supplied=with_supplied, missing=missing_parameters)
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.QUEUED
    assert store.movie(1).acquisition.dose_per_frame == 0.5
