"""Whether the gain reference lies the right way: tried on raw stack sums in all the ways there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import uniform_filter

from komad.arrays import thread_pool
from komad.errors import ReferenceFileError

FloatArray = npt.NDArray[np.float32]

Verdict = Literal["ok", "other", "unclear", "corrected", "inverse"]

BLOCK = 256
"""Pixels per side of the blocks that are looked at; enough of them for any spread of the response that matters."""
BLOCKS_PER_AXIS = 3
SMALLEST_LENGTH = 48
"""Pixels. Below it there is too little to compare with."""
BOX = 9
"""Pixels. What is smoother than this is specimen and illumination, not taken for the detector."""
CLIP = 5.0
"""Standard deviations. Pixels beyond are outliers, and tell nothing."""
PEAK = 4.0
"""Times the mean amplitude, to which a Fourier component of the reference is limited."""
SURE_SIGMA = 6.0
"""Standard deviations by which an orientation must stand out: the largest of eight chance values stays below 3."""
SHARP_ENOUGH = 0.05
"""When the part of the pattern is known as well as this, finding none means that there is none."""
NO_PART = 0.15
INVERSE_PART = -0.5
"""Movies that are corrected already show the noise of the reference upside down, which is less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrientationScore:
    """How much of the pattern of a gain reference the movies show when it lies in one of the ways."""

    gain_rot: int
    gain_flip: int
    part: float
    """1: as strong as the reference says; 0: nothing of it; negative: of its reciprocal."""
    error: float
    """Standard deviation of what chance gives for `part`; infinite when nothing can be told."""

    @property
    def sigma(self) -> float:
        """`part` in standard deviations."""
        return self.part / self.error

    def ahead_of(self, other: OrientationScore) -> float:
        """Standard deviations by which this way takes away more than the other; 0 when neither can be told."""
        return (self.part - other.part) / math.hypot(self.error, other.error)

    def __str__(self) -> str:
        """As in the configuration."""
        return f"gain_rot = {self.gain_rot}, gain_flip = {self.gain_flip}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GainVerdict:
    """What the movies say of a gain reference and its orientation."""

    verdict: Verdict
    """ok: as configured; other: lies another way; inverse: its reciprocal is the gain; corrected: the movies show
    nothing of it; unclear: it cannot be told."""
    configured: OrientationScore
    best: OrientationScore
    """The way that stands out most, or the configured one when none does."""
    confidence: float
    """Standard deviations by which the best way stands before the configured one, or before the next best when it is
    the configured one itself."""
    scores: tuple[OrientationScore, ...]
    """All ways, the best first."""
    sentence: str
    """For log, status and screen, with what to do."""


def orient(image: npt.NDArray[Any], *, gain_rot: int, gain_flip: int) -> npt.NDArray[Any]:
    """Turn by `gain_rot` quarters, then flip: 1 upside down, 2 left to right. A view, in MRC row order."""
    turned = np.rot90(image, -gain_rot)
    return {0: turned, 1: turned[::-1, :], 2: turned[:, ::-1]}[gain_flip]


def inverted(image: FloatArray) -> FloatArray:
    """Mean by value: the gain of a flat field, in whatever unit it is. 0, a defect, where the value is not positive."""
    factor = reciprocal(image)
    factor *= np.float32(image[np.isfinite(factor)].mean(dtype=np.float64))
    return np.nan_to_num(factor, copy=False, nan=0.0)


def reciprocal(gain: FloatArray) -> FloatArray:
    """The response that a gain stands for, or the other way round; NaN where it is no positive number."""
    usable = np.isfinite(gain) & (gain > 0)
    return np.where(usable, 1 / np.where(usable, gain, 1), np.nan).astype(np.float32, copy=False)


def check_gain(
    total: npt.NDArray[Any],  # (ny, nx)
    gain: FloatArray,  # (ny, nx) or (nx, ny), as it is in its file
    *,
    gain_rot: int,
    gain_flip: int,
) -> GainVerdict:
    """Judge the orientation of a gain reference by the sum of raw stack sums of a few movies.

    Parameters
    ----------
    total
        Sum or mean of raw stack sums, dark subtracted if there is one. Its scale does not matter.
    gain
        The reference, not turned.
    gain_rot, gain_flip
        The orientation that is configured.

    Raises
    ------
    ReferenceFileError
        The gain has another size than the movies, however it is turned.
    """
    # Left to right is upside down after two more quarters: each way is tried once.
    rot, flip = ((gain_rot + 2) % 4, 1) if gain_flip == 2 else (gain_rot, gain_flip)
    scores = orientation_scores(total, gain)
    named = [score for score in scores if (score.gain_rot, score.gain_flip) == (rot, flip)]
    if not named:
        raise ReferenceFileError(
            f"with gain_rot = {gain_rot} the gain reference does not fit frames of {total.shape[1]} x {total.shape[0]} "
            f"pixels; it fits with gain_rot = {(gain_rot + 1) % 4} or {(gain_rot + 3) % 4}"
        )
    configured = replace(named[0], gain_rot=gain_rot, gain_flip=gain_flip)
    others = [score for score in scores if score is not named[0]]
    return _judge(configured, sorted(others, key=lambda score: -abs(score.sigma)))


def _judge(configured: OrientationScore, others: list[OrientationScore]) -> GainVerdict:
    """Weigh the configured way against the others; it wins where several are alike, as for a gain of lines only."""
    scores = sorted([configured, *others], key=lambda score: -abs(score.sigma))
    verdict = _verdict(configured, scores)
    best = scores[0] if verdict in {"other", "inverse"} else configured
    confidence = {
        "ok": min(configured.ahead_of(other) for other in others),
        "other": best.ahead_of(configured),
        "inverse": -best.sigma,
        "corrected": min(NO_PART / score.error for score in scores),
        "unclear": abs(scores[0].sigma),
    }[verdict]
    return GainVerdict(
        verdict=verdict,
        configured=configured,
        best=best,
        confidence=confidence,
        scores=tuple(scores),
        sentence=_sentence(verdict, configured, best, confidence),
    )


def _verdict(configured: OrientationScore, scores: list[OrientationScore]) -> Verdict:
    best = scores[0]
    if all(score.error < SHARP_ENOUGH and INVERSE_PART < score.part < NO_PART for score in scores):
        return "corrected"
    if abs(best.sigma) < SURE_SIGMA:
        return "unclear"
    if best.part < 0:
        return "inverse" if best.part < INVERSE_PART else "unclear"
    if best.ahead_of(configured) >= SURE_SIGMA:
        return "other"
    return "ok" if configured.sigma >= SURE_SIGMA else "unclear"


def _sentence(
    verdict: Verdict, configured: OrientationScore, best: OrientationScore, confidence: float
) -> str:
    return {
        "ok": f"the gain reference lies the right way ({configured}): the movies show {configured.part:.0%} of its "
        f"pattern, {configured.sigma:.0f} standard deviations above chance",
        "other": f"the gain reference lies the WRONG WAY ({configured}): set {best}, with which the movies show "
        f"{best.part:.0%} of its pattern, {confidence:.0f} standard deviations more",
        "inverse": f"the reciprocal of the gain reference fits the movies, with {best} ({confidence:.0f} standard "
        "deviations): change gain_kind (factor, response), or make the factor of it with "
        "`komad gain convert --reciprocal`",
        "corrected": "the movies show nothing of the pattern of the gain reference, however it is turned: they are "
        "corrected already (then configure no gain), or it is of another camera or mode",
        "unclear": "whether the gain reference lies the right way cannot be told: too few counts, or it is too even; "
        "`komad gain check` can take more movies",
    }[verdict]


def orientation_scores(
    total: npt.NDArray[Any],  # (ny, nx)
    gain: FloatArray,  # (ny, nx) or (nx, ny), as it is in its file
) -> list[OrientationScore]:
    """How much of the gain's pattern `total` shows in each of 8 orientations; 4 unless the frames are square.

    In blocks spread over the field, total and 1/gain are divided by their local means, and the regression coefficient
    of one on the other is the part. Single Fourier components of 1/gain that stand out, which are lines and what
    repeats itself, count no more than others: they agree by chance too often. The same coefficient at thousands of
    wrong displacements is what chance gives.

    Raises
    ------
    ReferenceFileError
        No orientation has the size of the movies.
    """
    if sorted(total.shape) != sorted(gain.shape):
        raise ReferenceFileError(
            f"the gain reference is {gain.shape[1]} x {gain.shape[0]} pixels, the frames are "
            f"{total.shape[1]} x {total.shape[0]}; give the reference of this camera and mode"
        )
    places = list(_blocks(total.shape))
    details = [_details(total[place].astype(np.float32)) for place in places]
    seen = [fft.rfft2(values) for values in details]
    ways = [(rot, flip) for rot in range(4) for flip in (0, 1)]
    if total.shape[0] != total.shape[1]:
        ways = [(rot, flip) for rot, flip in ways if np.rot90(gain, -rot).shape == total.shape]

    def score(way: tuple[int, int]) -> OrientationScore:
        turned = orient(gain, gain_rot=way[0], gain_flip=way[1])
        correlation, power = 0.0, 0.0
        for place, transform in zip(places, seen, strict=True):
            response = fft.rfft2(_details(reciprocal(turned[place])))
            evened = np.conj(_without_peaks(response))
            correlation = correlation + transform * evened
            power = power + response * evened
        part, chance = _at_rest_and_elsewhere(
            *(fft.irfft2(each, s=details[0].shape) for each in (correlation, power))
        )
        return OrientationScore(gain_rot=way[0], gain_flip=way[1], part=part, error=chance)

    return list(thread_pool().map(score, ways))


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Blocks of one size, evenly spread; fewer where the field is small."""
    starts = []
    length = min(BLOCK, *shape)
    for size in shape:
        n = min(BLOCKS_PER_AXIS, size // length)
        starts.append(np.linspace(0, size - length, n).round().astype(int))
    for y in starts[0]:
        for x in starts[1]:
            yield slice(y, y + length), slice(x, x + length)


def _details(values: FloatArray) -> FloatArray:
    """What differs from pixel to pixel, relative to the local mean; zero at outliers and where there is no mean."""
    values = without_outliers(values)
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    mean = uniform_filter(filled, BOX) / np.maximum(uniform_filter(known.astype(np.float32), BOX), 1e-6)
    known &= mean > 0
    relative = np.where(known, filled / np.where(known, mean, 1) - 1, np.nan)
    return np.nan_to_num(without_outliers(relative), nan=0.0)


def without_outliers(values: FloatArray) -> FloatArray:
    """NaN instead of what lies far from the median."""
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    low, centre, high = np.quantile(known, [0.25, 0.5, 0.75])
    spread = (high - low) / 1.349 or float(known.std(dtype=np.float64))  # few counts: both quartiles are one
    return np.where(np.abs(values - centre) <= CLIP * spread, values, np.float32(np.nan))


def _without_peaks(transform: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Fourier components limited in amplitude to a few times the mean."""
    amplitude = np.abs(transform)
    limit = PEAK * amplitude.mean()
    return transform * (limit / np.maximum(amplitude, max(limit, np.float32(1e-12))))


def _at_rest_and_elsewhere(correlation: FloatArray, power: FloatArray) -> tuple[float, float]:
    """Regression coefficient without displacement, and its standard deviation at others: what chance gives.

    Displacements along a column or a row are left out, as lines are like themselves there, and small ones.
    """
    if power[0, 0] <= 0 or min(correlation.shape) < SMALLEST_LENGTH:
        return 0.0, math.inf
    elsewhere = correlation[BOX:-BOX, BOX:-BOX]
    return float(correlation[0, 0] / power[0, 0]), float(elsewhere.std() / power[0, 0]) or math.inf
