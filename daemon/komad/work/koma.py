"""KOMA in a worker: the window of a movie, and the exact running total that moves from window to window.

McLeod et al. (2017) section 5.2. Which movies are averaged is chosen once and stored; their sum is one of whole
numbers, the same however it was reached. So a crash, another worker or another try changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import structlog

from komad.arrays import Array
from komad.config import Koma, Processing
from komad.detector import Calibration, RunningTotal, calibrate, choose_window, measure_pattern
from komad.detector.gamma import gamma_of
from komad.errors import KomadError
from komad.formats import references
from komad.model import DetectorReport, KomaWindow, Movie, Pattern, References, StackFacts, StackSum
from komad.work.device import CPU, Device

logger = structlog.get_logger(__name__)

N_TOTALS = 2
"""Series whose total is kept: those of two cameras that take turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A movie whose stack sum may be averaged."""

    movie: Movie
    stack_sum: StackSum


@dataclass(frozen=True, kw_only=True, slots=True)
class MoviePattern:
    """What neighbours tell of a movie's detector."""

    pattern: Pattern | None
    """None without neighbours."""
    window: KomaWindow
    """With a note on members that were lost."""
    settings: Koma
    """The movie's own."""

    @property
    def to_take_off(self) -> Pattern | None:
        """The pattern, unless it was only to be measured."""
        return None if self.settings.mode == "off" else self.pattern

    def report(self, measured: DetectorReport) -> DetectorReport:
        """Complete what was measured on the frames."""
        report = replace(measured, window=self.window)
        if self.pattern is None:
            return report
        return replace(
            report,
            n_stacks=self.pattern.n_stacks,
            scale=self.pattern.scale,
            pattern_spread=self.pattern.shared_spread,
            pattern_correlation=self.pattern.correlation,
        )


def choose(
    movie: Movie, own: StackFacts, others: Mapping[int, StackFacts], absent: Mapping[int, str] | None = None
) -> KomaWindow:
    """Choose a movie's window, and name the neighbours that are missed in it (`absent`: movie id -> why)."""
    koma = Koma.model_validate(dict(movie.koma))
    facts = {**others, movie.movie_id: own}
    window = choose_window(movie.movie_id, list(facts.items()), mode=koma.mode, radius=koma.radius)
    is_full = len(window.members) == window.wanted
    missed = {
        movie_id: why
        for movie_id, why in (absent or {}).items()
        if not is_full or window.members[0] < movie_id < max(window.members[-1], movie.movie_id)
    }
    if not missed:
        return window
    first = next(iter(missed))
    note = (
        f"{window.note}; {len(missed)} without a stack sum (movie {first}: {missed[first]})"
        if window.note
        else ""
    )
    return replace(window, left_out={**window.left_out, **missed}, note=note)


class RunningWindows:
    """The totals of windows' stack sums; the next window of a series costs only what is new and what leaves.

    Parameters
    ----------
    load
        Gives a movie by its number, None when its stack sum is lost.
    device
        Where the totals and the patterns are.
    """

    def __init__(self, load: Callable[[int], Member | None], device: Device = CPU) -> None:
        self._load = load
        self._device = device
        self._totals: dict[str, _WindowTotal] = {}

    def pattern(self, movie: Movie, own: StackSum, window: KomaWindow) -> MoviePattern:
        """Measure what a movie shares with the members of its window."""
        # A total may be half moved when the memory ends: what was in it is not known.
        return self._device.call(lambda: self._pattern(movie, own, window), make_room=self._totals.clear)

    def _pattern(self, movie: Movie, own: StackSum, window: KomaWindow) -> MoviePattern:
        total = self._total_of(movie.series)
        calibration = _calibration(movie, own, self._device)
        lost = total.move(window.members, calibration.gain)
        if lost:
            names = ", ".join(map(str, sorted(lost)))
            note = f"the stack sums of {len(lost)} movies are lost: {names}"
            logger.warning("KOMA goes on with fewer movies", movie=movie.stem, reason=note)
            window = replace(window, note="; ".join(filter(None, (window.note, note))))
        return MoviePattern(
            pattern=measure_pattern(total.running, own, calibration),
            window=window,
            settings=Koma.model_validate(dict(movie.koma)),
        )

    def _total_of(self, series: str) -> _WindowTotal:
        """The total of a series; that of the series that was not asked for longest is forgotten."""
        total = self._totals.pop(series, None) or _WindowTotal(self._load, self._device)
        self._totals[series] = total
        if len(self._totals) > N_TOTALS:
            del self._totals[next(iter(self._totals))]
        return total


class _WindowTotal:
    """The running total of one series, and who is in it."""

    def __init__(self, load: Callable[[int], Member | None], device: Device) -> None:
        self._load = load
        self._device = device
        self._members: set[int] = set()
        self.running = RunningTotal((0, 0))

    def move(self, members: Collection[int], like: Array) -> set[int]:
        """Bring the total to these members, of the size of `like` and where that is; gives those that are lost."""
        wanted = set(members)
        is_far = len(wanted ^ self._members) > len(wanted)
        if is_far or self.running.total.shape != like.shape or not self._take_off(self._members - wanted):
            shape = (like.shape[0], like.shape[1])
            self.running, self._members = RunningTotal(shape, like=like), set()
        for movie_id in sorted(wanted - self._members):
            self._add(movie_id)
        return wanted - self._members

    def _take_off(self, gone: set[int]) -> bool:
        """Take members out; False when one is lost, so that the total has to be made anew."""
        for movie_id in sorted(gone):
            member = self._load(movie_id)
            if member is None:
                return False
            self.running.subtract(member.stack_sum, self._calibration(member))
            self._members.remove(movie_id)
        return True

    def _add(self, movie_id: int) -> None:
        member = self._load(movie_id)
        if member is None:
            return
        try:
            self.running.add(member.stack_sum, self._calibration(member))
        except KomadError as error:  # whatever is wrong with a neighbour, this movie goes on
            logger.warning(
                "left out of the window", movie=member.movie.stem, code=error.code, error=str(error)
            )
        else:
            self._members.add(movie_id)

    def _calibration(self, member: Member) -> Calibration:
        return _calibration(member.movie, member.stack_sum, self._device)


def _calibration(movie: Movie, stack_sum: StackSum, device: Device) -> Calibration:
    shape = (stack_sum.total.shape[0], stack_sum.total.shape[1])
    setting = Processing.model_validate(dict(movie.processing)).gain_gamma
    frame_time_s, rate = movie.acquisition.frame_time_s, None
    if frame_time_s is not None and setting != "off":
        dark = references.load(movie.references, shape).dark
        rate = float(stack_sum.frame_means.mean() - (0.0 if dark is None else dark.mean())) / frame_time_s
    host = _calibrated(movie.references, shape, gamma_of(setting, rate))
    return replace(host, gain=device.kept(host.gain), offset=device.kept(host.offset))


@lru_cache(1)
def _calibrated(files: References, shape: tuple[int, int], gamma: float) -> Calibration:
    """The same for all movies of a series, unless the power of the gain follows the dose rate."""
    loaded = references.load(files, shape)
    return calibrate(shape, gain=loaded.gain, dark=loaded.dark, gamma=gamma)
