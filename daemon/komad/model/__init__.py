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
from komad.model.job import (
    Job,
    JobEvent,
    JobKind,
    JobState,
    RetryDecision,
    Tries,
    after_failure,
    is_bad_device,
    next_state,
    takes_newest,
)
from komad.model.motion import MotionModel
from komad.model.movie import (
    Acquisition,
    Candidate,
    EerRendering,
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
    "EerRendering",
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
    "Tries",
    "after_failure",
    "is_bad_device",
    "next_state",
    "outliers_at",
    "series_of",
    "takes_newest",
]
