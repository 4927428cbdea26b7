"""The life of a job as a table, and what follows a failure."""

from __future__ import annotations

import pytest

from komad import errors
from komad.errors import (
    ArchiveError,
    DeviceError,
    DeviceMemoryError,
    DiskFullError,
    FolderLostError,
    HostMemoryError,
    InternalError,
    InterruptedWorkError,
    KomadError,
    MovieError,
    OutputLostError,
    TransitionError,
    WorkerLostError,
)
from komad.model import JobEvent, JobState, Tries, after_failure, is_bad_device, next_state, takes_newest
from komad.model.job import MAX_DELAY_S, TRANSITIONS

ENDED = {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
UNEXPECTED = [InternalError("bug"), WorkerLostError("died")]


def tries(attempt: int = 1, **where: object) -> Tries:
    """Tries of a job on device A."""
    return Tries(**{"attempt": attempt, "device": "A", **where})  # type: ignore[arg-type]


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("event", JobEvent)
def test_every_pair_has_an_answer(state: JobState, event: JobEvent) -> None:
    """A pair is in the table, or raises and names both."""
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(TransitionError, match=f"{state} cannot {event}"):
            next_state(state, event)


def test_every_state_can_be_reached_and_left() -> None:
    """No dead end: what ended is brought back by one event only, everything else can still be done or cancelled."""
    reached = {JobState.QUEUED, JobState.HELD}  # where jobs begin
    for _ in JobState:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(JobState)
    for state in ENDED:
        assert [event for before, event in TRANSITIONS if before is state] == [JobEvent.REQUEUE]
    for event in JobEvent:
        assert any(it is event for _, it in TRANSITIONS), "an event that nothing knows"


def test_a_movie_that_is_bad_fails_at_once() -> None:
    """No retry helps."""
    assert after_failure(MovieError("x"), tries(), max_attempts=9).event is JobEvent.FAIL


@pytest.mark.parametrize("error", [ArchiveError("x"), HostMemoryError("x"), DeviceMemoryError("x")])
def test_passing_trouble_is_tried_again_after_growing_pauses(error: KomadError) -> None:
    """2, 8, 32, 60, 60 s, then it fails; where it happened is all the same."""
    found = [after_failure(error, tries(attempt, failed_on="B"), max_attempts=6) for attempt in range(1, 7)]
    assert [it.delay_s for it in found] == [2, 8, 32, MAX_DELAY_S, MAX_DELAY_S, 0]
    assert [it.event for it in found] == [JobEvent.RETURN] * 5 + [JobEvent.FAIL]
    assert all(it.counts for it in found)


@pytest.mark.parametrize("error", [DiskFullError("x"), FolderLostError("x"), OutputLostError("x")])
def test_a_lost_place_counts_never(error: KomadError) -> None:
    """Held however often it was tried, whatever happened elsewhere."""
    decision = after_failure(error, tries(99, failed_on="B", was_spared=True), max_attempts=1)
    assert (decision.event, decision.counts, decision.reason) == (JobEvent.HOLD, False, "disk: x")


@pytest.mark.parametrize("error", [*UNEXPECTED, DeviceError("lost")])
def test_failing_on_two_devices_is_the_movies_fault(error: KomadError) -> None:
    """It fails, whatever tries are left, and is told why; twice on one device, or nobody knows where, is no proof."""
    decision = after_failure(error, tries(1, failed_on="B"), max_attempts=9)
    assert (decision.event, decision.to_blame) == (JobEvent.FAIL, True)
    assert "failed on B and on A" in decision.reason
    for known in (tries(1, failed_on="A"), tries(1), tries(1, failed_on="B", device="")):
        assert after_failure(error, known, max_attempts=9).event is JobEvent.RETURN


@pytest.mark.parametrize("error", UNEXPECTED)
def test_unexpected_failures_count(error: KomadError) -> None:
    """On one device alone, tries run out."""
    decisions = [after_failure(error, tries(n, failed_on="A"), max_attempts=2) for n in (1, 2)]
    assert [(it.event, it.counts) for it in decisions] == [(JobEvent.RETURN, True), (JobEvent.FAIL, True)]


@pytest.mark.parametrize("error", [DeviceError("lost"), InterruptedWorkError("power cut")])
def test_the_benefit_of_the_doubt_is_given_once(error: KomadError) -> None:
    """A job is not blamed for its device or a power cut the first time, even at its last try; then it is."""
    first = after_failure(error, tries(3), max_attempts=3)
    assert (first.event, first.counts, first.delay_s) == (JobEvent.RETURN, False, 0)
    second = after_failure(error, tries(1, was_spared=True), max_attempts=3)
    assert (second.event, second.counts) == (JobEvent.RETURN, True)
    assert after_failure(error, tries(3, was_spared=True), max_attempts=3).event is JobEvent.FAIL


def test_three_movies_make_a_bad_device() -> None:
    """Different ones; the same one over and over does not."""
    assert not is_bad_device([1, 2, 1, 2, 2])
    assert is_bad_device([1, 2, 1, 3])


@pytest.mark.parametrize(
    ("order", "taken"), [("oldest", "oooooooo"), ("alternate", "nononono"), ("newest", "nnnnnnno")]
)
def test_every_order_takes_the_oldest_now_and_then(order: str, taken: str) -> None:
    """So that no job waits for ever; `oldest` takes nothing else."""
    assert "".join("n" if takes_newest(order, turn) else "o" for turn in range(16)) == taken * 2


def test_every_error_says_who_is_to_blame() -> None:
    """An error that may pass can be retried, and the other way round."""
    kinds = [KomadError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        assert kind.retry == (kind.failure is not errors.Failure.MOVIE)
