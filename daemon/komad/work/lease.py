"""When is a worker silent for too long? Decided on our own clock alone: beats are numbers, not times. Pure."""

from __future__ import annotations

from dataclasses import dataclass

STARTUP_S = 60.0
"""A process that starts on a busy machine may need this long before its first beat."""
LONGEST_DELAY_S = 60.0
FIRST_TRIAL_S = 5.0
LONGEST_ASIDE_S = 600.0
LONG_LIFE_S = 120.0
"""A worker that lived this long is not failing over and over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """The last sign of life that was seen."""

    beat: int | None
    """None: none was heard yet."""
    seen_at: float
    """Monotonic seconds at which this beat was first seen."""


def follow(pulse: Pulse, beat: int | None, *, now: float) -> Pulse:
    """Take what was heard by now into account."""
    return pulse if beat is None or beat == pulse.beat else Pulse(beat=beat, seen_at=now)


def is_silent(pulse: Pulse, *, now: float, timeout_s: float) -> bool:
    """Whether the worker has to be given up."""
    allowed = max(timeout_s, STARTUP_S) if pulse.beat is None else timeout_s
    return now - pulse.seen_at > allowed


def respawn_delay_s(n_failures: int) -> float:
    """Seconds before a worker is started again that ended badly `n_failures` times in a row: 1, 2, 4, ... 60."""
    return min(LONGEST_DELAY_S, 2.0 ** (n_failures - 1)) if n_failures else 0.0


def set_aside_s(n_bad: int) -> float:
    """Seconds before a device is tried again that was bad `n_bad` times with no success between: 5, 10, ... 600."""
    return min(LONGEST_ASIDE_S, FIRST_TRIAL_S * 2.0 ** (n_bad - 1))
