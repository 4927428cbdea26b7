"""Optics groups from beam shifts, one movie after the other: a movie's group is never changed.

Movies that were taken at the same shift of the beam share its coma and astigmatism, and with aberration-free image
shift (AFIS) or multi-shot acquisition the same few dozen shifts come again and again. Each movie goes to the group with
the nearest centre, or opens a new one where none is within the tolerance; centres follow their last movies, as shifts
drift.

The tolerance is a number, or found from the shifts themselves: in their minimum spanning tree (single linkage) the
steps within places are short and those between places long, and a gap between the two kinds tells the places apart.
Until one is seen the microscope's usual tolerance holds. When the tolerance changes, of the groups that lie in one
place the largest lives on and movies still to come join no other; a group that spans two places keeps the one that has
most of its movies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from komad.model import Acquisition

FloatArray = npt.NDArray[np.float64]

Unit = Literal["epu", "serialem"]

BEAM_SHIFT = "beam shift"
"""Source of an optics group that was found here."""
USUAL_TOLERANCE = {"epu": 0.01, "serialem": 0.2}
"""Where a person sets none and the shifts do not tell (yet). EPU's unit is its own: two shots in one hole lie 0.026
apart on a Titan Krios; SerialEM's is µm."""
MEMORY = 30
"""Movies that a centre remembers."""
PAUSE_S = 8 * 3600.0
"""A longer pause between two movies begins a new session, whose groups are others: the microscope was aligned anew."""
FIRST_REVIEW, REVIEWED_SHIFTS = 24, 2000
"""Movies before shifts are looked at for a gap, and how many, the newest, are looked at then."""
GROWTH = 1.25
"""The shifts are looked at again when there are so many times more of them."""
MIN_GAP = 2.5
"""Ratio of the steps on either side of a gap that is believed."""
NEIGHBOURS = 3
"""Shifts that are dense have so many others near them; a place has at least one more."""
MIN_PER_PLACE = 5
"""Movies for each place, on average, before gaps tell places apart: with fewer they lie between places only."""
HINT = 1.7
"""Ratio of two steps, one after the other, that scatter alone does not make."""
TOLERANCE_OF_GAP = 0.55
"""Tolerance, as a part of the usual step between neighbouring places."""
MANY_GROUPS = 200
"""With more, particles are too few in each for its aberrations to be fitted: the tolerance is likely too small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamShift:
    """Where the beam was when a movie was taken."""

    x: float
    y: float
    """Both in the unit of the program that wrote them: EPU's has no name, SerialEM's is µm."""
    unit: Unit
    magnification: float
    """Shifts at different magnifications are different things; 0 when unknown."""
    taken_at_s: float
    """When, by the microscope's clock or ours: only differences count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Centre:
    """The place of a group."""

    x: float
    y: float
    n_movies: int

    def with_movie(self, shift: BeamShift) -> Centre:
        """Move towards a movie that has joined."""
        n_movies = self.n_movies + 1
        weight = 1 / min(n_movies, MEMORY)
        return Centre(
            x=self.x + weight * (shift.x - self.x), y=self.y + weight * (shift.y - self.y), n_movies=n_movies
        )


@dataclass(kw_only=True, slots=True)
class ShiftGroups:
    """The groups of one session at one magnification. `assign` changes it."""

    unit: Unit
    magnification: float
    first_at_s: float
    last_at_s: float
    tolerance: float
    n_movies: int = 0
    n_reviewed: int = 0
    """Movies at the last look for a gap."""
    centres: dict[int, Centre] = field(default_factory=dict)
    """Number of the group -> its place; only groups that movies can still join."""

    @classmethod
    def beginning_with(cls, shift: BeamShift, tolerance: float | None) -> ShiftGroups:
        """Make the empty groups of a new session; `tolerance` None is the microscope's usual one."""
        return cls(
            unit=shift.unit,
            magnification=shift.magnification,
            first_at_s=shift.taken_at_s,
            last_at_s=shift.taken_at_s,
            tolerance=USUAL_TOLERANCE[shift.unit] if tolerance is None else tolerance,
        )

    def pause_s(self, shift: BeamShift) -> float:
        """Seconds between a movie and this session; 0 within it, infinite when it cannot be of it."""
        if (shift.unit, shift.magnification) != (self.unit, self.magnification):
            return float("inf")
        return max(self.first_at_s - shift.taken_at_s, shift.taken_at_s - self.last_at_s, 0.0)

    def assign(self, shift: BeamShift, *, free_number: int) -> int:
        """Give a movie its group: an open one, or a new one of number `free_number`."""
        number = self._nearest(shift)
        if number is None:
            number = free_number
            self.centres[number] = Centre(x=shift.x, y=shift.y, n_movies=1)
        else:
            self.centres[number] = self.centres[number].with_movie(shift)
        self._count(shift)
        return number

    def readmit(self, shift: BeamShift, number: int) -> None:
        """Take in a movie whose group is known."""
        centre = self.centres.get(number, Centre(x=shift.x, y=shift.y, n_movies=0))
        self.centres[number] = centre.with_movie(shift)
        self._count(shift)

    def _count(self, shift: BeamShift) -> None:
        self.n_movies += 1
        self.first_at_s = min(self.first_at_s, shift.taken_at_s)
        self.last_at_s = max(self.last_at_s, shift.taken_at_s)

    def _nearest(self, shift: BeamShift) -> int | None:
        distances = {
            number: np.hypot(shift.x - centre.x, shift.y - centre.y)
            for number, centre in self.centres.items()
        }
        nearest = min(distances, key=distances.__getitem__, default=None)
        return None if nearest is None or distances[nearest] > self.tolerance else nearest

    @property
    def wants_review(self) -> bool:
        """Whether there are enough new movies to look for a gap."""
        return self.n_movies >= max(FIRST_REVIEW, GROWTH * self.n_reviewed)

    def review(self, shifts: FloatArray, numbers: Sequence[int]) -> None:
        """Look for a gap in the newest shifts, and take the tolerance that it shows.

        Parameters
        ----------
        shifts
            (n, 2) x and y of the newest movies, REVIEWED_SHIFTS of them at most.
        numbers
            (n,) their groups.
        """
        self.n_reviewed = self.n_movies
        tolerance = tolerance_of_gap(shifts)
        if tolerance is not None:
            self.tolerance = tolerance
            self._settle(shifts, numbers)

    def _settle(self, shifts: FloatArray, numbers: Sequence[int]) -> None:
        """Let each place have one group: the one with most of its movies; it is taken from where it has fewer."""
        from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415 - slow to import, seldom needed

        places = fcluster(linkage(shifts, "single"), self.tolerance, "distance")
        members = Counter(zip(places.tolist(), numbers, strict=True))
        home: dict[int, int] = {}  # of each group the place that has most of its movies
        for (place, number), _ in members.most_common():
            home.setdefault(number, place)
        settled: set[int] = set()
        for (place, number), _ in members.most_common():
            if home[number] != place:
                continue
            if place in settled:
                self.centres.pop(number, None)
                continue
            settled.add(
                place
            )  # also by a group that was given up earlier, when places were told apart less well
            x, y = (float(value) for value in shifts[places == place][-MEMORY:].mean(0))
            self.centres[number] = Centre(x=x, y=y, n_movies=numbers.count(number))


def group_name(name: str, number: int) -> str:
    """Name of a group in RELION's optics table."""
    return f"{name}-{number:03d}"


def in_group(acquisition: Acquisition, name: str) -> Acquisition:
    """Put a movie into the group that its beam shift tells."""
    sources = {**acquisition.sources, "optics_group": BEAM_SHIFT}
    notes = {field: note for field, note in acquisition.notes.items() if field != "optics_group"}
    return replace(acquisition, optics_group=name, sources=sources, notes=notes)


def nearest_session(sessions: Iterable[ShiftGroups], shift: BeamShift) -> ShiftGroups | None:
    """Return the session that a movie was taken in, or less than PAUSE_S from; None when it begins a new one."""
    pauses = [(session.pause_s(shift), index, session) for index, session in enumerate(sessions)]
    pause_s, _, session = min(pauses, default=(float("inf"), 0, None))
    return session if pause_s < PAUSE_S else None


def tolerance_of_gap(shifts: FloatArray) -> float | None:
    """Tolerance that tells the places of (n, 2) shifts apart; None where no gap between places is to be believed.

    Of all gaps the finest that is wide enough counts: shots of one hole are places of their own where their scatter
    allows it.
    """
    steps, sizes = tree_steps(shifts)
    joins = steps[sizes >= NEIGHBOURS]  # of two places, or of two parts of one
    alone = steps[sizes < NEIGHBOURS]
    scatter = float(np.quantile(alone, 0.9)) if len(alone) else 0.0
    for index, step in enumerate(joins):
        shorter = max(MIN_GAP * joins[index - 1], scatter) if index else MIN_GAP * scatter
        n_places = len(joins) - index + 1
        if step >= shorter and step > 0 and len(shifts) >= MIN_PER_PLACE * n_places:
            finer = _is_finer(shifts, below=float(step))
            return None if finer else TOLERANCE_OF_GAP * float(np.quantile(joins[index:], 0.25))
    return None


def _is_finer(shifts: FloatArray, *, below: float) -> bool:
    """Whether there seem to be places within the places, which were not seen often enough yet to be told apart."""
    from scipy.cluster.hierarchy import linkage  # noqa: PLC0415 - slow to import, seldom needed

    steps = linkage(shifts, "single")[:, 2]
    steps = np.maximum(steps[steps < below], 1e-3 * below)
    middle = steps[len(steps) // 10 : len(steps) - len(steps) // 10]
    return len(middle) > 1 and float((middle[1:] / middle[:-1]).max()) >= HINT


def tree_steps(shifts: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Steps of the minimum spanning tree of (n, 2) shifts, ascending, and how many the smaller of the two sides has.

    A distance is at least that of either shift to its NEIGHBOURS-th nearest (the mutual reachability of HDBSCAN), so
    that single shifts between two places do not join them.
    """
    from scipy.cluster.hierarchy import linkage  # noqa: PLC0415 - slow to import, seldom needed
    from scipy.spatial.distance import pdist, squareform  # noqa: PLC0415

    distances = squareform(pdist(shifts))
    reach = np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    np.maximum(distances, np.maximum(reach[:, None], reach[None]), out=distances)
    np.fill_diagonal(distances, 0)
    merges = linkage(squareform(distances, checks=False), "single")
    counts = np.concatenate([np.ones(len(shifts)), merges[:, 3]])
    return merges[:, 2], counts[merges[:, :2].astype(np.intp)].min(1).astype(np.intp)
