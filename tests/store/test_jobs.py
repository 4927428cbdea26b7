"""Jobs: claims, attempts, failures, retries, lost workers."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from sqlalchemy import text

from komad.errors import (
    ArchiveError,
    DiskFullError,
    FolderLostError,
    MovieError,
    TransitionError,
    WorkerLostError,
)
from komad.model import Job, JobEvent, JobKind, JobState, Movie
from komad.store import WAITING_FOR_ARCHIVE, PausedBy, Store

MakeMovie = Callable[..., Movie]
LOST = WorkerLostError("worker w is gone")


def claim(store: Store, worker_id: str = "w") -> Job:
    """Claim a job that must be there."""
    job = store.claim(worker_id)
    assert job is not None
    return job


def archived(store: Store, movie: Movie) -> Job:
    """Add a movie whose archive is done; gives its claimed and begun correct job."""
    assert store.add_movie(movie) is not None
    store.finish(store.begin(claim(store)), {}, 1.0)
    return store.begin(claim(store))


def no_delay(store: Store) -> None:
    """Let time pass until every job may be claimed."""
    with store.write() as connection:
        connection.execute(text("UPDATE jobs SET not_before = ''"))


def test_life_of_a_movie(store: Store, make_movie: MakeMovie) -> None:
    """Archive, then correct; each change is in the history, and the result is handed over in order."""
    movie = store.add_movie(make_movie())
    assert movie is not None
    archive = claim(store)
    assert (archive.kind, archive.state, archive.attempt) == (JobKind.ARCHIVE, JobState.RUNNING, 0)
    assert store.claim("w") is None
    assert store.finish(store.begin(archive), {"n": 1}, 2.5) is None
    correct = store.begin(claim(store))
    assert (correct.kind, correct.attempt) == (JobKind.CORRECT, 1)
    store.finish(correct, {"stem": movie.stem}, 1.5)
    assert [(done.sequence, done.stem, done.summary) for done in store.finished_since(0)] == [
        (1, "a", {"stem": "a"})
    ]
    assert store.finished_since(1) == []
    events = [(entry.event, entry.state, entry.worker_id) for entry in store.history(correct.job_id)]
    assert events == [("release", "queued", ""), ("claim", "running", "w"), ("finish", "done", "w")]


def test_more_to_do(store: Store, make_movie: MakeMovie) -> None:
    """From the first job to the last; what waits for an archive that failed is given up."""
    assert not store.has_more_to_do()
    store.add_movie(make_movie())
    assert store.has_more_to_do()
    archive = store.begin(claim(store))
    store.finish(archive, {"n": 1}, 2.5)
    assert store.has_more_to_do()
    store.finish(store.begin(claim(store)), {"stem": "a"}, 1.5)
    assert not store.has_more_to_do()
    store.add_movie(make_movie("/data/bad.mrc", fingerprint="0" * 64))
    store.fail(store.begin(claim(store)), MovieError("bad mode"), 3)
    assert not store.has_more_to_do()


def test_finish_goes_on_with_the_same_movie(store: Store, make_movie: MakeMovie) -> None:
    """A worker that goes on gets the correct job of the movie it has in memory, not an older one."""
    store.add_movie(make_movie("/data/a.mrc"))
    store.finish(store.begin(claim(store)), {}, 1.0)
    second = store.add_movie(make_movie("/data/b.mrc"))
    assert second is not None
    older = claim(store, "other")
    archive = store.begin(claim(store))
    store.give_back(older)
    job = store.finish(archive, {}, 1.0, go_on=True)
    assert job is not None
    assert (job.movie_id, job.kind, job.state, job.worker_id) == (2, JobKind.CORRECT, JobState.RUNNING, "w")


def test_finish_does_not_go_on_with_a_suspect(store: Store, make_movie: MakeMovie) -> None:
    """A correct job that was tried before is left in the queue, to be claimed alone."""
    archived(store, make_movie())
    store.return_jobs("w", LOST, 3)
    store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    archive = store.begin(claim(store))
    assert store.finish(archive, {}, 1.0, go_on=True) is None
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.QUEUED


def test_claims_are_oldest_first(store: Store, make_movie: MakeMovie) -> None:
    """The oldest job comes first, one that is tried again in its old place; a job that is held never comes."""
    for name in "abc":
        store.add_movie(make_movie(f"/data/{name}.mrc"))
    first, second = store.begin(claim(store)), claim(store)
    assert (first.movie_id, second.movie_id) == (1, 2)
    store.fail(first, ArchiveError("checksum"), 3)
    no_delay(store)
    assert [claim(store).movie_id, claim(store).movie_id] == [1, 3]
    assert store.claim("w") is None


def test_retry_after_an_error_waits(store: Store, make_movie: MakeMovie) -> None:
    """A job that may succeed later goes back to the queue with a delay, and fails after its last attempt."""
    store.add_movie(make_movie())
    for attempt in (1, 2, 3):
        job = store.begin(claim(store))
        assert job.attempt == attempt
        decision = store.fail(job, ArchiveError("checksum differs"), 3)
        assert store.claim("w") is None
        no_delay(store)
    assert decision.event is JobEvent.FAIL
    failed = store.job(job.job_id)
    assert (failed.state, failed.error_code, failed.error_message) == (
        JobState.FAILED,
        "archive",
        "checksum differs",
    )
    assert store.jobs_of(1)[JobKind.CORRECT].reason == "its archive failed: checksum differs"


def test_hopeless_error_fails_at_once(store: Store, make_movie: MakeMovie) -> None:
    """An error that no retry can cure ends the job at the first attempt."""
    store.add_movie(make_movie())
    assert store.fail(store.begin(claim(store)), MovieError("bad mode"), 3).event is JobEvent.FAIL


def test_full_disk_holds_without_blame(store: Store, make_movie: MakeMovie) -> None:
    """A full disk holds the job, costs no attempt, and the job goes on when told that there is room."""
    job = archived(store, make_movie())
    store.fail(job, DiskFullError("/out is full"), 1)
    held = store.job(job.job_id)
    assert (held.state, held.reason, held.attempt) == (JobState.HELD, "disk: /out is full", 0)
    assert store.release_disk_held() == 1
    assert store.begin(claim(store)).attempt == 1


def test_lost_folder_holds_without_blame(store: Store, make_movie: MakeMovie) -> None:
    """While its watched folder is lost a job is held at no cost; room on a disk is not its cure."""
    movie = make_movie()
    store.add_movie(movie)
    job = store.begin(claim(store))
    store.fail(job, FolderLostError("/camera is empty"), 1)
    held = store.job(job.job_id)
    assert (held.state, held.reason, held.attempt) == (JobState.HELD, "disk: /camera is empty", 0)
    assert store.release_disk_held() == 0
    assert store.release_folder_held(lambda path: path != movie.path) == 0
    assert store.release_folder_held(lambda path: path == movie.path) == 1
    assert store.begin(claim(store)).attempt == 1


def test_retry_of_a_failed_archive_lets_the_correct_job_go_on(store: Store, make_movie: MakeMovie) -> None:
    """Retrying the archive makes the correct job wait for it again, with a clean slate."""
    store.add_movie(make_movie())
    store.fail(store.begin(claim(store)), MovieError("bad mode"), 3)
    job = store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    assert (job.state, job.attempt, job.error_code) == (JobState.QUEUED, 0, "")
    assert store.jobs_of(1)[JobKind.CORRECT].reason == WAITING_FOR_ARCHIVE
    store.finish(store.begin(claim(store)), {}, 1.0)
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.QUEUED


def test_retry_of_a_failed_archive_keeps_missing_parameters(store: Store, make_movie: MakeMovie) -> None:
    """What was missing before the archive failed is still missing after it succeeded."""
    store.add_movie(make_movie(), held={JobKind.CORRECT: "dose unknown"})
    store.fail(store.begin(claim(store)), MovieError("bad mode"), 3)
    store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    store.finish(store.begin(claim(store)), {}, 1.0)
    assert store.jobs_of(1)[JobKind.CORRECT].reason == "dose unknown"


def test_retry_of_done_jobs(store: Store, make_movie: MakeMovie) -> None:
    """A done correct job runs again under a new, higher number; a done archive job repeats both."""
    correct = archived(store, make_movie())
    store.finish(correct, {}, 1.0)
    assert store.retry(correct.job_id).state is JobState.QUEUED
    assert store.finished_since(0) == []
    store.finish(store.begin(claim(store)), {}, 1.0)
    assert [done.sequence for done in store.finished_since(0)] == [2]
    store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    assert store.jobs_of(1)[JobKind.CORRECT].reason == WAITING_FOR_ARCHIVE


def test_retry_of_what_runs_or_waits(store: Store, make_movie: MakeMovie) -> None:
    """Only a job that ended can be retried, and an archive not while its correct job runs."""
    correct = archived(store, make_movie())
    for kind in JobKind:
        with pytest.raises(TransitionError):
            store.retry(store.jobs_of(1)[kind].job_id)
    assert store.job(correct.job_id).state is JobState.RUNNING


def test_hold_and_release_by_a_person(store: Store, make_movie: MakeMovie) -> None:
    """A person's hold outlasts the archive; released, the job waits for what it needs."""
    store.add_movie(make_movie())
    correct = store.jobs_of(1)[JobKind.CORRECT]
    store.hold(correct.job_id, "ask Ann first")
    archive = store.begin(claim(store))
    with pytest.raises(TransitionError, match="running"):
        store.hold(archive.job_id, "no")
    store.release(correct.job_id)
    assert store.job(correct.job_id).reason == WAITING_FOR_ARCHIVE
    store.hold(correct.job_id, "ask Ann first")
    store.finish(archive, {}, 1.0)
    assert store.job(correct.job_id).reason == "ask Ann first"
    store.release(correct.job_id)
    assert store.job(correct.job_id).state is JobState.QUEUED


def test_cancelled_archive(store: Store, make_movie: MakeMovie) -> None:
    """Without an archive there is no correct job; a retry brings both back."""
    store.add_movie(make_movie())
    archive = store.jobs_of(1)[JobKind.ARCHIVE]
    store.cancel(archive.job_id)
    assert store.claim("w") is None
    assert store.jobs_of(1)[JobKind.CORRECT].reason == "its archive was cancelled"
    store.retry(archive.job_id)
    assert claim(store).job_id == archive.job_id


def test_lost_worker(store: Store, make_movie: MakeMovie) -> None:
    """What a lost worker computed has used an attempt, what it read ahead has not, and both run alone from now on."""
    for name in "ab":
        store.add_movie(make_movie(f"/data/{name}.mrc"))
    store.register_worker("w", boot_id="boot", pid=1, device="cpu")
    begun, read_ahead = store.begin(claim(store)), claim(store)
    returned = store.return_jobs("w", LOST, 3)
    assert [(job.job_id, job.state, job.attempt, job.alone) for job in returned] == [
        (begun.job_id, JobState.QUEUED, 1, True),
        (read_ahead.job_id, JobState.QUEUED, 0, True),
    ]
    assert store.workers() == []
    assert claim(store).job_id == read_ahead.job_id, "the one that is not to blame has no delay"
    with pytest.raises(WorkerLostError):
        store.finish(begun, {}, 1.0)


def test_reader_that_crashes_is_bounded(store: Store, make_movie: MakeMovie) -> None:
    """A movie that kills its worker while it is read ends as failed, after one crash more than its attempts."""
    store.add_movie(make_movie())
    n_crashes = 0
    while (job := store.claim("w")) is not None:
        if job.alone:
            store.begin(job)
        store.return_jobs("w", LOST, 3)
        no_delay(store)
        n_crashes += 1
    assert n_crashes == 4
    archive = store.jobs_of(1)[JobKind.ARCHIVE]
    assert (archive.state, archive.error_code) == (JobState.FAILED, "worker_lost")


def test_give_back_is_not_blamed(store: Store, make_movie: MakeMovie) -> None:
    """A job given back because the worker stops is as fresh as before, however often."""
    store.add_movie(make_movie())
    for _ in range(5):
        store.give_back(claim(store))
        store.give_back(store.begin(claim(store)))
    job = claim(store)
    assert (job.attempt, job.alone) == (0, False)


def test_begin_twice(store: Store, make_movie: MakeMovie) -> None:
    """One claim counts one attempt."""
    store.add_movie(make_movie())
    job = store.begin(claim(store))
    with pytest.raises(WorkerLostError):
        store.begin(job)


def test_pause(store: Store, make_movie: MakeMovie) -> None:
    """While claims are paused no job is given out, and the reason can be read."""
    store.add_movie(make_movie())
    store.pause("disk: 1 GB free", PausedBy.DISK)
    store.pause("disk: 0.5 GB free", PausedBy.DISK)
    assert (store.claim("w"), store.paused(PausedBy.DISK)) == (None, "disk: 0.5 GB free")
    assert store.resume(PausedBy.DISK)
    assert store.paused(PausedBy.DISK) == ""
    assert claim(store)


def test_pauses_of_a_person_and_of_the_disk_are_apart(store: Store, make_movie: MakeMovie) -> None:
    """Each ends its own pause only, and jobs are claimed when both have ended; it is said when there was none."""
    store.add_movie(make_movie())
    store.pause("ask Ann", PausedBy.PERSON)
    store.pause("disk: full", PausedBy.DISK)
    assert store.resume(PausedBy.PERSON)
    assert (store.claim("w"), store.paused(PausedBy.DISK)) == (None, "disk: full")
    store.pause("ask Ann", PausedBy.PERSON)
    assert store.resume(PausedBy.DISK)
    assert (store.claim("w"), store.paused(PausedBy.PERSON)) == (None, "ask Ann")
    assert store.resume(PausedBy.PERSON)
    assert not store.resume(PausedBy.PERSON)
    assert claim(store)


@pytest.mark.parametrize("by", PausedBy)
def test_a_paused_worker_does_not_go_on(store: Store, make_movie: MakeMovie, by: PausedBy) -> None:
    """While claims are paused, the end of an archive job does not give out the correct job."""
    store.add_movie(make_movie())
    archive = store.begin(claim(store))
    store.pause("full", by)
    assert store.finish(archive, {}, 1.0, go_on=True) is None
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.QUEUED


def test_workers_beat(store: Store) -> None:
    """A beat raises the number and shows the activity; a worker that was removed is told so."""
    store.register_worker("w", boot_id="boot", pid=42, device="cpu")
    assert store.beat("w", "archiving a")
    (worker,) = store.workers()
    assert (worker.pid, worker.device, worker.beat, worker.activity) == (42, "cpu", 1, "archiving a")
    store.remove_worker("w")
    assert not store.beat("w", "idle")


def claim_all(state_directory: Path, name: str, claimed: "Queue[list[int]]") -> None:
    """Claim and finish until nothing is left."""
    mine = []
    with Store(state_directory).open() as store:
        while (job := store.claim(name)) is not None:
            mine.append(job.job_id)
            store.finish(store.begin(job), {}, 0.1)
    claimed.put(mine)


def test_claims_from_many_processes(store: Store, make_movie: MakeMovie) -> None:
    """Processes that claim at the same time get each job exactly once, and the results have distinct numbers."""
    for number in range(40):
        store.add_movie(make_movie(f"/data/{number}.mrc"))
    context = multiprocessing.get_context("spawn")
    claimed: Queue[list[int]] = context.Queue()
    processes = [
        context.Process(target=claim_all, args=(store.state_directory, f"w{n}", claimed)) for n in range(3)
    ]
    for process in processes:
        process.start()
    jobs = [job_id for _ in processes for job_id in claimed.get(timeout=60)]
    for process in processes:
        process.join()
    assert sorted(jobs) == list(range(1, 81))
    assert [done.sequence for done in store.finished_since(0)] == list(range(1, 41))
