"""How the detector does: what it shows now, how that changed since the session began, and what to do. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from komad.store.detector import DetectorFacts, GainCheck, MovieHealth

MIN_COMPARED = 5
"""Movies on either side; fewer tell no trend."""
GROWN = 1.5
"""What the gain left counts as grown when the last movies show this many times what the first ones did,"""
SIGNIFICANT = 3.0
"""by so many standard errors of the two medians,"""
NOTICEABLE = 0.005
"""and so much of the mean: below, it is lost in the noise of any exposure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Medians over the first and the last movies of the series."""

    n_movies: int
    """On either side."""
    correlation_raw: tuple[float, float] | None
    correlation_koma: tuple[float, float] | None
    n_outliers: tuple[float, float] | None
    pattern_spread: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GainView:
    """Whether the gain reference lies the right way."""

    state: str
    """none (no reference), unchecked, ok, unclear, accepted (a person decided), wrong."""
    text: str
    """One sentence, with what to do."""
    confidence: float | None
    """Standard deviations by which the best way is ahead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KomaView:
    """The stack sums that take the pattern off."""

    mode: str
    """Of the last movie."""
    n_stacks: int
    """Averaged for it."""
    n_wanted: int
    """In a full window."""
    n_waiting: int
    """Movies that wait for their neighbours."""
    waiting_reason: str
    n_stack_sums: int
    """On disk."""
    stack_sum_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorView:
    """What a renderer shows of the detector."""

    last: MovieHealth | None
    """The movie that was corrected last."""
    trend: Trend | None
    """None while the series is short."""
    alarm: str
    """What grew and what to do; '' when nothing did."""
    gain: GainView
    koma: KomaView


def view_detector(facts: DetectorFacts) -> DetectorView:
    """Work out the view."""
    last = facts.last[-1] if facts.last else None
    first_movies, last_movies = _apart(facts)
    return DetectorView(
        last=last,
        trend=_trend(first_movies, last_movies) if len(last_movies) >= MIN_COMPARED else None,
        alarm=pattern_alarm(facts),
        gain=_gain(facts.gain_check, has_gain=facts.has_gain),
        koma=KomaView(
            mode=last.koma_mode if last else "",
            n_stacks=last.n_stacks if last else 0,
            n_wanted=last.n_wanted if last else 0,
            n_waiting=facts.n_waiting,
            waiting_reason=facts.waiting_reason,
            n_stack_sums=facts.n_stack_sums,
            stack_sum_bytes=facts.stack_sum_bytes,
        ),
    )


def pattern_alarm(facts: DetectorFacts) -> str:
    """What to tell a person when what the gain left has grown since the series began; '' when it has not."""
    before, now = (_values(movies, lambda movie: movie.pattern_spread) for movies in _apart(facts))
    if min(len(before), len(now)) < MIN_COMPARED:
        return ""
    start, end = median(before), median(now)
    error = math.hypot(_error_of_median(before), _error_of_median(now))
    if end < max(GROWN * start, start + SIGNIFICANT * error, NOTICEABLE):
        return ""
    return f"gain ages: leaves {100 * end:.2g} %, at first {100 * start:.2g} %; take a new gain reference"


def median(values: Sequence[float]) -> float:
    """The middle one of values, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _error_of_median(values: Sequence[float]) -> float:
    """Standard error of the median, from the median absolute deviation as of a Gaussian."""
    centre = median(values)
    sigma = 1.4826 * median([abs(value - centre) for value in values])
    return math.sqrt(math.pi / 2 / len(values)) * sigma


def _apart(facts: DetectorFacts) -> tuple[Sequence[MovieHealth], Sequence[MovieHealth]]:
    """As many movies from the start as from the end, none in both."""
    firsts = {movie.movie_id for movie in facts.first}
    late = [movie for movie in facts.last if movie.movie_id not in firsts]
    n = min(len(facts.first), len(facts.last), (len(firsts) + len(late)) // 2)
    return facts.first[:n], facts.last[len(facts.last) - n :]


def _trend(before: Sequence[MovieHealth], now: Sequence[MovieHealth]) -> Trend:
    def medians(value: Callable[[MovieHealth], float | None]) -> tuple[float, float] | None:
        start, end = _values(before, value), _values(now, value)
        return (median(start), median(end)) if start and end else None

    return Trend(
        n_movies=len(now),
        correlation_raw=medians(lambda movie: movie.correlation_raw),
        correlation_koma=medians(lambda movie: movie.correlation_koma),
        n_outliers=medians(lambda movie: movie.n_outliers),
        pattern_spread=medians(lambda movie: movie.pattern_spread),
    )


def _values(movies: Sequence[MovieHealth], value: Callable[[MovieHealth], float | None]) -> list[float]:
    return [number for movie in movies if (number := value(movie)) is not None]


def _gain(check: GainCheck | None, *, has_gain: bool) -> GainView:
    if not has_gain:
        return GainView(state="none", text="no gain reference", confidence=None)
    if check is None:
        return GainView(state="unchecked", text="gain not checked yet", confidence=None)
    if check.verdict == "ok":
        return GainView(state="ok", text="gain lies the right way", confidence=check.confidence)
    if check.accepted:
        return GainView(state="accepted", text="gain accepted as it is", confidence=check.confidence)
    if check.verdict == "unclear":
        return GainView(state="unclear", text=check.sentence, confidence=check.confidence)
    text = {
        "other": "gain WRONG: try gain_rot = {}, gain_flip = {}".format(*check.best),
        "inverse": "gain WRONG: its reciprocal fits; `komad gain convert --reciprocal`",
        "corrected": "gain WRONG: the movies show nothing of it; corrected already?",
    }.get(check.verdict, f"gain WRONG: {check.sentence}")
    return GainView(state="wrong", text=text, confidence=check.confidence)
