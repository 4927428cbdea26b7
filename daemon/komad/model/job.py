"""The life of a job: its states, the changes allowed, and what follows a failure. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from komad.errors import DiskFullError, FolderLostError, KomadError, OutputLostError, TransitionError

MAX_DELAY_S = 60.0
"""The longest time before another try."""


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
    """A person asks for it again."""


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
class RetryDecision:
    """What becomes of a running job after an error."""

    event: JobEvent
    """RETURN, HOLD or FAIL."""
    delay_s: float = 0.0
    """Earliest next try, seconds from now, for RETURN."""
    reason: str = ""
    """For HOLD."""


def after_failure(error: KomadError, *, attempt: int, max_attempts: int) -> RetryDecision:
    """Decide what follows when try number `attempt` (1-based) ended in `error`.

    A full or lost disk is nobody's fault and holds the job without counting; errors that a retry can cure go back to
    the queue with a growing delay until `max_attempts`; all others fail at once.
    """
    if isinstance(error, DiskFullError | FolderLostError | OutputLostError):
        return RetryDecision(event=JobEvent.HOLD, reason=f"disk: {error}")
    if error.retry and attempt < max_attempts:
        return RetryDecision(event=JobEvent.RETURN, delay_s=min(MAX_DELAY_S, 2.0 * 4.0 ** (attempt - 1)))
    return RetryDecision(event=JobEvent.FAIL)


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
    reason: str = ""
    """Why it is held."""
    worker_id: str = ""
    error_code: str = ""
    error_message: str = ""

    @property
    def alone(self) -> bool:
        """Whether no other job may be in its worker meanwhile, so that a crash names the movie to blame."""
        return self.attempt > 0 or self.suspect
