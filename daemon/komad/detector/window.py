"""Which neighbours' stack sums are averaged for a movie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from komad.model import KomaMode, KomaWindow, StackFacts

MANY_SIGMA = 5.0
"""A movie farther from the session's median than this is another thing: carbon, a crystal, a grid bar."""
SIGMA_OF_MAD = 1.4826
MEAN_FACTOR = 1.5
"""Means that differ by less from the session's are never odd: thicker ice, another hole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limit:
    """What is too much of one fact, in a session of these movies."""

    median: float
    largest: float


def choose_window(
    movie_id: int, facts: Sequence[tuple[int, StackFacts]], *, mode: KomaMode, radius: int
) -> KomaWindow:
    """Choose the movies of a series whose stack sums are averaged for one of them.

    The nearest ones in order, twice `radius`: `trailing` and `off` look at earlier ones only; `centred` takes as many
    on either side, and at an end of the session more on the other, so that the number stays. Movies whose stack sum
    shows more of a specimen than of the detector are passed over, judged by median and median absolute deviation of
    all that are looked at, with a floor below which no movie is odd. The movie itself may be.

    Parameters
    ----------
    movie_id
        The movie that the window is for.
    facts
        Neighbours in the series, in any order, with or without the movie itself. What is here decides: give the same
        ones whenever the window is to be the same.
    """
    known = sorted(facts, key=lambda pair: pair[0])
    if mode != "centred":
        known = [(other, each) for other, each in known if other <= movie_id]
    odd = _odd_ones(known)
    before = [other for other, _ in reversed(known) if other < movie_id]
    after = [other for other, _ in known if other > movie_id]
    good_before, good_after = ([other for other in side if other not in odd] for side in (before, after))
    wanted = 2 * radius
    side = radius if mode == "centred" else wanted
    n_before = min(len(good_before), max(side, wanted - len(good_after)))
    n_after = min(len(good_after), wanted - n_before)
    members = {*good_before[:n_before], *good_after[:n_after]}
    reached = _reached(before, good_before, n_before, wanted) | _reached(after, good_after, n_after, wanted)
    left_out = {other: odd[other] for other in sorted(reached) if other in odd}
    return KomaWindow(
        mode=mode,
        members=tuple(sorted(members)),
        wanted=wanted,
        left_out=left_out,
        note=_note(len(members), wanted, len(left_out), mode),
    )


def _reached(side: Sequence[int], good: Sequence[int], n_taken: int, wanted: int) -> set[int]:
    """The neighbours on one side that were looked at until `n_taken` were found, or the side was at an end."""
    if n_taken == len(good) and n_taken < wanted:
        return set(side)
    return set(side[: side.index(good[n_taken - 1])]) if n_taken else set()


def _note(n_members: int, wanted: int, n_left_out: int, mode: KomaMode) -> str:
    if n_members == wanted:
        return ""
    there = "neighbouring" if mode == "centred" else "earlier"
    skipped = f", {n_left_out} more left out" if n_left_out else ""
    return f"{n_members} of {wanted} stacks: the series has no more {there} movies{skipped}"


def _odd_ones(known: Sequence[tuple[int, StackFacts]]) -> Mapping[int, str]:
    """Movie id -> why its stack sum is not a picture of the detector."""
    lit = [each for _, each in known if each.mean_e_per_px > 0]
    if not lit:
        return {other: "no beam" for other, _ in known}
    log_mean = _limit(np.log([each.mean_e_per_px for each in lit]), floor=float(np.log(MEAN_FACTOR)))
    contrast = _limit([each.contrast for each in lit], floor=0.01, share=0.5)
    gradient = _limit([each.gradient for each in lit], floor=0.1)
    outliers = _limit([each.outlier_fraction for each in lit], floor=0.005, share=1.0)
    mean = float(np.exp(log_mean.median))
    odd = {}
    for other, each in known:
        if each.mean_e_per_px <= 0:
            odd[other] = "no beam"
        elif abs(np.log(each.mean_e_per_px) - log_mean.median) > log_mean.largest - log_mean.median:
            odd[other] = f"mean {each.mean_e_per_px:.3g} e/px, the session's is {mean:.3g}"
        elif each.contrast > contrast.largest:
            odd[other] = (
                f"contrast {100 * each.contrast:.2g} %, the session's is {100 * contrast.median:.2g} %: "
                "carbon, crystalline ice or a grid bar?"
            )
        elif each.gradient > gradient.largest:
            odd[other] = (
                f"the illumination differs by {100 * each.gradient:.2g} % across the field, "
                f"the session's by {100 * gradient.median:.2g} %: the beam's edge?"
            )
        elif each.outlier_fraction > outliers.largest:
            odd[other] = (
                f"{100 * each.outlier_fraction:.2g} % outlier pixels, the session has {100 * outliers.median:.2g} %"
            )
    return odd


def _limit(values: Sequence[float] | np.ndarray, *, floor: float, share: float = 0.0) -> _Limit:
    """Median plus MANY_SIGMA; at least plus `floor`, and plus a `share` of the median."""
    median = float(np.median(values))
    sigma = SIGMA_OF_MAD * float(np.median(np.abs(np.asarray(values) - median)))
    return _Limit(median=median, largest=median + max(MANY_SIGMA * sigma, floor, share * median))
