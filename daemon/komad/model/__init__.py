"""Plain types that flow between the rooms: frozen, typed, without behaviour that touches the world."""

from komad.model.job import Job, JobEvent, JobKind, JobState, RetryDecision, after_failure, next_state
from komad.model.motion import MotionModel
from komad.model.movie import (
    Acquisition,
    Candidate,
    Movie,
    MovieFormat,
    MovieHeader,
    ReferenceFile,
    References,
)
from komad.model.results import MicrographResult, StackSum

__all__ = [
    "Acquisition",
    "Candidate",
    "Job",
    "JobEvent",
    "JobKind",
    "JobState",
    "MicrographResult",
    "MotionModel",
    "Movie",
    "MovieFormat",
    "MovieHeader",
    "ReferenceFile",
    "References",
    "RetryDecision",
    "StackSum",
    "after_failure",
    "next_state",
]
