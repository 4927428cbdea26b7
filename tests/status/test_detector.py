"""What the status says of the detector, against sums done by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from komad.status.detector import GROWN, median, pattern_alarm, view_detector
from komad.store.detector import DetectorFacts, GainCheck
from tests.status.conftest import DETECTOR, health


def session(n_movies: int, spread: Callable[[int], float | None]) -> DetectorFacts:
    """A series whose movie i leaves a pattern of `spread(i)`, i from 0."""
    movies = tuple(health(i + 1, pattern_spread=spread(i)) for i in range(n_movies))
    return replace(DETECTOR, first=movies[:20], last=movies[-20:])


def test_trend_is_of_medians() -> None:
    """One movie in twenty that is far off does not show."""
    first = (*DETECTOR.first[:-1], health(20, n_hot=100_000, correlation_raw=0.5))
    last = tuple(replace(movie, n_hot=2400, correlation_koma=None) for movie in DETECTOR.last)
    trend = view_detector(replace(DETECTOR, first=first, last=last)).trend
    assert trend is not None
    assert trend.n_movies == 20
    assert trend.n_outliers == (1240, 2440)
    assert trend.correlation_raw == (4e-3, 4e-3)
    assert trend.correlation_koma is None


def test_a_short_series_is_halved() -> None:
    """13 movies are 6 and 6; fewer than 10 tell nothing."""
    movies = tuple(health(number, n_hot=100 * number, n_dead=0, n_defects=0) for number in range(1, 14))
    trend = view_detector(DetectorFacts(first=movies, last=movies)).trend
    assert trend is not None
    assert trend.n_movies == 6
    assert trend.n_outliers == (350, 1050)
    assert view_detector(DetectorFacts(first=movies[:9], last=movies[:9])).trend is None


def test_last_movie_and_koma() -> None:
    """The newest movie, its stacks, who waits, and what lies on disk."""
    view = view_detector(DETECTOR)
    assert view.last is not None
    assert view.last.movie_id == 970
    assert (view.koma.mode, view.koma.n_stacks, view.koma.n_wanted) == ("trailing", 24, 24)
    assert (view.koma.n_waiting, view.koma.n_stack_sums) == (2, 123)
    assert view_detector(DetectorFacts()).last is None


def test_a_steady_pattern_is_no_alarm() -> None:
    """Nor is one that only scatters, or one that grows by less than half."""
    noise = random.Random(1)
    assert pattern_alarm(session(400, lambda _: 0.01 * noise.uniform(0.7, 1.3))) == ""
    assert pattern_alarm(session(400, lambda i: 0.01 * (1 + 0.4 * i / 400))) == ""


def test_a_pattern_that_doubled_is_an_alarm() -> None:
    """It says both figures and what to do."""
    alarm = pattern_alarm(session(400, lambda i: 0.006 * (1 + 1.2 * i / 400)))
    assert "leaves 1.3 %, at first 0.62 %" in alarm
    assert "take a new gain reference" in alarm


def test_a_pattern_that_nobody_sees_is_no_alarm() -> None:
    """From 0.05 to 0.2 % of the mean is a factor of four and nothing to act on."""
    assert pattern_alarm(session(400, lambda i: 0.0005 + 0.0015 * i / 400)) == ""


def test_growth_within_the_scatter_is_no_alarm() -> None:
    """When movies differ by more than the growth, ten of them do not tell."""
    wild = [0.001, 0.04, 0.002, 0.03, 0.006, 0.05, 0.002, 0.04, 0.012, 0.03]
    facts = session(10, lambda i: wild[i])
    start, end = median(wild[:5]), median(wild[5:])
    assert end > GROWN * start
    assert pattern_alarm(facts) == ""


def test_few_measured_movies_are_no_alarm() -> None:
    """Without neighbours nothing is measured: that is not zero."""
    assert pattern_alarm(session(40, lambda i: None if i < 16 else 0.05)) == ""
    assert pattern_alarm(DetectorFacts()) == ""


@pytest.mark.parametrize(
    ("verdict", "accepted", "state", "said"),
    [
        ("ok", False, "ok", "right way"),
        ("other", False, "wrong", "gain WRONG: try gain_rot = 3, gain_flip = 1"),
        ("inverse", False, "wrong", "reciprocal"),
        ("corrected", False, "wrong", "corrected already"),
        ("unclear", False, "unclear", "too few counts"),
        ("other", True, "accepted", "accepted"),
    ],
)
def test_verdict_of_the_gain_check(verdict: str, accepted: bool, state: str, said: str) -> None:
    """What was found, and what to do; a person's decision silences it."""
    check = GainCheck(
        verdict=verdict, best=(3, 1), confidence=9.0, sentence="too few counts to tell", accepted=accepted
    )
    gain = view_detector(replace(DETECTOR, gain_check=check)).gain
    assert gain.state == state
    assert said in gain.text


def test_no_check_and_no_gain() -> None:
    """Told apart: one will come, the other will not."""
    assert view_detector(replace(DETECTOR, gain_check=None)).gain.state == "unchecked"
    assert view_detector(replace(DETECTOR, gain_check=None, has_gain=False)).gain.state == "none"


def test_median() -> None:
    """Of an odd and an even number."""
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
