"""Real worker processes that die, fall silent, meet bad movies and bad devices: nothing is lost, nobody is blamed."""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from komad.config import Settings
from komad.model import JobKind, JobState
from komad.store import PausedBy, Store
from komad.store.listing import list_jobs
from komad.work import supervisor as supervisor_module
from komad.work.supervisor import Supervisor
from tests.work.conftest import MakeMovie, wait_until

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_worker.py")))
Start = Callable[..., Supervisor]


@pytest.fixture
def start(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Start a supervisor whose workers fail as the movies' names say."""
    (tmp_path / "markers").mkdir()
    monkeypatch.setenv("MARKERS", str(tmp_path / "markers"))
    monkeypatch.setattr(supervisor_module, "respawn_delay_s", lambda n_failures: 0.1)
    monkeypatch.setattr(supervisor_module, "set_aside_s", lambda n_bad: 0.1)
    started = []

    def begin(**changes: object) -> Supervisor:
        queue = settings.queue.model_copy(update=changes)
        supervisor = Supervisor(store, settings.model_copy(update={"queue": queue}), command=FAULTY)
        started.append(supervisor)
        supervisor.start()
        return supervisor

    with capture_logs():
        yield begin
        for supervisor in started:
            supervisor.kill()


def states(store: Store) -> dict[str, tuple[str, str]]:
    """Stem -> states of archive and correct job."""
    jobs = {(job.stem, job.kind): job.state for job in list_jobs(store.state_directory)}
    stems = dict.fromkeys(stem for stem, _ in reversed(jobs))
    return {stem: (jobs[stem, JobKind.ARCHIVE], jobs[stem, JobKind.CORRECT]) for stem in stems}


def all_ended(store: Store) -> bool:
    """Tell whether nothing is left to do."""
    waiting = {JobState.QUEUED, JobState.RUNNING}
    return not any(set(pair) & waiting for pair in states(store).values())


def test_killed_worker(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A worker killed in the middle of a job loses it to the next one, and the history tells."""
    store.add_movie(make_movie("waits-in-correct"))
    supervisor = start()
    correct = store.jobs_of(1)[JobKind.CORRECT]
    wait_until(lambda: store.job(correct.job_id).attempt == 1, tick=supervisor.tick)
    os.kill(store.workers()[0].pid, signal.SIGKILL)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"waits-in-correct": ("done", "done")}
    events = [(entry.event, entry.error_code) for entry in store.history(correct.job_id)]
    assert events[1:] == [("claim", ""), ("return", "worker_lost"), ("claim", ""), ("finish", "")]
    assert "SIGKILL" in store.history(correct.job_id)[2].detail


def test_poison_movies(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """Movies that kill their worker, while computed or while read, fail after their attempts; neighbours succeed."""
    for number, stem in enumerate(("good1", "dies-in-correct", "good2", "dies-in-read", "good3")):
        store.add_movie(make_movie(stem, seed=number))
    supervisor = start()
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    good = ("done", "done")
    assert states(store) == {
        "good1": good,
        "dies-in-correct": ("done", "failed"),
        "good2": good,
        "dies-in-read": ("failed", "held"),
        "good3": good,
    }
    assert store.jobs_of(2)[JobKind.CORRECT].error_code == "worker_lost"
    assert store.jobs_of(4)[JobKind.CORRECT].reason.startswith("its archive failed: worker cpu-")


def test_silent_worker(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A worker that stops beating is ended, and its job is done by the next."""
    store.add_movie(make_movie("stops-in-correct"))
    supervisor = start(lease_timeout_s=3)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"stops-in-correct": ("done", "done")}
    correct = store.jobs_of(1)[JobKind.CORRECT]
    assert any("no sign of life" in entry.detail for entry in store.history(correct.job_id))


def test_locked_database(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A program that keeps the database locked for longer than a lease costs no worker its job."""
    store.add_movie(make_movie("waits-in-correct"))
    supervisor = start(lease_timeout_s=3)
    correct = store.jobs_of(1)[JobKind.CORRECT]
    wait_until(lambda: store.job(correct.job_id).attempt == 1, tick=supervisor.tick)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        unlock_at = time.monotonic() + 8
        wait_until(lambda: time.monotonic() > unlock_at, tick=supervisor.tick)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"waits-in-correct": ("done", "done")}
    assert [entry.event for entry in store.history(correct.job_id)] == ["release", "claim", "finish"]


def test_memory_that_is_too_small_for_a_moment(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """The movie is tried again by the same worker."""
    for stem in ("fills-memory-in-correct", "fills-memory-in-read"):
        store.add_movie(make_movie(stem))
    supervisor = start()
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert set(states(store).values()) == {("done", "done")}
    told = [entry for job_id in range(1, 5) for entry in store.history(job_id) if entry.error_code]
    assert [(entry.error_code, entry.state) for entry in told] == [("memory", "queued")] * 2


def test_bad_device_does_not_fail_movies(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """Where every movie fails the device is set aside; with one try each, all are done when it works again."""
    for number in range(3):
        store.add_movie(make_movie(f"raises-once-in-correct{number}"))
    supervisor = start(max_attempts=1)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert set(states(store).values()) == {("done", "done")}
    wait_until(lambda: not store.bad_devices(), tick=supervisor.tick)


def test_bug_in_the_program(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """An unexpected exception fails its job only, as an internal error, and the same worker goes on."""
    for stem in ("raises-in-correct", "raises-in-read", "good"):
        store.add_movie(make_movie(stem))
    supervisor = start()
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {
        "raises-in-correct": ("done", "failed"),
        "raises-in-read": ("failed", "held"),
        "good": ("done", "done"),
    }
    assert store.jobs_of(1)[JobKind.CORRECT].error_code == "internal"
    assert "RuntimeError: a bug" in store.jobs_of(2)[JobKind.ARCHIVE].error_message
    with store.read() as connection:
        used = connection.exec_driver_sql("SELECT count(DISTINCT worker_id) FROM jobs WHERE worker_id != ''")
        assert used.scalar() == 1


def test_bad_device(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A device that fails its probe ends the worker; its job goes back without blame, and is done."""
    store.add_movie(make_movie("breaks-device-in-correct"))
    supervisor = start(max_attempts=1)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"breaks-device-in-correct": ("done", "done")}
    correct = store.jobs_of(1)[JobKind.CORRECT]
    assert correct.attempt == 1
    assert "device" in {entry.error_code for entry in store.history(correct.job_id)}


def test_drain(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A worker told to stop ends the job in hand, gives back what it only read ahead, and is gone."""
    for stem in ("waits-in-correct", "b", "c"):
        store.add_movie(make_movie(stem))
    supervisor = start()
    read_ahead = store.jobs_of(2)[JobKind.ARCHIVE]
    wait_until(
        lambda: (
            store.jobs_of(1)[JobKind.CORRECT].attempt == 1
            and store.job(read_ahead.job_id).state is JobState.RUNNING
        ),
        tick=supervisor.tick,
    )
    supervisor.drain()
    wait_until(lambda: supervisor.n_alive == 0, tick=lambda: supervisor.tick(starting=False))
    assert states(store) == {
        "waits-in-correct": ("done", "done"),
        "b": ("queued", "held"),
        "c": ("queued", "held"),
    }
    assert not store.job(read_ahead.job_id).alone
    assert store.workers() == []


def test_stop_at_once(start: Start, store: Store, make_movie: MakeMovie) -> None:
    """A worker told twice to stop gives back what it has in hand, without blame, and does not wait for it."""
    store.add_movie(make_movie("hangs-in-correct"))
    supervisor = start()
    wait_until(lambda: store.jobs_of(1)[JobKind.CORRECT].attempt == 1, tick=supervisor.tick)
    supervisor.drain()
    supervisor.tick(starting=False)
    assert supervisor.n_alive == 1

    def insist() -> None:  # two signals that come at once count as one
        supervisor.drain()
        supervisor.tick(starting=False)

    wait_until(lambda: supervisor.n_alive == 0, tick=insist, limit_s=30)
    correct = store.jobs_of(1)[JobKind.CORRECT]
    assert (correct.state, correct.attempt, correct.suspect) == (JobState.QUEUED, 0, False)


def test_full_disk(
    settings: Settings, store: Store, make_movie: MakeMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a disk is low nothing is claimed and the reason shows; with room again, held jobs go on by themselves."""
    store.add_movie(make_movie())
    reason = "disk: 1.0 GB free"
    monkeypatch.setattr(supervisor_module, "shortage", lambda directories, min_free_gb: reason)
    clock = [0.0]
    idle = settings.model_copy(update={"workers": settings.workers.model_copy(update={"devices": ()})})
    supervisor = Supervisor(store, idle, clock=lambda: clock[0])
    with capture_logs() as lines:
        supervisor.tick()
        assert store.claim("w") is None
        assert store.paused(PausedBy.DISK) == "disk: 1.0 GB free"
        reason = ""
        clock[0] += 10
        supervisor.tick()
    assert store.paused(PausedBy.DISK) == ""
    assert store.claim("w") is not None
    assert [line["event"] for line in lines] == ["no job is started", "there is room again, jobs go on"]


def test_watched_folder_that_goes_and_comes_back(
    start: Start, settings: Settings, store: Store, make_movie: MakeMovie
) -> None:
    """Movies that are queued while their whole folder is lost wait for it; one that alone is gone fails."""
    camera = settings.watch[0].directory
    for stem in "abc":
        store.add_movie(make_movie(stem))
    away = camera.rename(camera.with_name("away"))
    supervisor = start(max_attempts=1)
    wait_until(lambda: set(states(store).values()) == {("held", "held")}, tick=supervisor.tick)
    camera.mkdir()  # as a mount point without its mount
    store.release_folder_held(lambda _: True)
    wait_until(lambda: set(states(store).values()) == {("held", "held")}, tick=supervisor.tick)
    assert "is empty" in store.jobs_of(1)[JobKind.ARCHIVE].reason
    camera.rmdir()
    away.rename(camera)
    (camera / "b.mrc").unlink()
    store.release_folder_held(lambda _: True)
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"a": ("done", "done"), "b": ("failed", "held"), "c": ("done", "done")}


def test_output_that_cannot_be_written(
    start: Start, settings: Settings, store: Store, make_movie: MakeMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written jobs are held, not failed, and go on when it can."""
    output = settings.output.directory
    output.write_text("in the way")
    monkeypatch.setattr(supervisor_module, "shortage", lambda directories, min_free_gb: "")  # not seen yet
    store.add_movie(make_movie())
    supervisor = start(max_attempts=1)
    wait_until(lambda: states(store)["a"][0] == "held", tick=supervisor.tick)
    assert "cannot be written" in store.jobs_of(1)[JobKind.ARCHIVE].reason
    output.unlink()
    store.release_disk_held()
    wait_until(lambda: all_ended(store), tick=supervisor.tick)
    assert states(store) == {"a": ("done", "done")}


def test_worker_that_cannot_be_killed(
    start: Start, store: Store, make_movie: MakeMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hangs in the kernel, in a lost mount, does not keep the daemon from ending."""
    monkeypatch.setattr(supervisor_module, "KILL_LIMIT_S", 0.1)
    store.add_movie(make_movie("hangs-in-read"))
    supervisor = start()
    wait_until(lambda: states(store)["hangs-in-read"][0] == "running", tick=supervisor.tick)
    process = supervisor._workers[0].process
    assert process is not None
    with monkeypatch.context() as patched:
        patched.setattr(process, "kill", lambda: None)
        started = time.monotonic()
        supervisor.kill()
    assert time.monotonic() - started < 3
    assert states(store)["hangs-in-read"][0] == "queued"
    process.kill()
    process.wait()


def test_jobs_of_an_earlier_life(settings: Settings, store: Store, make_movie: MakeMovie) -> None:
    """What workers of a daemon that is gone held is returned at start, registered or not."""
    for stem in "ab":
        store.add_movie(make_movie(stem))
    store.register_worker("old", boot_id="boot", pid=1, device="cpu")
    for worker_id in ("old", "older"):
        job = store.claim(worker_id)
        assert job is not None
        store.begin(job)
    with capture_logs() as lines:
        Supervisor(store, settings).start()
    assert states(store) == {"a": ("queued", "held"), "b": ("queued", "held")}
    assert store.workers() == []
    assert [line["event"] for line in lines] == ["devices chosen", *["job returned"] * 2]
