"""Random operations on a real database, compared with a model of all its jobs, pauses and devices."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import text

from komad.errors import (
    ArchiveError,
    DeviceError,
    DiskFullError,
    Failure,
    FolderLostError,
    InternalError,
    InterruptedWorkError,
    KomadError,
    MovieError,
    TransitionError,
    WorkerLostError,
)
from komad.ingest import with_supplied
from komad.model import Acquisition, Job, JobEvent, JobKind, JobState, Tries, after_failure, is_bad_device
from komad.store import HeldBy, PausedBy, Store
from tests.store.conftest import movie_at
from tests.store.invariants import check_invariants

MAX_ATTEMPTS = 2
ERRORS = st.sampled_from(
    [
        ArchiveError("checksum"),
        MovieError("bad mode"),
        DiskFullError("full"),
        FolderLostError("gone"),
        *(InternalError("bug"),) * 4,
        DeviceError("lost"),
    ]
)
ROUNDS = st.lists(st.none() | ERRORS, min_size=1, max_size=5) | st.just([InternalError("bug")] * 4)
ENDS = st.sampled_from([WorkerLostError("gone"), WorkerLostError("gone"), InterruptedWorkError("killed")])
KINDS = st.sampled_from(list(JobKind))
HELD, QUEUED, RUNNING = JobState.HELD, JobState.QUEUED, JobState.RUNNING
DONE, FAILED, CANCELLED = JobState.DONE, JobState.FAILED, JobState.CANCELLED
SETTLED = {HeldBy.ARCHIVE, HeldBy.PARAMETERS, HeldBy.KOMA}
BY_KOMA = {(QUEUED, ""), (HELD, HeldBy.KOMA)}


@dataclass
class OneJob:
    """What the model says of a job."""

    job_id: int
    movie_id: int
    kind: JobKind
    state: JobState
    held_by: str = ""
    attempt: int = 0
    suspect: bool = False
    avoid: str = ""
    failed_on: str = ""
    spared: bool = False
    begun: bool = False

    def go(self, state: JobState, held_by: str = "") -> None:
        """Change the state."""
        self.state, self.held_by, self.begun = state, held_by, False

    def fresh(self) -> None:
        """Forget what went wrong."""
        self.suspect, self.avoid, self.failed_on, self.spared = False, "", "", False

    def requeue(self) -> None:
        """Begin as if new."""
        self.go(QUEUED)
        self.fresh()
        self.attempt = 0

    def uncount(self) -> None:
        """Take the try that runs back."""
        self.attempt -= self.begun


@dataclass
class OneMovie:
    """What the model says of a movie."""

    missing: bool
    uses_koma: bool
    archive: OneJob
    correct: OneJob

    def settle(self) -> None:
        """Let the correct job wait for what is not there."""
        if self.correct.state is HELD and self.correct.held_by not in SETTLED:
            return
        if self.correct.state not in {HELD, QUEUED}:
            return
        if self.archive.state in {FAILED, CANCELLED}:
            self.correct.go(HELD, HeldBy.ARCHIVE)
        elif self.missing:
            self.correct.go(HELD, HeldBy.PARAMETERS)
        elif self.archive.state is not DONE:
            self.correct.go(HELD, HeldBy.ARCHIVE)
        elif not (self.uses_koma and (self.correct.state, self.correct.held_by) in BY_KOMA):
            self.correct.go(QUEUED)


@dataclass
class OneDevice:
    """What the model says of a device on which something failed."""

    faults: dict[int, int] = field(default_factory=dict)
    n_bad: int = 0
    is_bad: bool = False

    def set_aside(self) -> None:
        """Found bad."""
        self.faults, self.n_bad, self.is_bad = {}, self.n_bad + 1, True


class JobMachine(RuleBasedStateMachine):
    """Movies come, workers come, work and die, devices break, people interfere."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.directory.name)).open()
        self.known: dict[int, OneMovie] = {}
        self.jobs: dict[int, OneJob] = {}
        self.alive: dict[str, str] = {}
        self.claimed: dict[int, Job] = {}
        self.devices: dict[str, OneDevice] = {}
        self.pauses: dict[PausedBy, str] = {}
        self.n_finished = 0
        self.n_workers = 0
        for device in ("cuda:0", "cuda:0", "cuda:1"):
            self.start_worker(device)
        for _ in range(4):  # enough for a device to be found bad
            self.add(missing=False, mode="off")

    @precondition(lambda self: len(self.known) < 8)
    @rule(missing=st.booleans(), mode=st.sampled_from(["off", "off", "trailing", "centred"]))
    def add(self, missing: bool, mode: str) -> None:
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
        ids = {kind: job.job_id for kind, job in self.store.jobs_of(added.movie_id).items()}
        archive, correct = (OneJob(ids[kind], added.movie_id, kind, QUEUED) for kind in JobKind)
        self.known[added.movie_id] = OneMovie(missing, mode != "off", archive, correct)
        self.jobs |= {archive.job_id: archive, correct.job_id: correct}
        self.settle()

    @precondition(lambda self: len(self.alive) < 4)
    @rule(device=st.sampled_from(["cuda:0", "cuda:0", "cuda:1"]))
    def start_worker(self, device: str) -> None:
        self.n_workers += 1
        name = f"w{self.n_workers}"
        self.store.register_worker(name, boot_id="boot", pid=1, device=device)
        self.alive[name] = device

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), newest=st.booleans())
    def claim(self, data: st.DataObject, newest: bool) -> None:
        self.claim_one(data.draw(st.sampled_from(sorted(self.alive))), newest=newest)

    def claim_one(self, worker: str, *, newest: bool) -> Job | None:
        device = self.alive[worker]
        nobody_else = set(self.alive.values()) == {device}
        mine = [
            job.job_id
            for job in self.jobs.values()
            if job.state is QUEUED and (job.avoid != device or nobody_else)
        ]
        wanted = None if self.pauses or not mine else (max if newest else min)(mine)
        job = self.store.claim(worker, newest=newest)
        assert (job.job_id if job else None) == wanted
        if job:
            self.take(job)
        return job

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), errors=ROUNDS, go_on=st.booleans())
    def work(self, data: st.DataObject, errors: list[KomadError | None], go_on: bool) -> None:
        """One worker does several jobs, each with an error or well."""
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        for error in errors:
            job = self.claim_one(worker, newest=False)
            if job is None:
                return
            self.begin_one(job)
            if error is None:
                self.finish_one(self.claimed[job.job_id], go_on=go_on)
            else:
                self.fail_one(self.claimed[job.job_id], error)
            self.sync_koma()

    def take(self, job: Job) -> None:
        self.claimed[job.job_id] = job
        self.jobs[job.job_id].go(RUNNING)

    def one_claimed(self, data: st.DataObject) -> Job:
        return data.draw(st.sampled_from(list(self.claimed.values())))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.begin_one(self.one_claimed(data))

    def begin_one(self, job: Job) -> None:
        model = self.jobs[job.job_id]
        try:
            begun = self.store.begin(job)
        except WorkerLostError:
            assert model.begun
            return
        assert not model.begun
        model.attempt, model.begun = model.attempt + 1, True
        self.claimed[job.job_id] = begun

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), go_on=st.booleans())
    def finish(self, data: st.DataObject, go_on: bool) -> None:
        self.finish_one(self.one_claimed(data), go_on=go_on)

    def finish_one(self, job: Job, *, go_on: bool) -> None:
        model = self.jobs[job.job_id]
        following = self.store.finish(job, {"job": job.job_id}, 1.0, go_on=go_on)
        del self.claimed[job.job_id]
        model.go(DONE)
        model.fresh()
        device = self.alive[job.worker_id]
        bad = self.devices.get(device)
        if bad is not None and job.kind is JobKind.CORRECT and not bad.is_bad:
            del self.devices[device]
        elif bad is not None:
            bad.faults = {it: n for it, n in bad.faults.items() if self.jobs[it].kind is not job.kind}
        self.settle()
        if job.kind is JobKind.CORRECT:
            self.n_finished += 1
            assert self.store.finished_since(self.n_finished - 1)[0].movie_id == job.movie_id
            return
        movie = self.known[job.movie_id]
        self.sync_koma()
        correct = movie.correct
        may_go_on = go_on and not self.pauses and not (correct.attempt or correct.suspect)
        if following is not None:
            assert (following.job_id, following.worker_id) == (correct.job_id, job.worker_id)
            assert may_go_on
            assert (correct.state, correct.held_by) in BY_KOMA
            self.take(following)
        else:
            assert not (may_go_on and correct.state is QUEUED)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), error=ERRORS)
    def fail(self, data: st.DataObject, error: KomadError) -> None:
        self.fail_one(self.one_claimed(data), error)

    def fail_one(self, job: Job, error: KomadError) -> None:
        model = self.jobs[job.job_id]
        decision = self.store.fail(job, error, MAX_ATTEMPTS)
        del self.claimed[job.job_id]
        bad_before = self.devices.get(self.alive[job.worker_id], OneDevice()).n_bad
        self.failed(model, error, self.alive[job.worker_id])
        bad_now = self.devices.get(self.alive[job.worker_id], OneDevice()).n_bad
        assert bool(decision.device_reason) == (bad_now > bad_before)
        self.settle()
        self.let_time_pass()

    def failed(self, job: OneJob, error: KomadError, device: str, *, accuse: bool = True) -> None:
        """What the model makes of a failure."""
        tries = Tries(
            attempt=max(job.attempt, 1), device=device, failed_on=job.failed_on, was_spared=job.spared
        )
        decision = after_failure(error, tries, max_attempts=MAX_ATTEMPTS)
        if not decision.counts:
            job.uncount()
        if decision.event is JobEvent.HOLD:
            job.go(HELD, HeldBy.FOLDER if isinstance(error, FolderLostError) else HeldBy.DISK)
        elif decision.event is JobEvent.FAIL:
            job.go(FAILED)
        else:
            job.go(QUEUED)
            job.spared = job.spared or not decision.counts
            job.avoid = job.avoid if error.failure is Failure.INTERRUPTED else device
        if error.failure in {Failure.DEVICE, Failure.UNEXPECTED}:
            job.failed_on = device
        if accuse:
            self.judge(job, error, device, to_blame=decision.to_blame)

    def judge(self, job: OneJob, error: KomadError, device: str, *, to_blame: bool) -> None:
        """What the model makes of the device."""
        if to_blame or error.failure is Failure.MOVIE:
            for other in self.devices.values():
                other.faults.pop(job.job_id, None)
        elif error.failure is Failure.UNEXPECTED:
            known = self.devices.setdefault(device, OneDevice())
            known.faults[job.job_id] = known.faults.get(job.job_id, 0) + 1
            if is_bad_device(self.jobs[it].movie_id for it in known.faults):
                for it, n in known.faults.items():
                    self.give_tries_back(self.jobs[it], device, n)
                known.set_aside()
        if error.failure is Failure.DEVICE:
            self.devices.setdefault(device, OneDevice()).set_aside()

    def give_tries_back(self, job: OneJob, device: str, n: int) -> None:
        if job.spared or job.failed_on != device or job.state not in {QUEUED, HELD, FAILED}:
            return
        job.attempt, job.spared = max(0, job.attempt - n), True
        if job.state is FAILED:
            job.go(QUEUED)

    @rule(device=st.sampled_from(["cuda:0", "cuda:1"]))
    def device_works_again(self, device: str) -> None:
        self.store.put_back(device)
        if device in self.devices:
            self.devices[device].is_bad = False

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        job = self.one_claimed(data)
        model = self.jobs[job.job_id]
        self.store.give_back(job)
        del self.claimed[job.job_id]
        model.uncount()
        model.go(QUEUED)
        self.settle()

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), error=ENDS)
    def lose(self, data: st.DataObject, error: KomadError) -> None:
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        with self.store.read() as connection:
            in_hand = "SELECT job_id FROM jobs WHERE state = 'running' AND worker_id = :worker"
            latest_first = text(f"{in_hand} ORDER BY begun_at DESC, job_id")
            mine = list(connection.execute(latest_first, {"worker": worker}).scalars())
        assert set(mine) == {job.job_id for job in self.claimed.values() if job.worker_id == worker}
        returned = self.store.return_jobs(worker, error, MAX_ATTEMPTS)
        assert [job.job_id for job in returned] == sorted(mine)
        suspect = isinstance(error, WorkerLostError)
        for number, job_id in enumerate(mine):
            job = self.jobs[job_id]
            job.suspect = job.suspect or suspect
            if job.begun:
                self.failed(job, error, self.alive[worker], accuse=number == 0)
            else:
                job.go(QUEUED)
            try:
                self.store.finish(self.claimed.pop(job_id), {}, 1.0)
                raise AssertionError("a lost worker finished a job")
            except WorkerLostError:
                pass
        del self.alive[worker]
        self.settle()
        self.let_time_pass()

    @rule(data=st.data(), kind=KINDS, action=st.sampled_from(["hold", "release", "retry", "cancel"]))
    def interfere(self, data: st.DataObject, kind: JobKind, action: str) -> None:
        movie = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        job = movie.archive if kind is JobKind.ARCHIVE else movie.correct
        allowed = {
            "hold": job.state in {QUEUED, HELD},
            "release": job.state is HELD,
            "cancel": job.state in {QUEUED, HELD},
            "retry": job.state in {DONE, FAILED, CANCELLED}
            and not (kind is JobKind.ARCHIVE and movie.correct.state is RUNNING),
        }[action]
        try:
            if action == "hold":
                self.store.hold(job.job_id, "by hand")
            else:
                getattr(self.store, action)(job.job_id)
        except TransitionError:
            assert not allowed
            return
        assert allowed
        if action == "hold":
            job.go(HELD, HeldBy.PERSON)
        elif action == "release":
            job.go(QUEUED)
        elif action == "cancel":
            job.go(CANCELLED)
        else:
            job.requeue()
            if kind is JobKind.ARCHIVE and movie.correct.state in {DONE, FAILED}:
                movie.correct.requeue()
        self.settle()

    @rule(by=st.sampled_from(PausedBy), reason=st.sampled_from(["one", "other", ""]))
    def pause_or_resume(self, by: PausedBy, reason: str) -> None:
        if reason:
            self.store.pause(reason, by)
            self.pauses[by] = reason
        else:
            assert self.store.resume(by) == (by in self.pauses)
            self.pauses.pop(by, None)
        assert {it: why for it in PausedBy if (why := self.store.paused(it))} == self.pauses

    @rule(data=st.data())
    def supply(self, data: st.DataObject) -> None:
        movie_id = data.draw(st.sampled_from([None, *self.known]))
        self.store.supply(
            {"pixel_size_angstrom": 1.0},
            movie_id=movie_id,
            with_supplied=with_supplied,
            missing=lambda acquisition, _: "" if acquisition.pixel_size_angstrom else "pixel size unknown",
        )
        for known in self.known.values() if movie_id is None else [self.known[movie_id]]:
            known.missing = False
        self.settle()

    @rule(held_by=st.sampled_from([HeldBy.DISK, HeldBy.FOLDER]))
    def room_again(self, held_by: HeldBy) -> None:
        held = [job for job in self.jobs.values() if job.held_by == held_by]
        n_released = (
            self.store.release_disk_held()
            if held_by is HeldBy.DISK
            else self.store.release_folder_held(lambda _: True)
        )
        assert n_released == len(held)
        for job in held:
            job.go(QUEUED)
        self.settle()

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

    def settle(self) -> None:
        for movie in self.known.values():
            movie.settle()

    def rows(self) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(text("SELECT * FROM jobs")).all())

    def sync_koma(self) -> None:
        """What waits for neighbours depends on more than the model knows: either is allowed, if it is reasonable."""
        rows = self.rows()
        archives = {row.movie_id: row for row in rows if row.kind == JobKind.ARCHIVE}
        for row in rows:
            job = self.jobs[row.job_id]
            told = JobState(row.state), row.held_by
            if self.known[row.movie_id].uses_koma and {told, (job.state, job.held_by)} <= BY_KOMA:
                job.state, job.held_by = told
            if row.held_by == HeldBy.KOMA:
                assert archives[row.movie_id].state == DONE
                assert "later movies" in row.reason or any(
                    archive.state in {QUEUED, RUNNING} for archive in archives.values()
                )

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        self.sync_koma()
        rows = self.rows()
        assert [row.job_id for row in rows] == list(self.jobs)
        for row in rows:
            told = OneJob(
                job_id=row.job_id,
                movie_id=row.movie_id,
                kind=JobKind(row.kind),
                state=JobState(row.state),
                held_by=row.held_by,
                attempt=row.attempt,
                suspect=bool(row.suspect),
                avoid=row.avoid,
                failed_on=row.failed_on,
                spared=bool(row.spared),
                begun=row.state == RUNNING and row.begun_at is not None,
            )
            assert told == self.jobs[row.job_id]
            assert row.attempt <= MAX_ATTEMPTS

    @invariant()
    def running_is_what_living_workers_claimed(self) -> None:
        running = {it.job_id for it in self.jobs.values() if it.state is RUNNING}
        assert self.claimed.keys() == running
        assert {it.worker_id: it.device for it in self.store.workers()} == self.alive

    @invariant()
    def devices_are_as_the_model_says(self) -> None:
        bad = {name: it.n_bad for name, it in self.devices.items() if it.is_bad}
        assert {name: row.n_bad for name, row in self.store.bad_devices().items()} == bad

    @invariant()
    def the_database_is_sound(self) -> None:
        check_invariants(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.directory.cleanup()


JobMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestJobMachine = JobMachine.TestCase
