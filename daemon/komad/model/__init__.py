"""Plain types that flow between the rooms: frozen, typed, without behaviour that touches the world."""

from komad.model.detector import (
    ALL_FRAMES,
    DetectorReport,
    KomaMethod,
    KomaMode,
    KomaWindow,
    OutlierPixels,
    Pattern,
    StackFacts,
    outliers_at,
)
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
from komad.model.series import REACH, series_of

__all__ = [
    "ALL_FRAMES",
    "REACH",
    "Acquisition",
    "Candidate",
    "DetectorReport",
    "Job",
    "JobEvent",
    "JobKind",
    "JobState",
    "KomaMethod",
    "KomaMode",
    "KomaWindow",
    "MicrographResult",
    "MotionModel",
    "Movie",
    "MovieFormat",
    "MovieHeader",
    "OutlierPixels",
    "Pattern",
    "ReferenceFile",
    "References",
    "RetryDecision",
    "StackFacts",
    "StackSum",
    "after_failure",
    "next_state",
    "outliers_at",
    "series_of",
]
