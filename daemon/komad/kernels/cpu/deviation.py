"""How far each pixel of a stack sum lies from what is usual around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.kernels.cpu.bands import BAND_ROWS, FloatArray, jit, over_bands
from komad.kernels.levels import BLOCK, HISTOGRAM_EDGES, CorrectedStack, Levels
from komad.kernels.plan import FrameSums

CLIP = 4.0
"""Standard deviations from the mean of a block beyond which values do not count for it."""
CLIP_ROUNDS = 8
MOST_SKEW = 0.5
MOST = 1e18
"""Larger values are not numbers to reckon with: their squares overflow."""
NEIGHBOURS_LIKE_IT = 9
"""Of the 24 pixels around an outlier, at most as many are like it: two bad columns side by side. More, and it is
something wider than the point spread: part of the specimen."""
N_BINS = len(HISTOGRAM_EDGES) - 1
HIGHEST = float(HISTOGRAM_EDGES[-1])


def block_levels(stack: CorrectedStack) -> npt.NDArray[np.float64]:
    """See `komad.kernels.block_levels`."""
    ny, nx = stack.total.shape
    found = np.full((3, -(-ny // BLOCK), -(-nx // BLOCK)), np.nan)

    def work(y0: int, y1: int) -> None:
        _levels_of_band(
            stack.total, stack.gain, stack.offset, np.float32(stack.n_frames), y0, y1, found[:, y0 // BLOCK]
        )

    over_bands(work, ny, BLOCK)
    return found


@jit
def _levels_of_band(total: Any, gain: Any, offset: Any, n_frames: Any, y0: int, y1: int, found: Any) -> None:
    nx = total.shape[1]
    values, weights = np.empty(BLOCK * BLOCK, np.float32), np.empty(BLOCK * BLOCK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for block in range(found.shape[1]):
        n, step = 0, zero
        # Every other row is enough.
        for y in range(y0, y1, 2):
            for x in range(block * BLOCK, min((block + 1) * BLOCK, nx)):
                value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
                is_known = gain[y, x] > 0
                # What is not a number lies within no limits.
                values[n] = value if is_known else np.float32(np.nan)
                weights[n] = one / gain[y, x] if is_known else zero
                step = max(step, gain[y, x])
                n += 1
        low, high = np.float32(-MOST), np.float32(MOST)
        n_before = zero
        for _ in range(CLIP_ROUNDS):
            sum_in, n_in = zero, zero
            for i in range(n):
                is_in = (values[i] >= low) & (values[i] <= high)
                sum_in += values[i] if is_in else zero
                n_in += one if is_in else zero
            if n_in in (zero, n_before):
                break
            n_before = n_in
            mean = sum_in / n_in
            square, per_gain = zero, zero
            for i in range(n):
                is_in = (values[i] >= low) & (values[i] <= high)
                distance = (values[i] - mean) * (values[i] - mean) if is_in else zero
                square += distance
                per_gain += distance * weights[i]
            found[0, block], found[1, block], found[2, block] = mean, square / n_in, per_gain / n_in
            # Among very few electrons a single one is no outlier.
            width = np.float32(CLIP) * np.sqrt(square / n_in) + step
            low, high = mean - width, mean + width


def deviation_histogram(stack: CorrectedStack, levels: Levels, stride: int) -> npt.NDArray[np.int64]:
    """See `komad.kernels.deviation_histogram`."""
    rows = np.arange(0, len(stack.total), stride)

    def work(start: int, stop: int) -> Any:
        return _histogram_of_rows(
            stack.total,
            stack.gain,
            stack.offset,
            np.float32(stack.n_frames),
            *_arguments(levels),
            rows[start:stop],
        )

    return np.sum(over_bands(work, len(rows), max(1, BAND_ROWS // stride)), axis=0)


def _arguments(levels: Levels) -> tuple[FloatArray, FloatArray, bool, np.float32, np.float32]:
    return levels.mean, levels.unit, levels.is_counts, np.float32(levels.step), np.float32(levels.ceiling)


@jit
def _histogram_of_rows(
    total: Any,
    gain: Any,
    offset: Any,
    n_frames: Any,
    means: Any,
    units: Any,
    is_counts: bool,
    step: Any,
    ceiling: Any,  # noqa: ARG001 - the levels go together
    rows: Any,
) -> Any:
    nx = total.shape[1]
    mean, unit = np.empty(nx, np.float32), np.empty(nx, np.float32)
    histogram = np.zeros(N_BINS + 2, np.int64)
    for y in rows:
        _interpolate(means, y, mean)
        _interpolate(units, y, unit)
        for x in range(nx):
            value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
            if gain[y, x] > 0 and np.isfinite(value):
                # A count stands for all values within half a count; Knuth's hash says for which.
                part = np.float32((x * 2654435761 + y * 40503) >> 7 & 0xFFFF) / np.float32(65536)
                value += (part - np.float32(0.5)) * step * gain[y, x]
                sigma = _deviation(value, mean[x], unit[x], gain[y, x], np.float32(0), is_counts)
                place = np.floor((sigma + HIGHEST) * (N_BINS / (2 * HIGHEST)))
                histogram[int(min(max(place, -1), N_BINS)) + 1] += 1
    return histogram


def deviating_pixels(
    stack: CorrectedStack, levels: Levels, dead: float, hot: float
) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """See `komad.kernels.deviating_pixels`."""

    def work(y0: int, y1: int) -> Any:
        return _deviating_in_band(
            stack.total,
            stack.gain,
            stack.offset,
            np.float32(stack.n_frames),
            *_arguments(levels),
            np.float32(dead),
            np.float32(hot),
            y0,
            y1,
        )

    places, sigmas = zip(*over_bands(work, len(stack.total), BAND_ROWS), strict=True)
    return np.concatenate(places), np.concatenate(sigmas)


@jit
def _deviating_in_band(
    total: Any,
    gain: Any,
    offset: Any,
    n_frames: Any,
    means: Any,
    units: Any,
    is_counts: bool,
    step: Any,
    ceiling: Any,
    dead: Any,
    hot: Any,
    y0: int,
    y1: int,
) -> Any:
    nx = total.shape[1]
    mean, unit, is_far = np.empty(nx, np.float32), np.empty(nx, np.float32), np.empty(nx, np.uint8)
    # A deviation is at most 1.42 of the distance over its width below the mean, and at most a half more than it above.
    below, above = np.float32(0.5) * dead * dead, max(hot - np.float32(MOST_SKEW), np.float32(0)) ** 2
    places, sigmas = np.empty(((y1 - y0) * nx, 2), np.int32), np.empty((y1 - y0) * nx, np.float32)
    n = 0
    for y in range(y0, y1):
        _interpolate(means, y, mean)
        _interpolate(units, y, unit)
        for x in range(nx):
            value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
            variance = unit[x] * mean[x] * gain[y, x] if is_counts else unit[x]
            distance = value - mean[x]
            limit = (below if distance < 0 else above) * variance
            # Written so that what is not a number is far, too.
            is_far[x] = not ((distance * distance <= limit) & (gain[y, x] > 0))
        for x in range(nx):
            if not is_far[x]:
                continue
            value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
            sigma = np.float32(np.nan)
            if gain[y, x] > 0 and np.isfinite(value):
                usual = mean[x]
                sigma = _deviation(value, usual, unit[x], gain[y, x], step / 2, is_counts)
                if -dead < sigma < hot:
                    continue
                near = _usual_near(total, gain, offset, n_frames, y, x, value, usual)
                beyond = max(usual, min(near, ceiling)) if value > usual else min(usual, near)
                if (value > usual) != (value > beyond) or (is_counts and beyond <= 0):
                    continue
                sigma = _deviation(value, beyond, unit[x], gain[y, x], step / 2, is_counts)
                if -dead < sigma < hot:
                    continue
            places[n, 0], places[n, 1], sigmas[n] = y, x, sigma
            n += 1
    return places[:n].copy(), sigmas[:n].copy()


def flashing_pixels(
    sums: FrameSums, stack: CorrectedStack, *, unit: float, is_counts: bool, brightest: float, sigma: float
) -> npt.NDArray[np.int32]:
    """See `komad.kernels.flashing_pixels`."""

    def work(y0: int, y1: int) -> Any:
        return _flashing_in_band(
            sums.total,
            sums.largest,
            stack.gain,
            stack.offset,
            np.float32(stack.n_frames),
            np.float32(unit),
            is_counts,
            np.float32(brightest),
            np.float32(sigma**2),
            y0,
            y1,
        )

    return np.concatenate(over_bands(work, len(stack.total), BAND_ROWS))


@jit
def _flashing_in_band(
    total: Any,
    largest: Any,
    gain: Any,
    offset: Any,
    n_frames: Any,
    unit: Any,
    is_counts: bool,
    brightest: Any,
    far: Any,
    y0: int,
    y1: int,
) -> Any:
    nx = total.shape[1]
    is_far = np.empty(nx, np.uint8)
    places = np.empty(((y1 - y0) * nx, 2), np.int32)
    n, zero, one = 0, np.float32(0), np.float32(1)
    for y in range(y0, y1):
        for x in range(nx):
            most = np.float32(largest[y, x])
            rest = (np.float32(total[y, x]) - most) / (n_frames - one) * gain[y, x] + offset[y, x]
            electron = unit * gain[y, x]
            expected = max(rest, electron / n_frames) * brightest if is_counts else rest
            variance = electron * expected if is_counts else unit / n_frames
            distance = max(most * gain[y, x] + offset[y, x] - expected, zero)
            is_far[x] = (distance * distance > far * variance) & (gain[y, x] > 0)
        for x in range(nx):
            if is_far[x]:
                places[n, 0], places[n, 1] = y, x
                n += 1
    return places[:n].copy()


@jit
def _interpolate(blocks: Any, y: int, row: Any) -> None:
    """Fill `row` with row y of what is bilinear between the centres of blocks, and constant beyond the outer ones."""
    last_y, last_x = blocks.shape[0] - 1, blocks.shape[1] - 1
    v = min(max((y + 0.5) / BLOCK - 0.5, 0.0), last_y)
    above = min(int(v), max(last_y - 1, 0))
    below = min(above + 1, last_y)
    part = np.float32(v - above)
    for block in range(-1, last_x + 1):
        a, b = max(block, 0), min(block + 1, last_x)
        left = blocks[above, a] + part * (blocks[below, a] - blocks[above, a])
        right = blocks[above, b] + part * (blocks[below, b] - blocks[above, b])
        slope = (right - left) / np.float32(BLOCK)
        begin = block * BLOCK + BLOCK // 2
        for x in range(max(begin, 0), min(begin + BLOCK, len(row))):
            row[x] = left + slope * (np.float32(x - begin) + np.float32(0.5))


@jit
def _deviation(value: Any, mean: Any, unit: Any, gain: Any, half: Any, is_counts: bool) -> Any:
    """Standard deviations of a normal distribution that are as rare as `value`, or one farther away, is by counting.

    Signed root of the deviance of a Poisson distribution, with its mean corrected, and, if asked for by `half` a raw
    step, for its being discrete. Within 0.1 of the true quantile from a mean of one electron, 0.3 from a tenth.
    """
    if not is_counts:
        return (value - mean) / np.sqrt(unit)
    electron = unit * gain
    towards = half * gain
    if value > mean:
        value = max(value - towards, mean)
    else:
        value = max(min(value + towards, mean), np.float32(0))
    deviance = mean - value
    if value > 0:
        deviance += value * np.log(value / mean)
    root = np.sqrt(max(2 * deviance / electron, np.float32(0)))
    return (root if value > mean else -root) + min(np.sqrt(electron / mean) / 6, np.float32(MOST_SKEW))


@jit
def _usual_near(
    total: Any, gain: Any, offset: Any, n_frames: Any, y: int, x: int, value: Any, usual: Any
) -> Any:
    """What the 5 x 5 pixels around let expect if NEIGHBOURS_LIKE_IT of them were bad as well."""
    ny, nx = total.shape
    sign = np.float32(1) if value > usual else np.float32(-1)
    highest = np.full(NEIGHBOURS_LIKE_IT + 1, np.float32(-np.inf))
    n = 0
    for yy in range(max(y - 2, 0), min(y + 3, ny)):
        for xx in range(max(x - 2, 0), min(x + 3, nx)):
            near = sign * (np.float32(total[yy, xx]) * gain[yy, xx] + offset[yy, xx] * n_frames)
            if (yy != y or xx != x) and gain[yy, xx] > 0 and np.isfinite(near):
                n += 1
                if near > highest[-1]:
                    place = NEIGHBOURS_LIKE_IT
                    while place > 0 and near > highest[place - 1]:
                        highest[place] = highest[place - 1]
                        place -= 1
                    highest[place] = near
    return sign * highest[n * NEIGHBOURS_LIKE_IT // 24] if n > 0 else usual
