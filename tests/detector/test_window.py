"""Which movies are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from komad.detector import RunningTotal, choose_window, measure_pattern
from komad.model import StackFacts, StackSum
from tests.detector.stacks import (
    SHAPE,
    FloatArray,
    beam_edge,
    carbon,
    crystals,
    grid_bar,
    no_references,
    outliers_at,
    pixel_pattern,
    stack_of,
)

USUAL = StackFacts(mean_e_per_px=40, contrast=0.01, gradient=0.1, outlier_fraction=0.001)
DOSE = 40.0


def session(n: int, **odd: StackFacts) -> list[tuple[int, StackFacts]]:
    """Movies 1 to n, some of them odd (`m7=...`); each a little different."""
    rng = np.random.default_rng(0)
    usual = [
        replace(
            USUAL,
            mean_e_per_px=40 * np.exp(0.05 * rng.standard_normal()),
            contrast=0.01 * np.exp(0.1 * rng.standard_normal()),
        )
        for _ in range(n)
    ]
    return [(i + 1, odd.get(f"m{i + 1}", facts)) for i, facts in enumerate(usual)]


@pytest.mark.parametrize("mode", ["trailing", "off"])
def test_trailing_takes_the_nearest_earlier_movies(mode: str) -> None:
    """Twice the radius, none of them later, whatever else is known."""
    window = choose_window(30, session(60), mode=mode, radius=4)  # type: ignore[arg-type]
    assert window.members == (22, 23, 24, 25, 26, 27, 28, 29)
    assert (window.mode, window.wanted, window.note, dict(window.left_out)) == (mode, 8, "", {})
    assert window == choose_window(30, session(60)[:30][::-1], mode=mode, radius=4)  # type: ignore[arg-type]


def test_the_start_of_a_session_has_fewer() -> None:
    """The first movie has no neighbour, the fourth has three, and the window says why."""
    assert choose_window(1, session(60), mode="trailing", radius=4).members == ()
    window = choose_window(4, session(60), mode="trailing", radius=4)
    assert window.members == (1, 2, 3)
    assert window.note == "3 of 8 stacks: the series has no more earlier movies"


@pytest.mark.parametrize(
    ("movie", "members"),
    [
        (30, (26, 27, 28, 29, 31, 32, 33, 34)),
        (1, (2, 3, 4, 5, 6, 7, 8, 9)),
        (3, (1, 2, 4, 5, 6, 7, 8, 9)),
        (60, (52, 53, 54, 55, 56, 57, 58, 59)),
        (58, (51, 52, 53, 54, 55, 56, 57, 59, 60)[1:]),
    ],
)
def test_centred_keeps_the_number_at_the_ends(movie: int, members: tuple[int, ...]) -> None:
    """As many on either side; near an end of the session more on the other."""
    assert choose_window(movie, session(60), mode="centred", radius=4).members == members


def test_a_short_session_is_taken_whole() -> None:
    """Fewer movies than a window holds: all but the own one."""
    window = choose_window(3, session(5), mode="centred", radius=4)
    assert window.members == (1, 2, 4, 5)
    assert window.note == "4 of 8 stacks: the series has no more neighbouring movies"


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (replace(USUAL, mean_e_per_px=0.3), "mean 0.3 e/px"),
        (replace(USUAL, mean_e_per_px=-0.01), "no beam"),
        (replace(USUAL, mean_e_per_px=90), "mean 90 e/px, the session's is 40"),
        (replace(USUAL, contrast=0.05), "contrast 5 %"),
        (replace(USUAL, gradient=0.6), "the beam's edge"),
        (replace(USUAL, outlier_fraction=0.05), "5 % outlier pixels"),
    ],
)
@pytest.mark.parametrize("mode", ["trailing", "centred"])
def test_odd_movies_are_left_out_with_the_reason(odd: StackFacts, reason: str, mode: str) -> None:
    """Others take their place, so that the number stays; odd ones farther away are not mentioned."""
    facts = session(60, m2=odd, m28=odd, m27=odd)
    window = choose_window(30, facts, mode=mode, radius=4)  # type: ignore[arg-type]
    assert list(window.left_out) == [27, 28]
    assert reason in window.left_out[28]
    assert len(window.members) == 8
    assert not {27, 28, 30} & set(window.members)
    assert window.note == ""


def test_an_odd_movie_has_a_window_itself() -> None:
    """Carbon is corrected with the pattern of its neighbours."""
    facts = session(60, m30=replace(USUAL, contrast=0.2))
    assert len(choose_window(30, facts, mode="trailing", radius=4).members) == 8


def test_a_session_on_carbon_is_not_odd() -> None:
    """What all movies are is usual, and thicker ice from square to square, too."""
    facts = [(i, replace(USUAL, contrast=0.1, mean_e_per_px=40 if i % 2 else 30)) for i in range(1, 31)]
    window = choose_window(30, facts, mode="trailing", radius=4)
    assert len(window.members) == 8
    assert not window.left_out


def test_all_movies_without_beam() -> None:
    """Nothing to average, each named."""
    facts = [(i, replace(USUAL, mean_e_per_px=0.0)) for i in range(1, 6)]
    window = choose_window(5, facts, mode="trailing", radius=4)
    assert window.members == ()
    assert set(window.left_out) == {1, 2, 3, 4}
    assert window.note == "0 of 8 stacks: the series has no more earlier movies, 4 more left out"


BAD: dict[str, Callable[[], FloatArray]] = {
    "carbon": lambda: carbon(3),
    "grid bar": grid_bar,
    "crystals": lambda: crystals(0),
    "beam edge": beam_edge,
    "no beam": lambda: np.full(SHAPE, 0.002),
    "bright": lambda: np.full(SHAPE, 2.0),
}


@pytest.fixture(scope="module")
def good_movies() -> list[StackSum]:
    """Twenty movies of thin ice on a stale gain, of slightly different dose."""
    rng = np.random.default_rng(1)
    return [
        stack_of(DOSE * np.exp(0.05 * rng.standard_normal()) * pixel_pattern(0.03), seed)
        for seed in range(20)
    ]


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_movie_in_ten_does_no_harm(kind: str, good_movies: list[StackSum]) -> None:
    """Carbon, grid bars, crystals, dark and bright movies are found, and the pattern is as good as without."""
    bad = [stack_of(DOSE * pixel_pattern(0.03) * BAD[kind](), 50 + i) for i in range(2)]
    stacks = [*good_movies[:5], bad[0], *good_movies[5:14], bad[1], *good_movies[14:]]
    facts = [(i, stack.facts) for i, stack in enumerate(stacks)]
    window = choose_window(21, facts, mode="trailing", radius=9)
    assert set(window.left_out) == {5, 15}
    assert len(window.members) == 18
    errors = []
    for members in ([stacks[i] for i in window.members], good_movies[1:19]):
        total = RunningTotal(SHAPE)
        for stack in members:
            total.add(stack, no_references())
        pattern = measure_pattern(total, good_movies[19], no_references())
        assert pattern is not None
        errors.append((pixel_pattern(0.03) - 1 - pattern.relative).std())
    assert errors[0] < 1.02 * errors[1]


def test_facts_tell_mean_slope_and_outliers() -> None:
    """The mean without outliers, the slope from edge to edge, the part of bad pixels; a plain slope is no contrast."""
    yx = [[y, 7] for y in range(0, 256, 2)]
    field = DOSE * np.linspace(0.9, 1.1, SHAPE[1]) * np.ones(SHAPE)
    field[tuple(np.transpose(yx))] = 5000
    facts = stack_of(field, 0, outliers=outliers_at(yx)).facts
    assert facts.mean_e_per_px == pytest.approx(DOSE, rel=2e-3)
    assert facts.gradient == pytest.approx(0.2 * 320 / 319, rel=0.1)
    assert facts.outlier_fraction == pytest.approx(128 / (256 * 320))
    assert facts.contrast == pytest.approx(1 / np.sqrt(DOSE * 32**2), rel=0.25)
