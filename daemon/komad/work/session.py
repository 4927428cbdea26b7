"""KOMA without a database: the stack sums of the movies of one command, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from komad.config import Koma
from komad.model import REACH, Movie, StackFacts, StackSum, series_of
from komad.work import stack_sums
from komad.work.device import CPU, Device
from komad.work.koma import Member, MoviePattern, RunningWindows, choose


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    movie: Movie
    facts: StackFacts
    packed: bytes


class SessionInMemory:
    """The movies so far, each with its stack sum, compressed."""

    def __init__(self, settings: Koma, device: Device = CPU) -> None:
        self._settings = settings
        self._kept: dict[int, _Kept] = {}
        self._running = RunningWindows(self._member, device)
        self._n_movies = 0

    def pattern(self, movie: Movie, own: StackSum) -> MoviePattern:
        """Measure what the movies before this one tell of its detector; it is kept for those to come."""
        self._n_movies += 1
        movie = replace(
            movie,
            movie_id=self._n_movies,
            koma=self._settings.model_dump(),
            series=series_of(movie, Path()),
        )
        window = choose(movie, own.facts, self._facts(movie.series))
        found = self._running.pattern(movie, own, window)
        self._keep(movie, own)
        return found

    def _keep(self, movie: Movie, own: StackSum) -> None:
        self._kept[movie.movie_id] = _Kept(movie=movie, facts=own.facts, packed=stack_sums.pack(own))
        for movie_id in [*self._facts(movie.series)][: -REACH * self._settings.radius]:
            del self._kept[movie_id]

    def _facts(self, series: str) -> Mapping[int, StackFacts]:
        """Movie number -> facts, of a series, rising."""
        return {number: kept.facts for number, kept in self._kept.items() if kept.movie.series == series}

    def _member(self, movie_id: int) -> Member | None:
        kept = self._kept.get(movie_id)
        stack_sum = None if kept is None else stack_sums.unpack(kept.packed)
        return None if kept is None or stack_sum is None else Member(movie=kept.movie, stack_sum=stack_sum)
