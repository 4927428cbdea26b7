"""Random operations on a real database, compared with a model of what must hold."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import text

from komad.errors import ArchiveError, DiskFullError, KomadError, MovieError, TransitionError, WorkerLostError
from komad.model import Acquisition, Job, JobKind, JobState
from komad.store import HeldBy, Store
from tests.store.conftest import movie_at

MAX_ATTEMPTS = 2
ERRORS = st.sampled_from([ArchiveError("checksum"), MovieError("bad mode"), DiskFullError("full")])
KINDS = st.sampled_from(list(JobKind))


@dataclass
class Movie:
    """What the model remembers of a movie."""

    missing: bool


class JobMachine(RuleBasedStateMachine):
    """Movies come, workers come, work and die, people interfere."""

    movies = Bundle("movies")
    workers = Bundle("workers")

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name)).open()
        self.known: dict[int, Movie] = {}
        self.alive: set[str] = set()
        self.claimed: dict[int, Job] = {}
        self.n_finished = 0
        self.n_workers = 0

    @rule(target=movies, missing=st.booleans(), mode=st.sampled_from(["trailing", "centred"]))
    def add(self, missing: bool, mode: str) -> int:
        acquisition = (
            Acquisition()
            if missing
            else Acquisition(pixel_size_angstrom=1.0, sources={"pixel_size_angstrom": "x"})
        )
        movie = movie_at(
            f"/data/m{len(self.known)}.mrc",
            acquisition=acquisition,
            series="s",
            koma={"radius": 1, "mode": mode},
        )
        held = {JobKind.CORRECT: "pixel size unknown"} if missing else {}
        added = self.store.add_movie(movie, held=held)
        assert added is not None
        assert self.store.add_movie(movie, held=held) is None
        self.known[added.movie_id] = Movie(missing)
        return added.movie_id

    @rule(target=workers)
    def start_worker(self) -> str:
        self.n_workers += 1
        name = f"w{self.n_workers}"
        self.store.register_worker(name, boot_id="boot", pid=1, device="cpu")
        self.alive.add(name)
        return name

    @rule(worker=workers)
    def claim(self, worker: str) -> None:
        if worker not in self.alive:
            return
        queued = self.ids(JobState.QUEUED)
        job = self.store.claim(worker)
        assert (job.job_id if job else None) == min(queued, default=None)
        if job:
            self.claimed[job.job_id] = job

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.claimed.values())))
        try:
            begun = self.store.begin(job)
        except WorkerLostError:
            return  # it was begun already
        assert begun.attempt == job.attempt + 1
        self.claimed[job.job_id] = begun

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), go_on=st.booleans())
    def finish(self, data: st.DataObject, go_on: bool) -> None:
        job = data.draw(st.sampled_from(list(self.claimed.values())))
        following = self.store.finish(job, {"job": job.job_id}, 1.0, go_on=go_on)
        del self.claimed[job.job_id]
        if following:
            assert go_on
            assert (following.movie_id, following.kind) == (job.movie_id, JobKind.CORRECT)
            self.claimed[following.job_id] = following
        if job.kind is JobKind.CORRECT:
            self.n_finished += 1
            assert self.store.finished_since(self.n_finished - 1)[0].movie_id == job.movie_id

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), error=ERRORS)
    def fail(self, data: st.DataObject, error: KomadError) -> None:
        job = data.draw(st.sampled_from(list(self.claimed.values())))
        self.store.fail(job, error, MAX_ATTEMPTS)
        del self.claimed[job.job_id]
        self.let_time_pass()

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.claimed.values())))
        self.store.give_back(job)
        del self.claimed[job.job_id]

    @rule(worker=workers)
    def lose(self, worker: str) -> None:
        mine = {job.job_id for job in self.claimed.values() if job.worker_id == worker}
        returned = self.store.return_jobs(worker, WorkerLostError("gone"), MAX_ATTEMPTS)
        assert {job.job_id for job in returned} == mine
        for job_id in mine:
            job = self.claimed.pop(job_id)
            try:
                self.store.finish(job, {}, 1.0)
                raise AssertionError("a lost worker finished a job")
            except WorkerLostError:
                pass
        self.alive.discard(worker)
        self.let_time_pass()

    @rule(movie_id=movies, kind=KINDS, action=st.sampled_from(["hold", "release", "retry", "cancel"]))
    def interfere(self, movie_id: int, kind: JobKind, action: str) -> None:
        jobs = self.store.jobs_of(movie_id)
        before = jobs[kind].state
        allowed = {
            "hold": before in {JobState.QUEUED, JobState.HELD},
            "release": before is JobState.HELD,
            "cancel": before in {JobState.QUEUED, JobState.HELD},
            "retry": before in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
            and not (kind is JobKind.ARCHIVE and jobs[JobKind.CORRECT].state is JobState.RUNNING),
        }[action]
        job_id = jobs[kind].job_id
        try:
            if action == "hold":
                self.store.hold(job_id, "by hand")
            else:
                getattr(self.store, action)(job_id)
        except TransitionError:
            assert not allowed
        else:
            assert allowed

    @rule(movie_id=st.none() | movies)
    def supply(self, movie_id: int | None) -> None:
        self.store.supply(
            {"pixel_size_angstrom": 1.0},
            movie_id=movie_id,
            missing=lambda acquisition, _: "" if acquisition.pixel_size_angstrom else "pixel size unknown",
        )
        for known in self.known.values() if movie_id is None else [self.known[movie_id]]:
            known.missing = False

    @rule()
    def room_again(self) -> None:
        self.store.release_disk_held()

    @rule()
    def waited_long_enough(self) -> None:
        with self.store.write() as connection:
            connection.execute(text("UPDATE jobs SET ended_at = '2026' WHERE ended_at IS NOT NULL"))
        self.store.release_koma_held()
        with self.store.read() as connection:
            waiting = connection.execute(text("SELECT count(*) FROM jobs WHERE held_by = 'koma'")).scalar()
        assert waiting == 0

    def let_time_pass(self) -> None:
        with self.store.write() as connection:
            connection.execute(text("UPDATE jobs SET not_before = ''"))

    def ids(self, state: JobState) -> list[int]:
        with self.store.read() as connection:
            found = connection.execute(
                text("SELECT job_id FROM jobs WHERE state = :state ORDER BY job_id"), {"state": state}
            )
            return list(found.scalars())

    @invariant()
    def every_movie_has_its_two_jobs(self) -> None:
        for movie_id in self.known:
            assert list(self.store.jobs_of(movie_id)) == [JobKind.ARCHIVE, JobKind.CORRECT]

    @invariant()
    def running_is_what_living_workers_claimed(self) -> None:
        assert sorted(self.claimed) == self.ids(JobState.RUNNING)
        assert {worker.worker_id for worker in self.store.workers()} == self.alive
        assert {job.worker_id for job in self.claimed.values()} <= self.alive

    @invariant()
    def correct_never_comes_before_archive_and_parameters(self) -> None:
        for movie_id, known in self.known.items():
            jobs = self.store.jobs_of(movie_id)
            if jobs[JobKind.CORRECT].state in {JobState.QUEUED, JobState.RUNNING, JobState.DONE}:
                assert jobs[JobKind.ARCHIVE].state is JobState.DONE
                assert not known.missing

    @invariant()
    def held_has_a_reason_and_waits_for_something_real(self) -> None:
        with self.store.read() as connection:
            rows = connection.execute(text("SELECT * FROM jobs")).all()
        archives = {row.movie_id: row for row in rows if row.kind == JobKind.ARCHIVE}
        for row in rows:
            assert (row.state == JobState.HELD) == (row.reason != "") == (row.held_by != "")
            if row.held_by == HeldBy.ARCHIVE:
                assert archives[row.movie_id].state != JobState.DONE
            if row.held_by == HeldBy.PARAMETERS:
                assert self.known[row.movie_id].missing
            if row.held_by == HeldBy.KOMA:
                assert archives[row.movie_id].state == JobState.DONE
                assert "later movies" in row.reason or any(
                    archive.state in {JobState.QUEUED, JobState.RUNNING} for archive in archives.values()
                )
            assert row.attempt <= MAX_ATTEMPTS

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.read() as connection:
            numbered = connection.execute(text("SELECT kind, state FROM jobs WHERE sequence IS NOT NULL"))
            assert set(numbered) <= {(JobKind.CORRECT, JobState.DONE)}
            last = connection.execute(
                text(
                    "SELECT jobs.state, job_events.state FROM jobs JOIN job_events USING (job_id) "
                    "GROUP BY job_id HAVING event_id = max(event_id)"
                )
            )
            assert all(state == told for state, told in last)
        self.store.close()
        self.directory.cleanup()


JobMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestJobMachine = JobMachine.TestCase
