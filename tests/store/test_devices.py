"""Devices that fail: what becomes of them and of the jobs that failed there."""

from __future__ import annotations

import sqlite3

import pytest

from komad.errors import (
    ArchiveError,
    DeviceError,
    InternalError,
    InterruptedWorkError,
    KomadError,
    MovieError,
    WorkerLostError,
)
from komad.model import Job, JobKind, JobState
from komad.store import Store
from tests.store.conftest import movie_at
from tests.store.test_jobs import claim, no_delay

BUG = InternalError("a bug")


def add(store: Store, n_movies: int, *devices: str) -> None:
    """Add archived movies, and a worker on each device, named like it."""
    for number in range(n_movies):
        store.add_movie(movie_at(f"/data/m{number}.mrc"))
        store.finish(store.begin(claim(store, "archiver")), {}, 1.0)
        store.hold(store.jobs_of(number + 1)[JobKind.CORRECT].job_id, "later")
    for number in range(n_movies):
        store.release(store.jobs_of(number + 1)[JobKind.CORRECT].job_id)
    for device in devices:
        store.register_worker(device, boot_id="b", pid=1, device=device)


def fail(store: Store, worker: str, error: KomadError = BUG, *, movie_id: int | None = None) -> Job:
    """Claim a job, fail it, and let time pass; gives the job as it then is."""
    job = store.begin(claim(store, worker))
    assert movie_id in {None, job.movie_id}
    store.fail(job, error, 3)
    no_delay(store)
    return store.job(job.job_id)


def test_another_device_comes_first(store: Store) -> None:
    """A job that failed on a device goes to another one while one lives, and back to its own when none does."""
    add(store, 1, "A", "B")
    fail(store, "A", ArchiveError("x"))
    assert store.claim("A") is None
    store.give_back(claim(store, "B"))
    store.remove_worker("B")
    assert claim(store, "A").movie_id == 1


def test_other_jobs_are_not_held_up(store: Store) -> None:
    """The device that may not take the oldest job takes the next."""
    add(store, 2, "A", "B")
    fail(store, "A", movie_id=1)
    assert claim(store, "A").movie_id == 2


@pytest.mark.parametrize("error", [BUG, DeviceError("lost")])
def test_a_movie_that_fails_on_two_devices_is_bad(store: Store, error: KomadError) -> None:
    """It fails at its second try with the names of both, and no device is blamed for an unexpected error."""
    add(store, 1, "A", "B")
    assert fail(store, "A").failed_on == "A"
    job = fail(store, "B", error)
    assert (job.state, job.error_code) == (JobState.FAILED, error.code)
    assert "it failed on A and on B: the movie is to blame" in job.error_message
    assert set(store.bad_devices()) == ({"B"} if error.code == "device" else set())


def test_a_movie_that_kills_workers_on_two_devices_is_bad(store: Store) -> None:
    """As an exception does."""
    add(store, 1, "A", "B")
    for worker in "AB":
        store.begin(claim(store, worker))
        [job] = store.return_jobs(worker, WorkerLostError("died"), 3)
        no_delay(store)
    assert (job.state, job.error_code) == (JobState.FAILED, "worker_lost")


def test_a_lost_device_costs_its_job_nothing(store: Store) -> None:
    """The device is set aside with the reason; its job goes back, once for free, with the next tries counted."""
    add(store, 1, "A")
    assert fail(store, "A", DeviceError("cuda:0 fell off the bus")).attempt == 0
    assert store.bad_devices()["A"].reason == "cuda:0 fell off the bus"
    job = fail(store, "A", DeviceError("again"))
    assert (job.attempt, store.bad_devices()["A"].n_bad) == (1, 2)
    fail(store, "A", DeviceError("again"))
    assert fail(store, "A", DeviceError("again")).state is JobState.FAILED, "no movie breaks devices for ever"


def test_three_movies_that_fail_make_a_bad_device(store: Store) -> None:
    """The third says so, is told to the caller, and all three get their tries back, also one that had failed."""
    add(store, 3, "A")
    for _ in range(2):
        fail(store, "A", movie_id=1)
    assert fail(store, "A", movie_id=1).state is JobState.FAILED
    assert fail(store, "A", movie_id=2).attempt == 1
    store.hold(store.jobs_of(2)[JobKind.CORRECT].job_id, "later")
    job = store.begin(claim(store, "A"))
    decision = store.fail(job, BUG, 3)
    assert decision.device_reason == "3 movies failed on A unexpectedly, one after the other"
    assert store.bad_devices()["A"].reason == decision.device_reason
    jobs = [store.jobs_of(number)[JobKind.CORRECT] for number in (1, 2, 3)]
    assert [(it.state, it.attempt) for it in jobs] == [
        (JobState.QUEUED, 0),
        (JobState.HELD, 0),
        (JobState.QUEUED, 0),
    ]


def test_tries_are_given_back_once(store: Store) -> None:
    """When every movie fails on the only device there is, all of them end."""
    add(store, 3, "A")
    n_tries = 0
    while (job := store.claim("A")) is not None:
        store.fail(store.begin(job), BUG, 3)
        no_delay(store)
        n_tries += 1
    assert {store.jobs_of(number)[JobKind.CORRECT].state for number in (1, 2, 3)} == {JobState.FAILED}
    assert n_tries <= 3 * (3 + 3)


def test_a_success_between_clears_the_device(store: Store) -> None:
    """Failures that are not one after the other are the movies' own."""
    add(store, 4, "A")
    for number in (1, 2):
        fail(store, "A", movie_id=number)
        store.hold(store.jobs_of(number)[JobKind.CORRECT].job_id, "later")
    store.finish(store.begin(claim(store, "A")), {}, 1.0)
    fail(store, "A", movie_id=4)
    assert store.bad_devices() == {}


def test_an_archive_proves_nothing_about_corrections(store: Store) -> None:
    """It is made by the host; a device that corrects nothing is bad however many movies are archived between."""
    add(store, 3, "A")
    for number in (1, 2, 3):
        store.register_worker(f"archiver{number}", boot_id="b", pid=1, device="A")
        fail(store, "A", movie_id=number)
        store.hold(store.jobs_of(number)[JobKind.CORRECT].job_id, "later")
        store.add_movie(movie_at(f"/data/new{number}.mrc"))
        archive = store.claim(f"archiver{number}", newest=True)
        assert archive is not None
        store.finish(store.begin(archive), {}, 1.0)
        store.hold(store.jobs_of(3 + number)[JobKind.CORRECT].job_id, "later")
        if number < 3:
            assert store.bad_devices() == {}
    assert set(store.bad_devices()) == {"A"}


def test_a_bad_movie_is_no_evidence_against_a_device(store: Store) -> None:
    """One that fails for a reason of its own, or on another device too, is taken off the list."""
    add(store, 3, "A", "B")
    fail(store, "A", movie_id=1)
    fail(store, "A", movie_id=2)
    fail(store, "B", MovieError("bad mode"), movie_id=1)
    fail(store, "A", movie_id=3)
    assert store.bad_devices() == {}


def test_one_crash_counts_once(store: Store) -> None:
    """A worker that dies with two movies in hand is one event."""
    add(store, 4, "A")
    for _ in range(2):
        for _ in range(2):
            store.begin(claim(store, "A"))
        store.return_jobs("A", WorkerLostError("died"), 3)
        store.register_worker("A", boot_id="b", pid=1, device="A")
    assert store.bad_devices() == {}


def test_a_power_cut_costs_nothing(store: Store) -> None:
    """What was begun when komad ended goes back without a try, and without a mark; again and again it counts."""
    add(store, 1, "A")
    store.begin(claim(store, "A"))
    [job] = store.return_jobs("A", InterruptedWorkError("komad ended"), 1)
    assert (job.state, job.attempt, job.alone) == (JobState.QUEUED, 0, False)
    assert store.begin(claim(store, "A")).attempt == 1
    [job] = store.return_jobs("A", InterruptedWorkError("komad ended"), 1)
    assert (job.state, job.error_code) == (JobState.FAILED, "interrupted")


def test_a_device_that_works_again(store: Store) -> None:
    """Its growth is remembered until a movie is corrected there; then nothing is left."""
    add(store, 2, "A")
    for n_bad in (1, 2):
        store.set_aside("A", "probe failed")
        assert store.bad_devices()["A"].n_bad == n_bad
        store.put_back("A")
        assert store.bad_devices() == {}
    store.finish(store.begin(claim(store, "A")), {}, 1.0)
    store.set_aside("A", "probe failed")
    assert store.bad_devices()["A"].n_bad == 1


@pytest.mark.parametrize(("newest", "taken"), [(False, [1, 2, 3]), (True, [3, 2, 1])])
def test_order_of_claims(store: Store, newest: bool, taken: list[int]) -> None:
    """The oldest first, or the newest; either leaves alone what is not due."""
    add(store, 4, "A")
    store.fail(store.begin(claim(store, "A")), ArchiveError("x"), 3)
    found = []
    while (job := store.claim("A", newest=newest)) is not None:
        found.append(job.movie_id)
    assert found == [number + 1 for number in taken]


@pytest.mark.parametrize("newest", [False, True])
def test_claims_go_by_the_index(store: Store, newest: bool) -> None:
    """Neither end of the queue is found by looking through the table, nor by sorting."""
    add(store, 1, "A")
    said: list[str] = []
    with store.read() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.set_trace_callback(said.append)
    assert store.claim("A", newest=newest) is not None
    with store.read() as connection:
        raw.set_trace_callback(None)
        [claim_it] = [statement for statement in said if statement.startswith("UPDATE jobs")]
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {claim_it}")]
    assert any("INDEX ix_jobs_queued" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step or step == "SCAN jobs" for step in plan), plan
