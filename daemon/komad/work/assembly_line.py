"""Three threads that overlap: one reads ahead, one computes, one writes back.

Who is to blame when the process dies? An attempt is counted (`Store.begin`) when the computing of a job begins; a job
that only was read ahead has none counted, but is marked as a suspect. A job that has an attempt, or is a suspect, is
processed alone: it is begun before its reading, when nothing else is in the process, and nothing is claimed until it
has left. So the second crash names the movie, be it in a decoder or in a kernel; its neighbours run through; and no
movie can crash a worker more often than `max_attempts` + 1 times.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import structlog

from komad.arrays import Array
from komad.config import Settings
from komad.errors import (
    BusyError,
    DeviceError,
    FolderLostError,
    HostMemoryError,
    InternalError,
    KomadError,
    MovieMissingError,
    OutputError,
    OutputLostError,
    WorkerLostError,
)
from komad.model import Job, JobEvent, JobKind, MicrographResult, Movie, OutlierPixels, StackSum, takes_newest
from komad.store import Store
from komad.work import stack_sums
from komad.work.archive import archive_movie, find_archive, find_verified_archive, read_archive, read_source
from komad.work.correct import make_micrographs, sum_again, write_results
from komad.work.device import Device
from komad.work.disk import absence, shortage
from komad.work.exits import Exit
from komad.work.gain_check import GainChecker
from komad.work.neighbours import Neighbours
from komad.work.patience import patient

logger = structlog.get_logger(__name__)

CLAIM_INTERVAL_S = 0.5
"""Between two looks into an empty queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A job and the frames that were read for it, or why they could not be."""

    job: Job
    movie: Movie
    frames: Array | None
    kept: Path | None
    """The archive that stands for the camera's file, which is gone."""
    error: Exception | None
    timings_s: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Computed:
    """A correct job that has only to be written."""

    job: Job
    movie: Movie
    result: MicrographResult
    outliers: OutlierPixels
    started: float


class AssemblyLine:
    """The work of one worker process, from claim to commit."""

    def __init__(self, settings: Settings, store: Store, worker_id: str, device: Device) -> None:
        self._settings = settings
        self._hurry = threading.Event()
        self._store = store = patient(store, self._hurry)
        self._worker_id = worker_id
        self._device = device
        self._neighbours = Neighbours(store, settings, device)
        self._gain = GainChecker(store, settings.gain_check)
        self._broken: Exit | None = None
        self._stopping = threading.Event()
        self._in_hand: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._doing: dict[str, tuple[str, float]] = {}
        # The reader may hold one movie while another one is computed, no more: movies are large.
        self._ahead = threading.Semaphore(1)
        self._loaded: queue.Queue[_Loaded | None] = queue.Queue(1)
        self._computed: queue.Queue[_Computed | None] = queue.Queue(1)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"komad-{name}", daemon=True)
            for name, work in (("read", self._read), ("compute", self._compute), ("write", self._write))
        ]

    def start(self) -> None:
        """Probe the device and start working. Raises DeviceError when the device is bad."""
        self._device.probe()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Claim nothing more; the threads end when the jobs in hand are done. Jobs not begun go back."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def abandon(self) -> None:
        """Return every job in hand to the queue without blame, for the process ends now."""
        self._hurry.set()
        self.stop()
        for job in list(self._in_hand.values()):
            with suppress(KomadError):
                self._store.give_back(job)

    def status(self) -> Exit | None:
        """Say how it ended; None while its threads work or wait for work."""
        if self._broken is not None or any(thread.is_alive() for thread in self._threads):
            return self._broken
        return Exit.STOPPED

    def activity(self) -> tuple[str, float | None]:
        """Say what is done, in words, and since when the longest of it (monotonic s; None when idle)."""
        doing = dict(self._doing)
        words = ", ".join(doing[name][0] for name in ("compute", "read", "write") if name in doing)
        return words or "idle", min((since for _, since in doing.values()), default=None)

    # Read ahead.

    def _read(self) -> None:
        turn = 0
        while not self._stopping.is_set():
            if not self._settings.workers.read_ahead:
                self._wait_until_alone(None)
            self._ahead.acquire()
            newest = takes_newest(self._settings.queue.order, turn)
            job = None if self._stopping.is_set() else self._store.claim(self._worker_id, newest=newest)
            if job is None:
                self._ahead.release()
                self._stopping.wait(CLAIM_INTERVAL_S)
                continue
            turn += 1
            self._take(job)
            if job.alone:
                self._wait_until_alone(job)
                if self._stopping.is_set():
                    self._give_back(job)
                    break
                job = self._begin(job)
            self._loaded.put(self._load(job))
            if job.alone:
                self._wait_until_alone(None)
        self._loaded.put(None)

    def _load(self, job: Job) -> _Loaded:
        movie = self._store.movie(job.movie_id)
        start = perf_counter()
        frames, kept, error = None, None, None
        with self._busy("read", f"reading {movie.stem}"):
            try:
                frames, kept = self._read_frames(job, movie)
            except Exception as problem:  # noqa: BLE001 - told to the job in `_compute`, whatever it is
                error = problem
        timings = {"read": round(perf_counter() - start, 4)}
        return _Loaded(job=job, movie=movie, frames=frames, kept=kept, error=error, timings_s=timings)

    def _read_frames(self, job: Job, movie: Movie) -> tuple[Array, Path | None]:
        """Read what the job works on; with it the archive that an archive job keeps, its movie having been removed."""
        directory = self._settings.archive_directory
        if job.kind is JobKind.CORRECT:
            archive = find_archive(movie, directory)
            frames = read_source(movie) if archive is None else read_archive(archive, movie.header.eer)
            return frames, None
        try:
            return read_source(movie), None
        except MovieMissingError:
            kept = find_verified_archive(movie, directory)
            if kept is None:
                raise
            return read_archive(kept, movie.header.eer), kept

    def _wait_until_alone(self, job: Job | None) -> None:
        """Wait until no job but this one is in hand, or the worker stops."""
        mine = set() if job is None else {job.job_id}
        with self._changed:
            self._changed.wait_for(lambda: self._stopping.is_set() or not self._in_hand.keys() - mine)

    # Compute.

    def _compute(self) -> None:
        while (loaded := self._loaded.get()) is not None:
            self._ahead.release()
            if self._stopping.is_set():
                self._give_back(loaded.job)
            else:
                self._process(loaded)
            del loaded  # the frames are not kept while waiting
        self._computed.put(None)

    def _process(self, loaded: _Loaded) -> None:
        """Do a job; after an archive go on with the movie's correct job while the frames are in memory."""
        job = loaded.job if loaded.job.alone else self._begin(loaded.job)
        following = None
        with self._blaming(job, loaded.movie):
            if loaded.error is not None:
                raise loaded.error
            assert loaded.frames is not None
            if job.kind is JobKind.ARCHIVE:
                following = self._archive(job, loaded, loaded.frames)
            else:
                stack_sum = self._stack_sum(loaded.movie, loaded.frames)
                self._correct(job, loaded.movie, loaded.frames, stack_sum, loaded.timings_s)
        if following is not None:
            assert loaded.frames is not None
            correct, stack_sum, timings = following
            correct = self._begin(correct)
            with self._blaming(correct, loaded.movie):
                movie = self._store.movie(correct.movie_id)  # values were supplied meanwhile, perhaps
                self._correct(correct, movie, loaded.frames, stack_sum, timings)

    def _archive(
        self, job: Job, loaded: _Loaded, frames: Array
    ) -> tuple[Job, StackSum, dict[str, float]] | None:
        """Archive a movie; gives the correct job to go on with, its stack sum and the seconds so far."""
        start, movie = perf_counter(), loaded.movie
        with self._busy("compute", f"archiving {movie.stem}"):
            archive, directory = self._settings.archive, self._settings.archive_directory
            result = archive_movie(movie, frames, archive=archive, directory=directory, kept=loaded.kept)
            row = stack_sums.save(self._store.stack_sum_directory, movie, result.stack_sum)
        timings = loaded.timings_s | result.summary["timings_s"]
        summary = result.summary | {"timings_s": timings}
        seconds = round(timings["read"] + perf_counter() - start, 3)
        following = self._store.finish(
            job, summary, seconds, stack_sum=row, go_on=not self._stopping.is_set(), note=result.note
        )
        if result.note:
            logger.info(result.note, movie=movie.stem, movie_id=movie.movie_id, archive=str(result.path))
        if following is not None:
            self._take(following)
        self._leave(job)
        self._neighbours.tidy()
        self._gain.look(movie)
        if following is None:
            _log_done("archived", job, movie, summary)
            return None
        return following, result.stack_sum, timings

    def _correct(
        self,
        job: Job,
        movie: Movie,
        frames: Array,
        stack_sum: StackSum,
        timings: dict[str, float],
    ) -> None:
        started = perf_counter()
        outliers = stack_sum.outliers
        with self._busy("compute", f"correcting {movie.stem}"):
            koma = self._neighbours.pattern(movie, stack_sum)
            timings = timings | {"koma": round(perf_counter() - started, 4)}
            result = make_micrographs(
                movie,
                frames,
                outliers=outliers,
                output=self._settings.output,
                koma=koma,
                device=self._device,
            )
        largest, timings = stack_sum.largest_count, timings | result.timings_s
        result = replace(result, timings_s=timings, largest_count=largest)
        self._computed.put(_Computed(job=job, movie=movie, result=result, outliers=outliers, started=started))

    def _stack_sum(self, movie: Movie, frames: Array) -> StackSum:
        row = self._store.stack_sum(movie.movie_id)
        kept = stack_sums.load_kept(self._store.stack_sum_directory, row)
        return sum_again(movie, frames) if kept is None else kept

    # Write back.

    def _write(self) -> None:
        while (computed := self._computed.get()) is not None:
            job, movie = computed.job, computed.movie
            start = perf_counter()
            with self._blaming(job, movie):
                with self._busy("write", f"writing {movie.stem}"):
                    summary = write_results(
                        computed.result,
                        movie,
                        outliers=computed.outliers,
                        archive_path=find_archive(movie, self._settings.archive_directory),
                        output=self._settings.output,
                    )
                # Names of files count from the output directory, which another run may not have.
                kept = summary | {"output_directory": str(self._settings.output.directory)}
                self._store.finish(job, kept, round(perf_counter() - computed.started, 3))
                self._leave(job)
                timings = summary["timings_s"] | {"write": round(perf_counter() - start, 4)}
                _log_done("corrected", job, movie, summary | {"timings_s": timings})

    # What all three share.

    def _begin(self, job: Job) -> Job:
        begun = self._store.begin(job)
        self._take(begun)
        return begun

    def _take(self, job: Job) -> None:
        with self._changed:
            self._in_hand[job.job_id] = job
            self._changed.notify_all()

    def _leave(self, job: Job) -> None:
        with self._changed:
            del self._in_hand[job.job_id]
            self._changed.notify_all()

    def _give_back(self, job: Job) -> None:
        self._store.give_back(job)
        self._leave(job)

    @contextmanager
    def _busy(self, thread: str, words: str) -> Iterator[None]:
        self._doing[thread] = (words, monotonic())
        try:
            yield
        finally:
            del self._doing[thread]

    @contextmanager
    def _blaming(self, job: Job, movie: Movie) -> Iterator[None]:
        """Turn what goes wrong into the job's failure; when the device is at fault, the worker ends."""
        try:
            yield
        except (WorkerLostError, BusyError):
            raise  # the job is somebody else's by now, or cannot be told anything
        except KomadError as error:
            self._fail(job, movie, self._cause(movie, error))
        except MemoryError as error:
            logger.warning("the memory of the host is too small", movie=movie.stem, error=str(error))
            self._fail(job, movie, HostMemoryError(f"the memory of the host is too small: {error}"))
        except Exception as error:
            logger.exception("unexpected error", movie=movie.stem, movie_id=movie.movie_id, job_id=job.job_id)
            try:
                self._device.probe()
            except DeviceError as problem:
                self._fail(job, movie, problem)
            else:
                told = f"{type(error).__name__}: {error}; the log has the traceback"
                self._fail(job, movie, InternalError(told))

    def _cause(self, movie: Movie, error: KomadError) -> KomadError:
        """Tell a movie that is gone, or a result that cannot be written, from a whole folder that is lost."""
        if isinstance(error, MovieMissingError):
            folders = [folder.directory for folder in self._settings.watch]
            lost = "; ".join(filter(None, (absence(it) for it in folders if movie.path.is_relative_to(it))))
            return FolderLostError(lost) if lost else error
        if isinstance(error, OutputError):
            places = (self._settings.output.directory, self._settings.archive_directory)
            lost = shortage((*places, self._settings.state_directory), min_free_gb=0)
            return OutputLostError(lost.removeprefix("disk: ")) if lost else error
        return error

    def _fail(self, job: Job, movie: Movie, error: KomadError) -> None:
        """Tell the job; raises DeviceError when the device is set aside for it."""
        decision = self._store.fail(job, error, self._settings.queue.max_attempts)
        self._leave(job)
        what = {JobEvent.RETURN: "will be tried again", JobEvent.HOLD: "held", JobEvent.FAIL: "failed"}
        logger.warning(
            what[decision.event],
            movie=movie.stem,
            movie_id=movie.movie_id,
            job_id=job.job_id,
            kind=job.kind.value,
            attempt=job.attempt,
            code=error.code,
            error=str(error),
        )
        if decision.device_reason or isinstance(error, DeviceError):
            raise DeviceError(decision.device_reason or str(error))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's loop; when it cannot go on, neither can the process."""
        structlog.contextvars.bind_contextvars(worker=self._worker_id)  # holds for this thread
        end: Exit | None = Exit.BROKEN  # also when what is done about an error fails itself
        try:
            work()
            end = None
        except DeviceError as error:
            logger.error("the device cannot be used", device=self._device.name, error=str(error))
            self.abandon()
            end = Exit.BAD_DEVICE
        except WorkerLostError as error:
            logger.error("declared lost", error=str(error))
            end = Exit.LOST
        except Exception as error:
            logger.exception("worker cannot go on", code=getattr(error, "code", "internal"))
        finally:
            if end is not None:
                self._broken = end


def _log_done(what: str, job: Job, movie: Movie, summary: dict[str, Any]) -> None:
    """Write the one line that tells all about a movie."""
    motion = summary.get("motion_angstrom")
    facts = {} if motion is None else {f"motion_{name}_angstrom": round(n, 2) for name, n in motion.items()}
    logger.info(
        what,
        movie=movie.stem,
        movie_id=movie.movie_id,
        job_id=job.job_id,
        attempt=job.attempt,
        seconds=round(sum(summary["timings_s"].values()), 3),
        timings_s=summary["timings_s"],
        n_outliers=summary["n_outliers"],
        **facts,
        warnings=summary.get("warnings", []),
        code="",
    )
