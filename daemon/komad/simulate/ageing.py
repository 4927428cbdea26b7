"""A camera that ages in the beam: hot pixels that grow in number, columns that drift away from the gain reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from komad.simulate.detector import Detector, aged, build_detector
from komad.simulate.spec import MovieSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Ageing:
    """How a camera changes from movie to movie; the errors of its gain reference are in the `MovieSpec`."""

    more_hot_per_megapixel: float = 1.0
    """Hot spots that each movie adds, as McLeod et al. (2017) found: 7000 pixels of a K2 in 500 movies."""
    hot_change: float = 0.005
    """Part of the first day's hot spots that is exchanged from one movie to the next."""
    column_spread: float = 0.01
    """Relative RMS of a column pattern that the gain reference does not know."""
    column_memory: tuple[float, ...] = (3.0, 12.0, 48.0, 192.0)
    """Movies after which parts of the column pattern, equal in power, are another to 63 %: together they fade as a
    power of the dose, fast at first, as stack sums do in figure 11."""


def ageing_camera(spec: MovieSpec, ageing: Ageing) -> Iterator[Detector]:
    """The camera at each movie of a session without end, always with the gain reference of its first day.

    Parameters
    ----------
    spec
        The camera of the first day: number of hot pixels, errors of the gain reference. Its seed decides all of it.
    ageing
        What becomes of it.
    """
    rng = spec.random("ageing")
    memory = np.array(ageing.column_memory)
    stays = np.exp(-1 / memory)[:, None]
    parts = rng.standard_normal((len(memory), spec.nx))
    first = detector = build_detector(spec)
    number = 0
    while True:
        columns = ageing.column_spread * parts.sum(axis=0) / np.sqrt(len(memory))
        yield replace(detector, response=first.response * (1 + columns).astype(np.float32))
        number += 1
        detector = aged(
            detector,
            replace(spec, seed=spec.seed + number),
            change=ageing.hot_change,
            more_per_megapixel=ageing.more_hot_per_megapixel,
        )
        parts = stays * parts + np.sqrt(1 - stays**2) * rng.standard_normal(parts.shape)
