"""Beam shifts of a session with aberration-free image shift (AFIS): the same holes around each stage position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

SHOT_RING = 0.15
"""Radius of the ring on which several shots of a hole lie, as a part of the pitch of the holes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftPattern:
    """What the shifts of a session are like. Lengths are in the unit of the shifts: EPU's own, or µm for SerialEM."""

    lattice: Literal["square", "hexagonal"] = "square"
    n_across: int = 5
    """Holes from side to side of the pattern, n_across² in a square one."""
    pitch: float = 0.087
    """From hole to hole: 2.5 µm on a Titan Krios in EPU's unit."""
    angle_degree: float = 7.0
    shots_per_hole: int = 1
    jitter: float = 0.003
    """Standard deviation along each axis: holes are not quite where the lattice has them. Shots of a hole share it."""
    drift: float = 0.0
    """How far the whole pattern goes in the session."""
    outliers: float = 0.0
    """The part of the movies that lie anywhere in the pattern."""
    missing: float = 0.15
    """The part of the holes that is left out at a stage position: thick ice, a broken film."""

    def places(self) -> npt.NDArray[np.float64]:
        """(n, 2) x and y of each shot of each hole, in the order in which they are taken; their centre is 0."""
        steps = np.arange(self.n_across) - (self.n_across - 1) / 2
        x, y = (axis.ravel() for axis in np.meshgrid(steps, steps))
        if self.lattice == "hexagonal":
            x, y = x + 0.5 * (np.rint(y - y.min()) % 2) - 0.25, y * np.sqrt(0.75)
        angles = 2 * np.pi * np.arange(self.shots_per_hole) / self.shots_per_hole
        ring = SHOT_RING * (self.shots_per_hole > 1) * np.stack([np.cos(angles), np.sin(angles)], 1)
        places = self.pitch * (np.stack([x, y], 1)[:, None] + ring[None]).reshape(-1, 2)
        turn = np.deg2rad(self.angle_degree)
        return places @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def simulate_shifts(
    pattern: ShiftPattern, n_movies: int, *, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Simulate the shifts of a session.

    Returns
    -------
    shifts
        (n_movies, 2) x and y.
    places
        (n_movies,) the true place of each, counted as in `ShiftPattern.places`; -1 for an outlier.
    """
    random = np.random.default_rng([seed, 0xBEA])
    centres = pattern.places()
    order: list[int] = []
    while len(order) < n_movies:
        taken = random.random(len(centres) // pattern.shots_per_hole) >= pattern.missing
        order += np.flatnonzero(np.repeat(taken, pattern.shots_per_hole)).tolist()
    places = np.array(order[:n_movies], np.intp)
    heading = random.uniform(0, 2 * np.pi)
    path = pattern.drift * np.linspace(-0.5, 0.5, n_movies)[:, None]
    shifts = centres[places] + path * [np.cos(heading), np.sin(heading)]
    hole = places // pattern.shots_per_hole
    visit = np.cumsum(np.diff(hole, prepend=hole[:1]) != 0)
    shifts = shifts + random.normal(0, pattern.jitter, (n_movies, 2))[visit]
    lost = random.random(n_movies) < pattern.outliers
    reach = np.abs(centres).max() + pattern.pitch
    shifts[lost] = random.uniform(-reach, reach, (int(lost.sum()), 2))
    return shifts, np.where(lost, -1, places)
