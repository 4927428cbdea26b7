"""The camera's files are removed after their archives are proven, and only then."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from komad.config import Archive, Cleanup, Settings
from komad.errors import ArchiveError, DiskFullError, ParameterError
from komad.formats.movies import read_frames
from komad.formats.mrcz import write_mrcz
from komad.model import JobKind, JobState, Movie
from komad.output.manifest import MANIFEST, ArchiveEntry, Event, Manifest, Moment, record_archive
from komad.store import Store
from komad.store.overview import CleanupState, read_overview
from komad.work import cleanup
from komad.work.archive import KEPT, archive_movie, find_verified_archive, read_source
from komad.work.cleanup import Cleaner, CleanupProcess, Fate
from komad.work.supervisor import Supervisor
from tests.work.conftest import MakeMovie, counts, wait_until

DAY_H = 24.0
LATER = timedelta(hours=30)


@dataclass
class Installation:
    """A movie with all of its jobs done, and a cleaner a day later."""

    settings: Settings
    store: Store
    movie: Movie
    ahead: timedelta = LATER
    """Of the wall clock."""
    uptime_s: float = LATER.total_seconds()
    """Passed since the archive was made, or since another boot."""
    boot_id: str | None = None
    on_frame: Callable[[], Any] = lambda: None
    """Called before each frame is compared."""

    @property
    def archive(self) -> Path:
        return self.settings.archive_directory / "a.mrcz"

    @property
    def manifest(self) -> Manifest:
        manifest = Manifest(self.settings.archive_directory)
        manifest.refresh()
        return manifest

    @property
    def entry(self) -> ArchiveEntry:
        return self.manifest.lines["a.mrcz"].entry

    def cleaner(self) -> Cleaner:
        def moment() -> Moment:
            if self.boot_id is not None:
                return Moment(boot_id=self.boot_id, boottime_s=self.uptime_s)
            now = Moment.now()
            return replace(now, boottime_s=now.boottime_s + self.uptime_s)

        def go_on() -> bool:
            return self.on_frame() is not False

        return Cleaner(
            self.settings, clock=lambda: datetime.now(UTC) + self.ahead, moment=moment, go_on=go_on
        )

    def clean(self) -> CleanupState:
        """Run once; gives what a status shows then."""
        states: list[CleanupState] = []
        with capture_logs():
            self.cleaner().clean(states.append)
        return states[-1]


def finish(store: Store, movie: Movie, settings: Settings) -> Movie:
    """Add a movie and do its jobs, but for the micrographs."""
    added = store.add_movie(movie)
    assert added is not None
    directory = settings.archive_directory
    result = archive_movie(added, read_source(added), archive=Archive(), directory=directory)
    for kind in JobKind:
        job = store.claim("w")
        assert job is not None
        assert job.kind is kind
        store.finish(store.begin(job), result.summary, 1.0)
    return added


@pytest.fixture
def installation(settings: Settings, store: Store, make_movie: MakeMovie) -> Installation:
    """The movie lies in a sub-folder of the camera's folder, with a sidecar."""
    camera = settings.watch[0].directory
    (camera / "grid").mkdir()
    output = settings.output.model_copy(update={"archive_directory": camera.parent / "archive"})
    settings = settings.model_copy(update={"cleanup": Cleanup(delete_movies_after_h=DAY_H), "output": output})
    movie = make_movie("a", seed=5)
    path = movie.path.rename(camera / "grid" / "a.mrc")
    path.with_suffix(".mrc.mdoc").write_text("PixelSpacing = 1.5\n")
    return Installation(
        settings, store, finish(store, replace(movie, path=path, koma={"mode": "off"}), settings)
    )


def test_a_proven_movie_goes_and_nothing_else(installation: Installation) -> None:
    """The movie is removed, its sidecar and its archive stay; manifest, status and log tell it.

    A movie that is put back after that stays.
    """
    before = installation.archive.read_bytes()
    before_removal = shutil.copy2(installation.movie.path, installation.archive.with_name("copy"))
    with capture_logs() as lines:
        assert installation.cleaner().clean(installation.store.put_cleanup) == 1
    assert [path.name for path in installation.movie.path.parent.iterdir()] == ["a.mrc.mdoc"]
    assert installation.archive.read_bytes() == before
    np.testing.assert_array_equal(read_frames(installation.archive), counts(5))
    manifest = installation.manifest
    assert manifest.lines["a.mrcz"].last is Event.REMOVED
    assert [json.loads(line)["event"] for line in manifest.path.read_text().splitlines()] == [
        "archived",
        "removing",
        "removed",
    ]
    (line,) = lines
    assert (line["event"], line["movie"]) == ("movie removed, its archive is proven", "a")
    state = read_overview(installation.settings.state_directory, now=datetime.now(UTC)).cleanup
    assert state == CleanupState(
        n_removed=1, removed_bytes=installation.movie.size_bytes, n_due=0, due_bytes=0, n_kept=0, kept={}
    )
    shutil.copy2(before_removal, installation.movie.path)
    assert installation.cleaner().clean() == 0
    assert [verdict.fate for verdict in installation.cleaner().look()] == [Fate.GONE]
    assert installation.movie.path.exists()


def rot(path: Path, offset: int | None = None) -> None:
    """Turn one bit, in the middle if not told where; size and times stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 1000 if offset is None else offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def lead_elsewhere(path: Path) -> None:
    """Put a link in the place of a file or folder."""
    away = path.parents[2] / f"away-{path.name}"
    path.rename(away)
    path.symlink_to(away)


def archive_other_frames(it: Installation, frames: Any) -> None:
    """Put another archive in its place, with a manifest that agrees with it."""
    written = write_mrcz(it.archive, frames, pixel_size_angstrom=1.5, voltage_kv=300, cs_mm=2.7, metadata={})
    changed = replace(it.entry, archive_bytes=written.n_bytes, archive_xxh3=written.xxh3)
    record_archive(it.settings.archive_directory, changed)


def wrong_frames() -> Any:
    """One count differs."""
    frames = counts(5)
    frames[3, 7, 9] += 1
    return frames


def retry(kind: JobKind) -> Callable[[Installation], Any]:
    """Queue a job again."""
    return lambda it: it.store.retry(it.store.jobs_of(it.movie.movie_id)[kind].job_id)


def meanwhile(action: Callable[[Installation], Any]) -> Callable[[Installation], Any]:
    """Do something while the first frame is compared."""

    def prepare(it: Installation) -> None:
        calls = []

        def on_frame() -> None:
            calls.append(None)
            if len(calls) == 2:  # the first call is before the movie as a whole
                action(it)

        it.on_frame = on_frame

    return prepare


def replace_by_a_copy(path: Path) -> None:
    """Put a file with the same content and times in its place."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def touch(path: Path) -> None:
    """Change nothing but ctime."""
    status = path.stat()
    time.sleep(0.02)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def add(it: Installation, **changes: Any) -> None:
    """Let the database know another movie."""
    assert it.store.add_movie(replace(it.movie, movie_id=0, stem="b", **changes)) is not None


def unmount(it: Installation) -> None:
    """Leave an empty folder in place of the camera's."""
    camera = it.settings.watch[0].directory
    camera.rename(camera.with_name("unmounted"))
    camera.mkdir()


def watch_elsewhere(it: Installation) -> None:
    """Watch another folder."""
    folder = it.settings.watch[0].model_copy(update={"directory": it.archive.parent.parent / "other"})
    it.settings = it.settings.model_copy(update={"watch": (folder,)})


CONDITIONS: dict[str, tuple[Callable[[Installation], Any], str]] = {
    "archive job again": (retry(JobKind.ARCHIVE), ""),
    "correct job again": (retry(JobKind.CORRECT), ""),
    "young": (lambda it: setattr(it, "ahead", timedelta(hours=23)), ""),
    "wall clock set ahead": (lambda it: setattr(it, "uptime_s", 23 * 3600.0), ""),
    "wall clock set back": (lambda it: setattr(it, "ahead", timedelta(days=-400)), ""),
    "booted an hour ago": (lambda it: (setattr(it, "boot_id", "x"), setattr(it, "uptime_s", 3600.0)), ""),
    "no manifest": (lambda it: it.manifest.path.unlink(), "has no line"),
    "line cut off": (lambda it: os.truncate(it.manifest.path, 300), "has no line"),
    "line of another file": (
        lambda it: record_archive(it.archive.parent, replace(it.entry, fingerprint_sha256="0" * 64)),
        "is of another file",
    ),
    "line of another version": (
        lambda it: record_archive(it.archive.parent, replace(it.entry, source_mtime_ns=1)),
        "is of another file",
    ),
    "another movie of that path": (lambda it: add(it, mtime_ns=1), "another movie has"),
    "another name of that file": (
        lambda it: add(it, path=it.movie.path.with_name("b.mrc")),
        "another movie has",
    ),
    "not watched": (watch_elsewhere, "in no watched folder"),
    "folder through a link": (lambda it: lead_elsewhere(it.movie.path.parent), "through a link"),
    "movie is a link": (lambda it: lead_elsewhere(it.movie.path), "a link"),
    "movie has another name": (lambda it: os.link(it.movie.path, it.archive.with_name("b")), "hard link"),
    "movie has another time": (lambda it: os.utime(it.movie.path, ns=(1, 1)), "size or time"),
    "movie has another size": (lambda it: os.truncate(it.movie.path, 5000), "size or time"),
    "movie rots": (lambda it: rot(it.movie.path), "its content is not what was archived"),
    "archive missing": (lambda it: it.archive.unlink(), "is missing"),
    "archive is a link": (lambda it: lead_elsewhere(it.archive), "no file of its own"),
    "archive is the movie": (
        lambda it: (it.archive.unlink(), it.archive.symlink_to(it.movie.path)),
        "no file of its own",
    ),
    "archive cut off": (lambda it: os.truncate(it.archive, 9000), "has not the size"),
    "archive rots": (lambda it: rot(it.archive), "damaged"),
    "header of the archive rots": (lambda it: rot(it.archive, 60), "its checksum differs"),
    "archive has another count": (
        lambda it: archive_other_frames(it, wrong_frames()),
        "frame 4 of 6 (counted from 1) is not the same",
    ),
    "archive has another type": (
        lambda it: archive_other_frames(it, counts(5).astype(np.int16)),
        "frame 1 of 6 (counted from 1) is not the same",
    ),
    "archive has fewer frames": (lambda it: archive_other_frames(it, counts(5)[:5]), "(5, 160, 192)"),
    "retried meanwhile": (meanwhile(retry(JobKind.CORRECT)), "its jobs have changed"),
    "added meanwhile": (meanwhile(lambda it: add(it, mtime_ns=1)), "its jobs have changed, or another"),
    "archived meanwhile": (
        meanwhile(lambda it: record_archive(it.archive.parent, replace(it.entry, archive_bytes=1))),
        "archives.jsonl has changed",
    ),
    "archive exchanged meanwhile": (meanwhile(lambda it: replace_by_a_copy(it.archive)), "changed while"),
    "movie exchanged meanwhile": (meanwhile(lambda it: replace_by_a_copy(it.movie.path)), "changed while"),
    "movie touched meanwhile": (meanwhile(lambda it: touch(it.movie.path)), "changed while"),
    "komad stops": (lambda it: setattr(it, "on_frame", lambda: False), ""),
    "komad stops meanwhile": (lambda it: setattr(it, "on_frame", iter([True, True, False]).__next__), ""),
}
"""What is done to it, and why it is kept then; '' when it only waits, or is tried again later."""


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_condition_alone_keeps_the_movie(installation: Installation, condition: str) -> None:
    """A movie that is due but for one thing stays, with its reason where a person has to look."""
    prepare, why = CONDITIONS[condition]
    prepare(installation)
    held = installation.movie.path.read_bytes()
    state = installation.clean()
    assert installation.movie.path.read_bytes() == held
    assert (state.n_removed, state.n_kept) == (0, int(bool(why)))
    assert why in "".join(state.kept.values())


def test_the_same_movie_goes_without_any_of_them(installation: Installation) -> None:
    """Another boot long ago, or a link to the watched folder itself, keeps nothing."""
    camera = installation.settings.watch[0].directory
    camera.rename(camera.with_name("mounted"))
    camera.symlink_to(camera.with_name("mounted"))
    installation.boot_id = "another"
    assert installation.clean().n_removed == 1
    assert not installation.movie.path.exists()


def test_unmounted_folder(installation: Installation) -> None:
    """A movie on a lost mount is neither removed nor counted as removed; it goes when the mount is back."""
    record = installation.manifest.path.read_bytes()
    unmount(installation)
    state = installation.clean()
    assert (state.n_removed, state.n_kept) == (0, 1)
    assert "is empty, as when it is not mounted" in state.kept["a"]
    assert installation.manifest.path.read_bytes() == record
    camera = installation.settings.watch[0].directory
    camera.rmdir()
    camera.with_name("unmounted").rename(camera)
    assert installation.clean().n_removed == 1


def test_bytes_that_no_archive_holds(settings: Settings, store: Store, make_movie: MakeMovie) -> None:
    """A movie with something behind its last frame stays: the archive has the frames only."""
    path = make_movie("a", seed=5).path
    with path.open("ab") as file:
        file.write(b"from the camera's maker")
    settings = settings.model_copy(update={"cleanup": Cleanup(delete_movies_after_h=0)})
    status = path.stat()
    movie = replace(
        make_movie("b"), path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, stem="a"
    )
    state = Installation(
        settings, store, finish(store, replace(movie, koma={"mode": "off"}), settings)
    ).clean()
    assert path.exists()
    assert "23 bytes behind its last frame" in state.kept["a"]


def test_no_room_for_the_line(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A movie whose removal cannot be written down stays; one whose removal was begun is completed later."""
    original = cleanup.record_removal

    def full(directory: Path, entry: ArchiveEntry, event: Event) -> None:
        if event is failing:
            raise DiskFullError("no space left")
        original(directory, entry, event)

    monkeypatch.setattr(cleanup, "record_removal", full)
    failing = Event.REMOVING
    assert installation.clean().kept == {"a": "no space left"}
    assert installation.movie.path.exists()
    failing = Event.REMOVED
    assert installation.clean().n_removed == 0
    assert not installation.movie.path.exists()
    monkeypatch.undo()
    assert installation.clean().n_removed == 1


def test_compared_in_vain(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A movie that cannot be proven is not read again at every look, and others go on; later it is tried again."""
    rot(installation.archive)
    cleaner = installation.cleaner()
    with capture_logs() as lines:
        for _ in range(3):
            assert cleaner.clean() == 0
    assert [line["log_level"] for line in lines] == ["error"]
    monkeypatch.setattr(cleanup, "TRY_AGAIN_S", 0.0)
    rot(installation.archive)
    assert cleaner.clean() == 1


def test_off_by_default(installation: Installation) -> None:
    """Without a number of hours nothing is removed, and no process is started for it."""
    installation.settings = installation.settings.model_copy(update={"cleanup": Cleanup()})
    with pytest.raises(ParameterError, match="delete_movies_after_h is not set"):
        installation.cleaner().clean()
    process = CleanupProcess(installation.settings, installation.store, command=["/bin/false"])
    process.tick()
    assert process._process is None
    assert installation.movie.path.exists()


def killed_at(settings: Settings, number: int) -> None:
    """Clean up, and kill this process at its moment `number`: before or after a file is synced or removed."""
    passed = 0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal passed
            for step in (lambda: None, lambda: work(*arguments, **options)):
                result = step()
                if passed == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
            return result

        return call

    patched: Any = os
    for name in ("fsync", "unlink"):
        setattr(patched, name, counted(getattr(os, name)))
    Cleaner(settings).clean()
    os._exit(7)


def test_kill_at_each_moment(installation: Installation) -> None:
    """Whenever the process is killed, the movie is there or its proven archive is; the next run completes it."""
    settings = installation.settings.model_copy(update={"cleanup": Cleanup(delete_movies_after_h=0)})
    installation.settings = settings
    path, record = installation.movie.path, installation.manifest.path
    for kept in (path, record):
        shutil.copy2(kept, settings.state_directory / kept.name)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    n_gone = 0
    for number in range(100):
        child = context.Process(target=killed_at, args=(settings, number))
        child.start()
        child.join(60)
        if path.exists():
            assert path.read_bytes() == (settings.state_directory / path.name).read_bytes()
        else:
            n_gone += 1
            assert (
                find_verified_archive(installation.movie, settings.archive_directory) == installation.archive
            )
            np.testing.assert_array_equal(read_frames(installation.archive), counts(5))
            assert installation.manifest.lines["a.mrcz"].last in {Event.REMOVING, Event.REMOVED}
        path.with_name("of the camera").touch()  # an empty folder could be a lost mount
        assert installation.clean().n_removed == 1
        assert not path.exists()
        if child.exitcode == 7:
            break
        assert child.exitcode == -signal.SIGKILL
        for kept in (path, record):
            shutil.copy2(settings.state_directory / kept.name, kept)
    assert (number, n_gone) == (14, 6)


def test_process_of_its_own(installation: Installation) -> None:
    """The daemon's process removes what is due by itself, is started again when it dies, and ends with the daemon."""
    installation.settings = installation.settings.model_copy(
        update={"cleanup": Cleanup(delete_movies_after_h=0)}
    )
    process = CleanupProcess(installation.settings, installation.store)
    try:
        process.tick()
        assert process._process is not None
        wait_until(lambda: installation.manifest.n_removed == 1)
        state_directory = installation.settings.state_directory
        wait_until(lambda: read_overview(state_directory, now=datetime.now(UTC)).cleanup is not None)
        process._process.send_signal(signal.SIGSTOP)  # as one that hangs
        started = time.monotonic()
    finally:
        process.stop()
    assert time.monotonic() - started < 3
    assert process._process.returncode == -signal.SIGKILL
    with capture_logs() as lines:
        process.tick()
    assert [line["event"] for line in lines] == ["clean-up ended, it is started again"]


def test_jobs_after_the_movie_is_gone(installation: Installation) -> None:
    """Both jobs can be done again from the archive, which stays as it is; a damaged archive is told."""
    settings, store, movie = installation.settings, installation.store, installation.movie
    assert installation.clean().n_removed == 1
    before = installation.archive.read_bytes()
    retry(JobKind.ARCHIVE)(installation)
    supervisor = Supervisor(store, settings)
    supervisor.start()

    def ended() -> bool:
        return all(job.state in {JobState.DONE, JobState.FAILED} for job in store.jobs_of(1).values())

    try:
        wait_until(ended, tick=supervisor.tick, limit_s=100)
    finally:
        supervisor.kill()
    jobs = store.jobs_of(movie.movie_id)
    assert {kind: job.state for kind, job in jobs.items()} == dict.fromkeys(JobKind, JobState.DONE)
    assert store.history(jobs[JobKind.ARCHIVE].job_id)[-1].detail == KEPT
    assert installation.archive.read_bytes() == before
    assert (settings.output.directory / "a.star").is_file()
    assert len((installation.manifest.path).read_text().splitlines()) == 3
    rot(installation.archive)
    with pytest.raises(ArchiveError, match=r"is gone, and its archive is damaged"):
        find_verified_archive(movie, settings.archive_directory)
    (settings.archive_directory / MANIFEST).unlink()
    assert find_verified_archive(movie, settings.archive_directory) is None


def test_other_settings(installation: Installation) -> None:
    """A configuration that is read again ends the process, and when movies stay now, none is started."""
    command = ["/bin/sleep", "60"]
    process = CleanupProcess(installation.settings, installation.store, command=command)
    try:
        process.tick()
        first = process._process
        assert first is not None
        process.reload(installation.settings)
        process.tick()
        second = process._process
        assert second is not None
        assert (first.returncode, second.poll()) == (-signal.SIGKILL, None)
        process.reload(installation.settings.model_copy(update={"cleanup": Cleanup()}))
        process.tick()
        assert (second.returncode, process._process) == (-signal.SIGKILL, None)
    finally:
        process.stop()


def test_frames_in_files_are_never_removed(installation: Installation) -> None:
    """A movie of one file for each frame stays, and why is said."""
    path = installation.movie.path.with_name("b_{frame}.mrc")
    (source,) = cleanup.list_sources(installation.settings.state_directory)
    objections = installation.cleaner()._objections_of_files(
        replace(source, path=str(path)), installation.entry
    )
    assert list(objections) == [
        "its frames are files of their own, which komad does not remove: remove them yourself"
    ]
