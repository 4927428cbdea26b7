"""The life of a job: its states, the changes allowed, and what follows a failure. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from komad.errors import Failure, KomadError, TransitionError

MAX_DELAY_S = 60.0
"""The longest time before another try."""
N_BAD_MOVIES = 3
"""So many different movies that fail unexpectedly one after the other make a bad device."""
OLDEST_EVERY = {"oldest": 1, "alternate": 2, "newest": 8}
"""Order of the queue -> of so many claims one takes the oldest job, so that none waits for ever."""


class JobKind(StrEnum):
    """What a job does with its movie."""

    ARCHIVE = "archive"
    """Read the camera's file, check it, write the MRCZ archive and the stack sum."""
    CORRECT = "correct"
    """Make the micrographs and their metadata."""


class JobState(StrEnum):
    """Where a job is; lower case in the database."""

    HELD = "held"
    """Waits for something named in its reason."""
    QUEUED = "queued"
    RUNNING = "running"
    """Claimed by a worker that holds a lease."""
    DONE = "done"
    FAILED = "failed"
    """No more tries; `komad retry` queues it again."""
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    """What can happen to a job."""

    HOLD = "hold"
    RELEASE = "release"
    CLAIM = "claim"
    FINISH = "finish"
    FAIL = "fail"
    RETURN = "return"
    """Back to the queue: a retry after an error, or a lost lease."""
    CANCEL = "cancel"
    REQUEUE = "requeue"
    """A person asks for it again, or it is given back its tries because its device was bad."""


TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.HELD, JobEvent.HOLD): JobState.HELD,
    (JobState.HELD, JobEvent.RELEASE): JobState.QUEUED,
    (JobState.HELD, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.HELD, JobEvent.FAIL): JobState.FAILED,
    (JobState.QUEUED, JobEvent.HOLD): JobState.HELD,
    (JobState.QUEUED, JobEvent.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.FINISH): JobState.DONE,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.RETURN): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.HOLD): JobState.HELD,
    (JobState.FAILED, JobEvent.REQUEUE): JobState.QUEUED,
    (JobState.CANCELLED, JobEvent.REQUEUE): JobState.QUEUED,
    (JobState.DONE, JobEvent.REQUEUE): JobState.QUEUED,
}
"""Every change a job may make; a pair that is not here is a bug and raises."""


def next_state(state: JobState, event: JobEvent) -> JobState:
    """State after `event`.

    Raises
    ------
    TransitionError
        The state does not allow the event.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise TransitionError(f"a job that is {state} cannot {event}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tries:
    """How often and where a job has failed before the end that is decided about."""

    attempt: int
    """Number of this try, from 1."""
    device: str = ""
    """Where it ran; '' when nobody knows."""
    failed_on: str = ""
    """Another device, or this one, on which it failed before in a way that may be the movie's fault; '' for none."""
    was_spared: bool = False
    """A try of it was not counted before, because it did not look like its fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryDecision:
    """What becomes of a running job after an error."""

    event: JobEvent
    """RETURN, HOLD or FAIL."""
    delay_s: float = 0.0
    """Earliest next try, seconds from now, for RETURN."""
    reason: str = ""
    """For HOLD; when the movie is to blame, what to add to the error."""
    to_blame: bool = False
    """The movie was found bad by failing on two devices."""
    counts: bool = True
    """Whether this try is counted."""
    device_reason: str = ""
    """Why the device is set aside; '' when it goes on."""


def after_failure(error: KomadError, tries: Tries, *, max_attempts: int) -> RetryDecision:
    """Decide what follows when a try ended in `error`; `Failure` says who is to blame.

    A disk or folder that is lost holds the job at no cost. A device that failed, or a komad that was killed, costs a
    job nothing the first time; after that the movie may be what does it, and tries are counted. What may be the fault
    of movie or device is tried on another device, and if it fails there too the movie is bad. Else a job is tried
    again after pauses that grow, `max_attempts` times.
    """
    match error.failure:
        case Failure.PLACE:
            return RetryDecision(event=JobEvent.HOLD, reason=f"disk: {error}", counts=False)
        case Failure.MOVIE:
            return RetryDecision(event=JobEvent.FAIL)
        case Failure.DEVICE | Failure.UNEXPECTED if _elsewhere(tries):
            return RetryDecision(
                event=JobEvent.FAIL,
                to_blame=True,
                reason=f"(it failed on {tries.failed_on} and on {tries.device}: the movie is to blame)",
            )
        case Failure.DEVICE | Failure.INTERRUPTED if not tries.was_spared:
            return RetryDecision(event=JobEvent.RETURN, counts=False)
    if tries.attempt < max_attempts:
        return RetryDecision(
            event=JobEvent.RETURN, delay_s=min(MAX_DELAY_S, 2.0 * 4.0 ** (tries.attempt - 1))
        )
    return RetryDecision(event=JobEvent.FAIL)


def _elsewhere(tries: Tries) -> bool:
    return bool(tries.failed_on and tries.device) and tries.failed_on != tries.device


def is_bad_device(movies: Iterable[int]) -> bool:
    """Whether a device is bad on which these movies failed unexpectedly, with no success between."""
    return len(set(movies)) >= N_BAD_MOVIES


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One row of the job table, as claimed or listed."""

    job_id: int
    movie_id: int
    kind: JobKind
    state: JobState
    attempt: int
    """Number of times its work was begun; being claimed and read ahead alone does not count."""
    suspect: bool = False
    """A worker was lost while it held this job."""
    failed_on: str = ""
    """The device on which it failed in a way that may be the movie's fault; '' for none."""
    reason: str = ""
    """Why it is held."""
    worker_id: str = ""
    error_code: str = ""
    error_message: str = ""

    @property
    def alone(self) -> bool:
        """Whether no other job may be in its worker meanwhile, so that a crash names the movie to blame."""
        return self.attempt > 0 or self.suspect


def takes_newest(order: str, turn: int) -> bool:
    """Whether claim number `turn` (from 0) of a worker takes the newest job, in the order `config.Queue.order`."""
    return turn % OLDEST_EVERY[order] != OLDEST_EVERY[order] - 1
