"""A movie's beam shift from its facts, and groups without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from komad.ingest.optics_groups import GroupsInMemory, as_it_was, beam_shift
from komad.model import Acquisition
from komad.simulate.beam_shifts import ShiftPattern, simulate_shifts

FOUND_AT = "2026-01-02T03:04:05.000+00:00"


def epu(x: float, y: float, acquired_at: str = "2025-01-08T15:49:18.1158288+00:00") -> Acquisition:
    """What EPU tells."""
    return Acquisition(
        facts={"beam_shift_x": x, "beam_shift_y": y, "image_shift_x": 0.0, "acquired_at": acquired_at}
    )


@pytest.mark.parametrize(
    ("acquired_at", "expected"),
    [
        ("2025-01-08T15:49:18.1158288+01:00", datetime(2025, 1, 8, 14, 49, 18, 115828, UTC)),
        ("05-Jun-22  23:45:28", datetime(2022, 6, 5, 23, 45, 28, tzinfo=UTC)),
        ("11-Aug-2023  17:44:56", datetime(2023, 8, 11, 17, 44, 56, tzinfo=UTC)),
        ("yesterday", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_when_a_movie_was_taken(acquired_at: str, expected: datetime) -> None:
    """By the sidecar in EPU's or SerialEM's form, else when it was found."""
    shift = beam_shift(epu(0.1, -0.2, acquired_at), FOUND_AT)
    assert shift is not None
    assert shift.taken_at_s == pytest.approx(expected.timestamp(), abs=1e-5)
    assert (shift.x, shift.y, shift.unit, shift.magnification) == (0.1, -0.2, "epu", 0.0)


def test_shifts_of_serialem_and_none() -> None:
    """The image shift is SerialEM's; half a pair is none."""
    facts = {"image_shift_x_um": 2.5, "image_shift_y_um": -1.0, "magnification": 105000.0}
    shift = beam_shift(Acquisition(facts=facts), FOUND_AT)
    assert shift is not None
    assert (shift.x, shift.y, shift.unit, shift.magnification) == (2.5, -1.0, "serialem", 105000.0)
    assert beam_shift(Acquisition(facts={"beam_shift_x": 0.1}), FOUND_AT) is None
    assert beam_shift(Acquisition(), FOUND_AT) is None


def test_groups_of_a_command_go_on_from_those_before() -> None:
    """The second command knows the groups of the first: the same names, the tolerance found again."""
    shifts, _ = simulate_shifts(ShiftPattern(n_across=3, missing=0, jitter=0.001), 100, seed=1)
    movies = [epu(float(x), float(y)) for x, y in shifts]
    whole = GroupsInMemory(tolerance=None)
    first = [whole.put(movie, FOUND_AT) for movie in movies]
    assert {movie.optics_group for movie in first} == {
        f"opticsGroup1-{number:03d}" for number in range(1, 10)
    }
    again = GroupsInMemory(tolerance=None)
    for movie in first[:40]:
        again.know(movie, FOUND_AT)
    assert [again.put(movie, FOUND_AT) for movie in movies[40:]] == first[40:]


def test_what_is_settled_stays() -> None:
    """A group that a person supplied, or that was found before, is not looked for again; no shift is noted."""
    groups = GroupsInMemory(tolerance=0.01)
    supplied = replace(epu(0, 0), optics_group="mine", sources={"optics_group": "supplied"})
    assert groups.put(supplied, FOUND_AT) is supplied
    grouped = groups.put(epu(0, 0), FOUND_AT)
    assert groups.put(grouped, FOUND_AT) is grouped
    assert as_it_was(epu(0, 0), grouped).optics_group == "opticsGroup1-001"
    assert as_it_was(epu(0, 0), epu(0, 0)).optics_group == "opticsGroup1"
    without = groups.put(Acquisition(optics_group="grid2"), FOUND_AT)
    assert without.optics_group == "grid2"
    assert without.notes["optics_group"].startswith("no sidecar tells its beam shift: it is in grid2")
