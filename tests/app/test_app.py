"""Start checks, and what becomes of files that are found."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from structlog.testing import capture_logs

from komad import app
from komad.app.start import _may_come
from komad.config import Settings, taken_over
from komad.errors import (
    AlreadyRunningError,
    ConfigError,
    DeviceError,
    DiskFullError,
    KomadError,
    MovieError,
    MovieMissingError,
    StoreError,
)
from komad.errors import ReferenceFileError as WrongReferenceError
from komad.formats.images import write_mrc
from komad.ingest import missing_parameters, with_supplied
from komad.model import Candidate, JobKind, JobState
from komad.store import GainCheckRow, Store
from komad.work.lease import Pulse
from komad.work.orphans import boot_id
from tests.formats.test_atomic import WRITER
from tests.work.conftest import SHAPE, MakeMovie, wait_until, write_movie


@pytest.fixture
def intake(settings: Settings, store: Store) -> app.Intake:
    """Take files into the database."""
    return app.Intake(settings, store)


def candidate(path: Path) -> Candidate:
    """Make a candidate of a file as it is."""
    status = path.stat()
    return Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)


def unknown_voltage(settings: Settings) -> Settings:
    """Take the voltage out of the configuration."""
    folder = settings.watch[0]
    acquisition = folder.acquisition.model_copy(update={"voltage_kv": None})
    return settings.model_copy(update={"watch": (folder.model_copy(update={"acquisition": acquisition}),)})


def test_nothing_watched(settings: Settings) -> None:
    """Without a folder to watch the daemon does not start, and says what to add."""
    with pytest.raises(ConfigError, match=r"add a \[\[watch\]\] table"):
        app.run(settings.model_copy(update={"watch": ()}))


@pytest.mark.parametrize("content", [None, b"", b"no picture" * 500])
def test_gain_that_cannot_be_used(settings: Settings, tmp_path: Path, content: bytes | None) -> None:
    """A gain that the configuration names and that is missing or no picture stops the daemon at its start."""
    gain = tmp_path / "gain.mrc"
    if content is not None:
        gain.write_bytes(content)
    folder = settings.watch[0]
    references = folder.references.model_copy(update={"gain": gain})
    changed = settings.model_copy(update={"watch": (folder.model_copy(update={"references": references}),)})
    with pytest.raises(WrongReferenceError, match=r"gain\.mrc|reference"):
        app.run(changed)


def test_lock(tmp_path: Path) -> None:
    """The state directory is held by one process at a time, which is named; it is free again afterwards."""
    with app.locked(tmp_path / "state"):
        with (
            pytest.raises(AlreadyRunningError, match=rf"pid {os.getpid()}.*another state_directory"),
            app.locked(tmp_path / "state"),
        ):
            pass
        with pytest.raises(AlreadyRunningError, match=rf"pid {os.getpid()}"), app.locked(tmp_path / "state"):
            pass
    with app.locked(tmp_path / "state"):
        pass


@pytest.mark.parametrize(
    ("error", "feeds"), [(DiskFullError("no space"), True), (StoreError("damaged"), False), (None, True)]
)
def test_watchdog(
    settings: Settings,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    error: KomadError | None,
    feeds: bool,
) -> None:
    """A daemon that waits for room is alive; only one that a new start may help is left to systemd's watchdog."""
    daemon = app.Daemon(settings, store)
    said: list[str] = []
    monkeypatch.setattr("komad.service.notify", said.append)

    def publish() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(daemon, "_publish", publish)
    daemon._tick(starting=False)
    assert ("WATCHDOG=1" in said) is feeds


def test_leftovers(settings: Settings, store: Store, tmp_path: Path) -> None:
    """Wherever the daemon writes, it removes at start what a crash left half written."""
    output = settings.output.model_copy(update={"archive_directory": tmp_path / "archive"})
    settings = settings.model_copy(update={"output": output})
    places = [
        settings.output.directory,
        settings.archive_directory,
        *(settings.state_directory / it for it in ("references", "stack_sums")),
    ]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / ".komad-1234.mrc").touch()
    app.Daemon(settings, store)._end_earlier_life()
    assert [list(place.iterdir()) for place in places] == [[], [], [], []]


def test_worker_that_outlived_its_daemon(settings: Settings, store: Store) -> None:
    """What a worker of an earlier life is writing goes with it, as soon as the next daemon starts."""
    settings.output.directory.mkdir()
    command = [sys.executable, "-c", WRITER, str(settings.output.directory / "a.mrc"), "cpu-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"writing\n"
        store.register_worker("cpu-1", boot_id=boot_id(), pid=worker.pid, device="cpu")
        app.Daemon(settings, store)._end_earlier_life()
        assert worker.wait(10) == -signal.SIGKILL
    assert list(settings.output.directory.iterdir()) == []
    assert store.workers() == []


def test_found_movie(intake: app.Intake, settings: Settings, store: Store) -> None:
    """A finished file becomes a movie with what the configuration says; taken twice it is there once."""
    path = write_movie(settings.watch[0].directory / "a.mrc")
    with capture_logs() as lines:
        intake.take(candidate(path))
        intake.take(candidate(path))
    assert [line["event"] for line in lines] == ["found"]
    assert store.movie(1).acquisition.voltage_kv == 300


def test_a_better_gain_is_for_movies_that_wait_for_it(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another orientation the movies that wait are archived again; with the same one they go on waiting."""
    monkeypatch.setattr("komad.app.intake.LOOK_AGAIN_INTERVAL_S", 0.05)
    gain = tmp_path / "gain.mrc"
    write_mrc(gain, np.ones(SHAPE[1:], np.float32), pixel_size_angstrom=1.0)
    folder = settings.watch[0]

    def start(gain_rot: int) -> app.Intake:
        references = folder.references.model_copy(update={"gain": gain, "gain_rot": gain_rot})
        watch = (folder.model_copy(update={"references": references}),)
        intake = app.Intake(settings.model_copy(update={"watch": watch}), store)
        intake.start()
        return intake

    intake = start(0)
    intake.take(candidate(write_movie(folder.directory / "a.mrc")))
    job = store.claim("w")
    assert job is not None
    store.finish(store.begin(job), {}, 1.0)
    verdict = GainCheckRow(
        verdict="other",
        configured={"gain_rot": 0, "gain_flip": 0},
        best={"gain_rot": 2, "gain_flip": 0},
        confidence=9.0,
        sentence="turned",
        movie_id=1,
        holds=True,
    )
    store.put_gain_check(store.movie(1).series, verdict)
    looked: list[int] = []
    held = store.gain_held
    monkeypatch.setattr(store, "gain_held", lambda *, limit: looked.append(1) or held(limit=limit))
    wait_until(lambda: len(looked) > 2, limit_s=10)
    intake.stop()
    assert store.jobs_of(1)[JobKind.ARCHIVE].state is JobState.DONE
    intake = start(2)
    wait_until(lambda: store.movie(1).references.gain_rot == 2, limit_s=10)
    intake.stop()
    assert store.jobs_of(1)[JobKind.ARCHIVE].state is JobState.QUEUED


def test_unreadable_file_is_reported(intake: app.Intake, settings: Settings, store: Store) -> None:
    """A file whose header cannot be read shows as failed, with the error."""
    path = settings.watch[0].directory / "bad.mrc"
    path.write_bytes(b"no movie" * 1000)
    with capture_logs() as lines:
        intake.take(candidate(path))
    archive = store.jobs_of(1)[JobKind.ARCHIVE]
    assert (archive.state, archive.error_code) == (JobState.FAILED, "movie_unreadable")
    assert lines[0]["code"] == "movie_unreadable"


def test_passing_trouble_is_left_to_the_watcher(intake: app.Intake, settings: Settings, store: Store) -> None:
    """A file that is gone for the moment is no failure: the watcher offers it again."""
    path = write_movie(settings.watch[0].directory / "a.mrc")
    found = candidate(path)
    path.unlink()
    with pytest.raises(MovieMissingError):
        intake.take(found)
    path = write_movie(path)
    with pytest.raises(MovieError, match="changed"):
        intake.take(replace(found, mtime_ns=1))
    assert store.known_files() == set()


def test_missing_parameter_holds_and_supplied_ones_are_for_all(settings: Settings, store: Store) -> None:
    """A movie without a voltage waits with the reason; what is supplied then holds for movies to come too."""
    intake = app.Intake(unknown_voltage(settings), store)
    camera = settings.watch[0].directory
    with capture_logs():
        intake.take(candidate(write_movie(camera / "a.mrc")))
        assert "voltage unknown" in store.jobs_of(1)[JobKind.CORRECT].reason
        store.supply(
            {"voltage_kv": 200}, movie_id=None, with_supplied=with_supplied, missing=missing_parameters
        )
        intake.take(candidate(write_movie(camera / "b.mrc")))
    for movie_id in (1, 2):
        assert store.movie(movie_id).acquisition.voltage_kv == 200
        assert store.jobs_of(movie_id)[JobKind.CORRECT].reason == "waiting for the archive"


def test_looks_again(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar that comes after its movie is found, and a retried file is described again."""
    monkeypatch.setattr("komad.app.intake.LOOK_AGAIN_INTERVAL_S", 0.05)
    camera = settings.watch[0].directory
    intake = app.Intake(unknown_voltage(settings), store)
    with capture_logs():
        intake.take(candidate(write_movie(camera / "a.mrc")))
        bad = camera / "b.mrc"
        bad.write_bytes(b"no movie" * 1000)
        intake.take(candidate(bad))
        intake.start()
        (camera / "a.mrc.mdoc").write_text("Voltage = 200\n[ZValue = 0]\nPixelSpacing = 1.5\n")
        wait_until(lambda: store.movie(1).acquisition.voltage_kv == 200, limit_s=10)
        assert store.jobs_of(1)[JobKind.CORRECT].reason == "waiting for the archive"
        write_movie(bad)
        store.retry(store.jobs_of(2)[JobKind.ARCHIVE].job_id)
        wait_until(lambda: store.jobs_of(2)[JobKind.ARCHIVE].state is JobState.QUEUED, limit_s=10)
        intake.stop()
    assert store.movie(2).stem == "b"


def test_looking_again_goes_on(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw does not end the looking again."""
    monkeypatch.setattr("komad.app.intake.LOOK_AGAIN_INTERVAL_S", 0.05)
    asked: list[int] = []
    monkeypatch.setattr(store, "to_describe", lambda: asked.append(1) or [None])
    intake = app.Intake(settings, store)
    with capture_logs():
        intake.start()
        wait_until(lambda: len(asked) > 2, limit_s=10)
        intake.stop()


def test_half_written_gain(settings: Settings, store: Store, tmp_path: Path) -> None:
    """A movie that came while the gain was being replaced is bound to the whole one when it is retried."""
    gain = tmp_path / "gain.mrc"
    with mrcfile.new(gain, np.ones(SHAPE[1:], np.float32)):
        pass
    whole = gain.read_bytes()
    folder = settings.watch[0]
    references = folder.references.model_copy(update={"gain": gain})
    watch = (folder.model_copy(update={"references": references}),)
    intake = app.Intake(settings.model_copy(update={"watch": watch}), store)
    for stem, content in (("half", whole[: len(whole) // 2]), ("large", with_size(whole, 9))):
        gain.write_bytes(content)
        with capture_logs():
            intake.take(candidate(write_movie(folder.directory / f"{stem}.mrc")))
            movie_id = len(store.known_files())
            archive = store.jobs_of(movie_id)[JobKind.ARCHIVE]
            assert (archive.state, archive.error_code) == (JobState.FAILED, "reference")
            gain.write_bytes(whole)
            store.retry(archive.job_id)
            intake._describe_again(store.to_describe()[0])
        assert store.job(archive.job_id).state is JobState.QUEUED
        bound = store.movie(movie_id).references.gain
        assert bound is not None
        assert bound.path.read_bytes() == whole


def with_size(gain: bytes, side: int) -> bytes:
    """Make an MRC file of that many pixels along each side."""
    header = np.array([side, side, 1], "<i4").tobytes()
    return header + gain[12 : 1024 + 4 * side * side]


def test_retried_file_that_stays_bad(settings: Settings, store: Store, make_movie: MakeMovie) -> None:
    """A retried file that is gone, or is in no watched folder any more, fails again with that reason."""
    intake = app.Intake(settings, store)
    bad = settings.watch[0].directory / "bad.mrc"
    bad.write_bytes(b"no movie" * 1000)
    with capture_logs():
        intake.take(candidate(bad))
        bad.unlink()
        archive = store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
        intake._describe_again(store.to_describe()[0])
    assert store.job(archive.job_id).error_code == "movie_missing"


def test_series_and_koma_are_bound(settings: Settings, store: Store, tmp_path: Path) -> None:
    """A movie is found with the settings of KOMA of that moment, and as one of its folder's series."""
    other = tmp_path / "other"
    other.mkdir()
    watch = (settings.watch[0], settings.watch[0].model_copy(update={"directory": other}))
    koma = settings.koma.model_copy(update={"mode": "centred", "radius": 3})
    intake = app.Intake(settings.model_copy(update={"watch": watch, "koma": koma}), store)
    camera = settings.watch[0].directory
    with capture_logs():
        for number, path in enumerate((camera / "a.mrc", camera / "b.mrc", other / "c.mrc")):
            intake.take(replace(candidate(write_movie(path, seed=number)), folder=int(number == 2)))
    first, second, third = (store.movie(movie_id) for movie_id in (1, 2, 3))
    assert first.series == second.series != third.series
    assert (first.koma["mode"], first.koma["radius"]) == ("centred", 3)


def test_movies_that_waited_go_on(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon looks at movies that wait for neighbours every few seconds, and tells how many went on."""
    daemon = app.Daemon(settings, store)
    released = iter([2, 0])
    monkeypatch.setattr(store, "release_koma_held", lambda: next(released))
    with capture_logs() as lines:
        daemon._tick(starting=False)
        daemon._tick(starting=False)
    assert [line["n_movies"] for line in lines] == [2]


def test_alarm_of_the_detector(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain reference that fits no more is said once, not every time that it is looked at."""
    monkeypatch.setattr("komad.app.daemon.ALARM_INTERVAL_S", 0)
    alarms = iter(["", "take a new gain reference", "take a new gain reference"])
    monkeypatch.setattr("komad.app.daemon.pattern_alarm", lambda facts: next(alarms))
    daemon = app.Daemon(settings, store)
    with capture_logs() as lines:
        for _ in range(3):
            daemon._tick(starting=False)
    assert [(line["log_level"], line["reason"]) for line in lines] == [
        ("warning", "take a new gain reference")
    ]


class Clock:
    """Seconds that pass when we say so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
        link.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield link


def heard(systemd: socket.socket) -> list[str]:
    """Messages since the last call."""
    messages = []
    with suppress(BlockingIOError):
        while True:
            messages.append(systemd.recv(4096).decode())
    return messages


@pytest.mark.parametrize("part", ["watcher", "intake"])
@pytest.mark.parametrize("in_kernel", [False, True])
def test_a_thread_that_stands_still(
    settings: Settings,
    store: Store,
    systemd: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    in_kernel: bool,
) -> None:
    """The watchdog goes hungry when a thread hangs, unless the kernel holds it: that is told."""
    monkeypatch.setattr("komad.service.waits_in_kernel", lambda _: in_kernel)
    clock = Clock()
    daemon = app.Daemon(settings, store, clock=clock)
    daemon._tick(starting=False)
    assert "WATCHDOG=1" in heard(systemd)
    clock.now += 400
    if part == "watcher":
        daemon._intake.got_on_at = clock.now
    else:
        daemon._watcher._get_on()
    daemon._tick(starting=False)
    messages = heard(systemd)
    assert ("WATCHDOG=1" in messages) is in_kernel
    status = next(message for message in messages if message.startswith("STATUS="))
    assert f"{'watching' if part == 'watcher' else 'looking again at movies'} stands still" in status
    assert ("a file system does not answer" in status) is in_kernel
    daemon._watcher._get_on()
    daemon._intake.got_on_at = clock.now
    daemon._tick(starting=False)
    messages = heard(systemd)
    assert "WATCHDOG=1" in messages
    assert "stands still" not in "".join(messages)


def test_a_silent_worker_that_nobody_ended(settings: Settings, store: Store, systemd: socket.socket) -> None:
    """One worker of two that stays silent although it should have been ended is enough for the watchdog."""
    clock = Clock()
    both = settings.workers.model_copy(update={"devices": ("cpu", "cpu")})
    daemon = app.Daemon(settings.model_copy(update={"workers": both}), store, clock=clock)
    supervisor = daemon._supervisor
    sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
    supervisor._command = tuple(sleeper)
    try:
        daemon._tick(starting=True)
        clock.now += 140
        daemon._watcher._get_on()
        daemon._intake.got_on_at = clock.now
        first, second = supervisor._workers
        first.pulse = Pulse(beat=1, seen_at=clock.now)
        assert second.process is not None
        heard(systemd)
        supervisor.tick = lambda *, starting: None  # type: ignore[method-assign, assignment] # the fault
        daemon._tick(starting=False)
        assert "WATCHDOG=1" not in heard(systemd)
        second.pulse = Pulse(beat=1, seen_at=clock.now)
        daemon._tick(starting=False)
        assert "WATCHDOG=1" in heard(systemd)
    finally:
        supervisor.kill()


def test_a_worker_that_does_not_die(
    settings: Settings, store: Store, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that the kernel keeps is told of, has no successor beside it, and is no reason to end komad."""
    clock = Clock()
    daemon = app.Daemon(settings, store, clock=clock)
    supervisor = daemon._supervisor
    supervisor._command = (sys.executable, "-c", "import time; time.sleep(1000)")
    try:
        daemon._tick(starting=True)
        process = supervisor._workers[0].process
        assert process is not None
        with monkeypatch.context() as patched:
            patched.setattr(process, "kill", lambda: None)
            clock.now += 100
            heard(systemd)
            daemon._tick(starting=True)
        clock.now += 200
        daemon._tick(starting=True)
        messages = heard(systemd)
        assert messages.count("WATCHDOG=1") == 2
        assert f"(pid {process.pid}) was killed and does not end" in "".join(messages)
        assert supervisor.n_alive == 0
        process.kill()
        process.wait()
        daemon._tick(starting=True)
        assert supervisor.n_alive == 1
        assert heard(systemd)[-1].startswith(
            "STATUS=starting: no worker has passed its probe yet; 0 movies corrected"
        )
        assert supervisor.stuck() == []
    finally:
        supervisor.kill()


def test_no_worker_gets_ready(settings: Settings, store: Store, systemd: socket.socket) -> None:
    """When workers end again and again before their first beat, the start fails and says how they ended."""
    clock = Clock()
    daemon = app.Daemon(settings, store, clock=clock)
    daemon._supervisor._command = (sys.executable, "-c", "raise SystemExit(3)")

    def look() -> None:
        clock.now += 5
        daemon._tick(starting=True)
        daemon._tell_ready()

    with pytest.raises(DeviceError, match="no worker gets ready: the last one found its device bad"):
        wait_until(lambda: False, tick=look)
    messages = heard(systemd)
    assert "READY=1" not in messages
    assert "EXTEND_TIMEOUT_USEC=60000000" in messages


def test_reference_on_a_mount_that_comes_late(settings: Settings, tmp_path: Path) -> None:
    """A gain below an empty folder may come with its mount; one that is missing among other files will not."""
    (tmp_path / "mount").mkdir()
    assert _may_come(tmp_path / "mount" / "refs" / "gain.mrc")
    (tmp_path / "mount" / "other").touch()
    assert not _may_come(tmp_path / "mount" / "refs" / "gain.mrc")
    assert not _may_come(tmp_path / "mount" / "other")


def test_what_is_taken_over(settings: Settings) -> None:
    """Folders stay in their order, also when one is added or gone, for movies name them by number; both are told."""
    one = settings.watch[0]
    two = one.model_copy(update={"directory": Path("/two")})
    new = one.model_copy(update={"directory": Path("/new")})
    dose = one.acquisition.model_copy(update={"dose_per_frame": 2.0})
    running = settings.model_copy(update={"watch": (two, one)})
    changed = one.model_copy(update={"acquisition": dose})
    output = settings.output.model_copy(update={"directory": Path("/elsewhere"), "min_free_gb": 7.0})
    read = settings.model_copy(update={"watch": (changed, new), "output": output})
    kept, changes, waiting = taken_over(running, read)
    assert [folder.directory for folder in kept.watch] == [Path("/two"), one.directory]
    assert kept.watch[1].acquisition.dose_per_frame == 2.0
    assert (kept.output.directory, kept.output.min_free_gb) == (settings.output.directory, 7.0)
    assert changes == ["output.min_free_gb", f"watch {one.directory}"]
    assert waiting == ["output.directory", "watch /two", "watch /new"]
