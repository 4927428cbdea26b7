"""Optics groups from beam shifts: simulated sessions with known places, and an offline clustering beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from komad.optics.groups import (
    PAUSE_S,
    REVIEWED_SHIFTS,
    USUAL_TOLERANCE,
    BeamShift,
    ShiftGroups,
    nearest_session,
    tolerance_of_gap,
)
from komad.simulate.beam_shifts import ShiftPattern, simulate_shifts

FloatArray = npt.NDArray[np.float64]


def at(x: float, y: float, *, seconds: float = 0.0) -> BeamShift:
    """EPU's shift at 105,000 x."""
    return BeamShift(x=x, y=y, unit="epu", magnification=105000, taken_at_s=seconds)


def grouped(shifts: FloatArray, tolerance: float | None = None) -> tuple[list[int], ShiftGroups]:
    """Group movies one after the other, as the store does."""
    groups = ShiftGroups.beginning_with(at(*shifts[0]), tolerance)
    numbers: list[int] = []
    for shift in shifts:
        numbers.append(groups.assign(at(*shift), free_number=max(numbers, default=0) + 1))
        if tolerance is None and groups.wants_review:
            newest = slice(max(0, len(numbers) - REVIEWED_SHIFTS), len(numbers))
            groups.review(shifts[newest], numbers[newest])
    return numbers, groups


def purity(numbers: Sequence[int], truth: Sequence[int]) -> float:
    """The part of the movies that are of their group's most frequent place; the other way round it is completeness."""
    pairs = [(number, place) for number, place in zip(numbers, truth, strict=True) if place >= 0]
    most: dict[int, int] = {}
    for (number, _), count in Counter(pairs).items():
        most[number] = max(most.get(number, 0), count)
    return sum(most.values()) / len(pairs)


PATTERNS = {
    "5 x 5": ShiftPattern(),
    "9 x 9": ShiftPattern(n_across=9),
    "hexagonal": ShiftPattern(lattice="hexagonal", n_across=7),
    "three shots": ShiftPattern(shots_per_hole=3, n_across=5, jitter=0.001),
    "no scatter": ShiftPattern(jitter=0.0),
    "much scatter": ShiftPattern(jitter=0.005),
    "drift": ShiftPattern(drift=0.03, n_across=7),
    "outliers": ShiftPattern(outliers=0.01, n_across=7),
    "another scale": ShiftPattern(pitch=0.03, jitter=0.001),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", PATTERNS)
def test_simulated_sessions(name: str, seed: int) -> None:
    """Without a tolerance given: no group mixes places, and a place has one group for nearly all of its movies."""
    shifts, places = simulate_shifts(PATTERNS[name], 800, seed=seed)
    numbers, _ = grouped(shifts)
    assert purity(numbers, places.tolist()) > 0.995
    assert purity(places.tolist(), numbers) > (0.8 if name == "much scatter" else 0.94)


@pytest.mark.parametrize("name", ["5 x 5", "hexagonal", "three shots"])
def test_the_same_as_a_clustering_afterwards(name: str) -> None:
    """Average linkage of all shifts at once, told how many places there are, puts the same movies together."""
    pattern = PATTERNS[name]
    shifts, _ = simulate_shifts(pattern, 1200, seed=5)
    afterwards = fcluster(linkage(shifts, "average"), len(pattern.places()), "maxclust").tolist()
    numbers, _ = grouped(shifts)
    assert purity(numbers, afterwards) > 0.995
    assert purity(afterwards, numbers) > 0.95


def test_any_order() -> None:
    """A session that arrives backwards, or shuffled, has such groups too."""
    shifts, places = simulate_shifts(PATTERNS["drift"], 1200, seed=4)
    for order in (np.arange(1200)[::-1], np.random.default_rng(4).permutation(1200)):
        numbers, _ = grouped(shifts[order])
        assert purity(numbers, places[order].tolist()) > 0.995
        assert purity(places[order].tolist(), numbers) > 0.9


def test_a_tolerance_that_is_given_stays() -> None:
    """Shots of one hole, 0.026 apart as two real ones are, are one group or two as a person wants it."""
    real = np.array(
        [[0.060867, -0.154228], [0.082489, -0.139462], [-0.346393, 0.218661], [-0.324772, 0.233427]]
    )
    assert grouped(real, 0.05)[0] == [1, 1, 2, 2]
    assert grouped(real, 0.01)[0] == [1, 2, 3, 4]
    assert grouped(real)[0] == [1, 2, 3, 4]
    shifts, _ = simulate_shifts(PATTERNS["5 x 5"], 300)
    assert grouped(shifts, 0.02)[1].tolerance == 0.02


def test_the_nearest_of_two_and_a_centre_that_follows() -> None:
    """A movie between two groups joins the nearer; centres go with their movies, so that slow drift opens no group."""
    groups = ShiftGroups.beginning_with(at(0, 0), 0.02)
    assert groups.assign(at(0, 0), free_number=1) == 1
    assert groups.assign(at(0.03, 0), free_number=2) == 2
    assert groups.assign(at(0.016, 0), free_number=3) == 2
    assert groups.assign(at(0.011, 0), free_number=3) == 1
    assert groups.assign(at(0.0, 0.03), free_number=3) == 3
    drifting = ShiftGroups.beginning_with(at(0, 0), 0.02)
    assert {drifting.assign(at(0.0004 * i, 0), free_number=i) for i in range(1, 500)} == {1}


def test_a_gap_is_not_seen_where_there_is_none() -> None:
    """One place with scatter, places seen once each, the same shift again and again: no tolerance is made up."""
    random = np.random.default_rng(3)
    assert tolerance_of_gap(random.normal(0, 0.01, (500, 2))) is None
    assert tolerance_of_gap(ShiftPattern(n_across=9).places()) is None
    assert tolerance_of_gap(np.zeros((50, 2))) is None
    shifts, _ = simulate_shifts(PATTERNS["9 x 9"], 100)
    assert grouped(shifts)[1].tolerance == USUAL_TOLERANCE["epu"]


def test_going_on_from_what_was_kept() -> None:
    """The state is all in its fields: a copy goes on as the original does."""
    shifts, _ = simulate_shifts(PATTERNS["5 x 5"], 200, seed=8)
    numbers, groups = grouped(shifts[:150])
    kept = ShiftGroups(**{name: deepcopy(getattr(groups, name)) for name in ShiftGroups.__slots__})
    free = max(numbers) + 1
    for shift in shifts[150:]:
        assert groups.assign(at(*shift), free_number=free) == kept.assign(at(*shift), free_number=free)


def test_sessions() -> None:
    """A long pause, another magnification, another program: another session; a late movie belongs to its own."""
    first = ShiftGroups.beginning_with(at(0, 0, seconds=0), None)
    first.assign(at(0, 0, seconds=3600), free_number=1)
    second = ShiftGroups.beginning_with(at(0, 0, seconds=3 * PAUSE_S), None)
    sessions = [first, second]
    assert nearest_session(sessions, at(1, 1, seconds=1800)) is first
    assert nearest_session(sessions, at(1, 1, seconds=-0.9 * PAUSE_S)) is first
    assert nearest_session(sessions, at(1, 1, seconds=3600 + 0.9 * PAUSE_S)) is first
    assert nearest_session(sessions, at(1, 1, seconds=2.9 * PAUSE_S)) is second
    assert nearest_session(sessions, at(1, 1, seconds=5 * PAUSE_S)) is None
    assert nearest_session(sessions, replace(at(0, 0), magnification=81000)) is None
    assert nearest_session(sessions, replace(at(0, 0), unit="serialem")) is None
    assert nearest_session([], at(0, 0)) is None
