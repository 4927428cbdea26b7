"""The camera: response, gain reference, hot and dead pixels, counting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.compiler import compiled
from komad.simulate.spec import MovieSpec

FloatArray = npt.NDArray[np.floating[Any]]

HOT_RATE_E = (0.5, 40.0)
"""Extra counts per frame of a hot pixel, log-uniform between."""
CLUSTER_PART = 0.25
"""Of the spots, those of several pixels."""
CLUSTER_PIXELS = (2, 12)
HOT_CHANGE = 0.1
"""Part of the hot spots that is exchanged from one movie to the next."""
COUNTING_ROWS = 128
"""Rows drawn at a time: keeps the uniform numbers in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A camera as it is during one movie."""

    response: npt.NDArray[np.float32]
    """(ny, nx) counts per electron, mean 1, zero at dead pixels."""
    gain_reference: npt.NDArray[np.float32]
    """(ny, nx) the factor for the counts that is handed out; knows nothing of dead or hot pixels."""
    hot_yx: npt.NDArray[np.intp]
    """(n_hot, 2) as (y, x)."""
    hot_rate_e: npt.NDArray[np.float32]
    """(n_hot,) extra counts per frame."""
    dead_yx: npt.NDArray[np.intp]
    """(n_dead, 2) as (y, x)."""

    def expected(self, electrons: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(ny, nx) mean counts for (ny, nx) mean electrons."""
        counts = electrons * self.response
        counts[tuple(self.hot_yx.T)] += self.hot_rate_e
        counts[tuple(self.dead_yx.T)] = 0.0
        return counts


def build_detector(spec: MovieSpec) -> Detector:
    """Make the camera that `spec` describes."""
    rng = spec.random("detector")
    response = _response(spec, rng)
    error = 1.0 + np.float32(spec.gain_error) * rng.standard_normal(spec.shape, np.float32)
    dead = _spots(spec.shape, _n_spots(spec, spec.dead_per_megapixel), rng)
    dead_yx = np.unique(np.concatenate(dead), axis=0) if dead else np.empty((0, 2), np.intp)
    gain = error / response
    response[tuple(dead_yx.T)] = 0.0
    hot_yx, hot_rate = _hot(spec.shape, _n_spots(spec, spec.hot_per_megapixel), rng)
    return Detector(
        response=response, gain_reference=gain, hot_yx=hot_yx, hot_rate_e=hot_rate, dead_yx=dead_yx
    )


def aged(
    detector: Detector, spec: MovieSpec, *, change: float = HOT_CHANGE, more_per_megapixel: float = 0.0
) -> Detector:
    """Return the same camera one movie later: response and dead pixels stay, some hot pixels go and others come.

    `change` is the part of the usual number that is exchanged, `more_per_megapixel` are spots that come in addition.
    """
    rng = spec.random("aged")
    stays = rng.random(len(detector.hot_yx)) >= change
    more = 1e-6 * more_per_megapixel * spec.ny * spec.nx
    n_new = round(
        change * _n_spots(spec, spec.hot_per_megapixel) + more + rng.uniform(-0.5, 0.5) * (more > 0)
    )
    new_yx, new_rate = _hot(spec.shape, n_new, rng)
    yx, first = np.unique(np.concatenate([detector.hot_yx[stays], new_yx]), axis=0, return_index=True)
    rate = np.concatenate([detector.hot_rate_e[stays], new_rate])[first]
    return replace(detector, hot_yx=yx, hot_rate_e=rate)


def illumination(spec: MovieSpec) -> npt.NDArray[np.float32]:
    """(ny, nx) relative intensity of the beam: a slope in a random direction, mean 1."""
    angle = spec.random("illumination").uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, spec.ny, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, spec.nx, dtype=np.float32)[None, :]
    slope = np.float32(spec.illumination_gradient)
    return 1.0 + slope * (np.float32(np.sin(angle)) * y + np.float32(np.cos(angle)) * x)


def count(
    expected: npt.NDArray[np.float32],  # (ny, nx)
    rng: np.random.Generator,
    *,
    max_count: int,
    out: npt.NDArray[np.uint8 | np.uint16],  # (ny, nx)
) -> None:
    """Draw Poisson counts into `out`, saturating at `max_count`."""
    for start in range(0, len(expected), COUNTING_ROWS):
        rows = slice(start, start + COUNTING_ROWS)
        _invert(rng.random(expected[rows].shape), expected[rows], max_count, out[rows])


@compiled()  # Generator.poisson keeps the interpreter lock
def _invert(uniform: FloatArray, expected: FloatArray, max_count: int, out: npt.NDArray[Any]) -> None:
    """Poisson counts by inversion: the smallest n whose cumulative probability reaches the uniform number."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            mean = np.float64(expected[y, x])
            probability = np.exp(-mean)
            cumulative = probability
            n = 0
            while uniform[y, x] > cumulative and n < max_count:
                n += 1
                probability *= mean / n
                cumulative += probability
            out[y, x] = n


def _response(spec: MovieSpec, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Columns, smooth sweeps and pixels, each of the spread asked for; mean 1, all within a factor of two."""
    spread = np.float32(spec.response_spread)
    columns = rng.standard_normal(spec.nx, np.float32)
    pixels = rng.standard_normal(spec.shape, np.float32)
    y = np.linspace(0, 1, spec.ny, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, spec.nx, dtype=np.float32)[None, :]
    sweeps = np.zeros(spec.shape, np.float32)
    for _ in range(4):
        fy, fx, phase = rng.uniform([-2.5, -2.5, 0], [2.5, 2.5, 2 * np.pi]).astype(np.float32)
        sweeps += np.sqrt(np.float32(0.5)) * np.cos(2 * np.float32(np.pi) * (fy * y + fx * x) + phase)
    response = np.clip(1.0 + spread * (columns + pixels + sweeps), 0.5, 2.0)
    return np.asarray(response / response.mean(), np.float32)


def _n_spots(spec: MovieSpec, per_megapixel: float) -> int:
    """Number of spots; small test movies get a few at least."""
    return max(4, round(per_megapixel * spec.ny * spec.nx / 1e6)) if per_megapixel > 0 else 0


def _spots(shape: tuple[int, int], n_spots: int, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    """Spots as (n_pixels, 2) arrays of (y, x): single pixels, and clusters grown pixel by pixel."""
    spots = []
    for index in range(n_spots):
        size = int(rng.integers(*CLUSTER_PIXELS, endpoint=True)) if index < CLUSTER_PART * n_spots else 1
        steps = np.zeros((size, 2), np.intp)
        steps[np.arange(size), rng.integers(0, 2, size)] = rng.choice([-1, 1], size)
        walk = rng.integers(0, shape) + np.cumsum(steps, axis=0)
        spots.append(np.unique(np.clip(walk, 0, np.array(shape) - 1), axis=0))
    return spots


def _hot(
    shape: tuple[int, int], n_spots: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Positions (n, 2) without repeats, and extra counts per frame (n,); a cluster has about one rate."""
    if n_spots == 0:
        return np.empty((0, 2), np.intp), np.empty(0, np.float32)
    spots = _spots(shape, n_spots, rng)
    rates = [np.exp(rng.uniform(*np.log(HOT_RATE_E))) * rng.uniform(0.5, 1.5, len(spot)) for spot in spots]
    yx, first = np.unique(np.concatenate(spots), axis=0, return_index=True)
    return yx, np.concatenate(rates)[first].astype(np.float32)
