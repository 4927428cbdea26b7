"""A gain reference from the session's own movies, when there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.errors import ParameterError, ReferenceFileError

FloatArray = npt.NDArray[np.float32]

N_GROUPS = 8
"""Movies are added in so many groups, of which one that differs at a pixel is left out there."""
GROUP_SIGMA = 4.0
SPECIMEN = 0.02
"""Relative spread that the specimen of a group may add to the counting noise."""
BLOCKS = 16
"""Per axis: the means to which the illumination is fitted."""
DEFECT_SIGMA = 8.0
DEFECT_LEAST = 0.25
"""Relative. A pixel that differs less from the others is corrected and not given up."""
MOVIES_WORTH = 10
"""A reference of fewer times the counts of a movie adds a pattern of more than a tenth of its noise to each sum."""
BAND_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class GainEstimate:
    """A gain reference and how good it is."""

    gain: FloatArray
    """(ny, nx) factor for the counts; its reciprocal has the mean 1. 0 at defects."""
    counts_per_px: float
    """Mean counts of a pixel in all movies together."""
    n_movies: int
    n_defects: int
    """Pixels too different from the others to be corrected by a factor."""

    @property
    def error(self) -> float:
        """Relative standard deviation of a pixel from counting."""
        return float(self.counts_per_px**-0.5)

    @property
    def is_good(self) -> bool:
        """Whether it adds little to the noise of a movie as those that it is made of."""
        return self.n_movies >= MOVIES_WORTH


def estimate_gain(
    totals: Iterable[npt.NDArray[Any]],  # of (ny, nx)
) -> GainEstimate:
    """Estimate the gain from stack sums of movies of different places of the specimen.

    The illumination of each movie, a polynomial of second degree, is divided out: what is as smooth as that over the
    whole field cannot be told from the beam, and is not in the gain. The specimen differs between movies, and what is
    rare in it (ice crystals, hits of x-rays) is left out, pixel by pixel, by comparing groups of movies. What remains
    is counting: a relative error of 1/sqrt(counts per pixel).

    Parameters
    ----------
    totals
        Sums of raw frames as the camera wrote them, dark subtracted if there is one. Taken one after the other: memory
        is that of eight pictures, however many movies there are.

    Raises
    ------
    ParameterError
        There are no movies, or they are empty.
    ReferenceFileError
        The movies are of different sizes.
    """
    counts: list[FloatArray] = []
    light: list[FloatArray] = []
    n_movies = 0
    for total in totals:
        if counts and total.shape != counts[0].shape:
            ny, nx = counts[0].shape
            raise ReferenceFileError(
                f"movie {n_movies + 1} is of {total.shape[1]} x {total.shape[0]} pixels, those before of {nx} x {ny}; "
                "give movies of one camera and mode"
            )
        group = n_movies % N_GROUPS
        n_movies += 1
        if len(counts) <= group:
            counts.append(total.astype(np.float32))
            light.append(_illumination(total))
        else:
            counts[group] += total
            light[group] += _illumination(total)
    mean = sum(float(group.mean(dtype=np.float64)) for group in counts)
    if mean <= 0:
        raise ParameterError("there are no counts to make a gain reference of: give movies with beam")
    response = _combined(counts, light)
    return _as_gain(response, mean, n_movies)


def _illumination(total: npt.NDArray[Any]) -> FloatArray:
    """(ny, nx): a polynomial of second degree in y and x, fitted to means of blocks without those that stand out."""
    (ys, rows), (xs, columns) = (_axis(size) for size in total.shape)
    means = np.add.reduceat(np.add.reduceat(total, rows, axis=0, dtype=np.float64), columns, axis=1)
    means /= np.outer(np.diff([*rows, total.shape[0]]), np.diff([*columns, total.shape[1]]))
    basis = np.einsum("ai,bj->abij", _powers(ys), _powers(xs)).reshape(means.size, 9)
    values, good = means.ravel(), np.ones(means.size, bool)
    for _ in range(3):
        fit = np.linalg.lstsq(basis[good], values[good], rcond=None)[0]
        rest = np.abs(values - basis @ fit)
        good = rest <= 3 * 1.4826 * np.median(rest)
    whole = [_powers(np.linspace(-1, 1, size)) for size in total.shape]
    picture = whole[0] @ fit.reshape(3, 3) @ whole[1].T
    return np.maximum(picture, 0.01 * max(float(means.mean()), 1e-6)).astype(np.float32)


def _axis(size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Centres of blocks, from -1 to 1 over the field, and their first pixels."""
    edges = np.linspace(0, size, min(BLOCKS, size) + 1).round().astype(np.intp)
    return (edges[:-1] + edges[1:] - 1) / max(size - 1, 1) - 1, edges[:-1]


def _powers(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return at[:, None] ** np.arange(3)


def _combined(counts: list[FloatArray], light: list[FloatArray]) -> FloatArray:
    """Counts by light of all groups, without groups that differ from the median at a pixel."""
    response = np.empty_like(counts[0])

    def band(y0: int) -> None:
        rows = np.s_[y0 : y0 + BAND_ROWS]
        seen, lit = (np.stack([group[rows] for group in groups]) for groups in (counts, light))
        ratio = seen / lit
        middle = np.median(ratio, axis=0)
        tolerance = GROUP_SIGMA * np.sqrt(np.maximum(middle, 1 / lit) / lit + SPECIMEN**2)
        kept = np.abs(ratio - middle) <= tolerance
        # Two groups cannot tell which one is right.
        kept |= len(counts) < 3
        response[rows] = (seen * kept).sum(axis=0) / np.maximum((lit * kept).sum(axis=0), 1e-6)

    list(thread_pool().map(band, range(0, len(response), BAND_ROWS)))
    return response


def _as_gain(response: FloatArray, counts_per_px: float, n_movies: int) -> GainEstimate:
    low, centre, high = np.quantile(response, [0.25, 0.5, 0.75])
    limit = max(DEFECT_SIGMA * (high - low) / 1.349, DEFECT_LEAST * centre)
    good = (np.abs(response - centre) <= limit) & (response > 0)
    mean = float(response[good].mean(dtype=np.float64)) if good.any() else 1.0
    gain = np.where(good, mean / np.where(good, response, 1), 0).astype(np.float32)
    return GainEstimate(
        gain=gain,
        counts_per_px=counts_per_px,
        n_movies=n_movies,
        n_defects=int(np.count_nonzero(~good)),
    )
