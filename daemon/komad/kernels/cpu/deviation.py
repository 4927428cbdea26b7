"""How far each pixel of a stack sum lies from what is usual around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.kernels.cpu.bands import BAND_ROWS, FloatArray, jit, over_bands
from komad.kernels.levels import BLOCK, HISTOGRAM_EDGES, CorrectedStack, Levels
from komad.kernels.plan import FrameSums

CLIP = 3.0
"""Standard deviations from the mean of a block beyond which values do not count for it."""
CLIP_ROUNDS = 8
MOST = np.float32(1e18)
"""Larger values are no numbers to reckon with: their squares overflow."""
NEIGHBOURS_LIKE_IT = 9
"""Of the 24 pixels around an outlier, at most as many are like it: two bad columns side by side. More, and it is
something wider than the point spread: part of the specimen."""
FEWEST_ELECTRONS = 1 / BLOCK**2
"""Expected of a pixel at least: one in a block."""
N_BINS = len(HISTOGRAM_EDGES) - 1
HIGHEST = float(HISTOGRAM_EDGES[-1])


def block_levels(stack: CorrectedStack) -> npt.NDArray[np.float64]:
    """See `komad.kernels.block_levels`."""
    ny, nx = stack.total.shape
    found = np.full((4, -(-ny // BLOCK), -(-nx // BLOCK)), np.nan)

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
        n, step, pedestal, n_known = 0, zero, zero, zero
        # Every other row is enough.
        for y in range(y0, y1, 2):
            for x in range(block * BLOCK, min((block + 1) * BLOCK, nx)):
                value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
                is_known = gain[y, x] > 0
                # What is not a number lies within no limits.
                values[n] = value if is_known else np.float32(np.nan)
                weights[n] = one / gain[y, x] if is_known else zero
                step = max(step, gain[y, x])
                pedestal -= offset[y, x] * n_frames if is_known else zero
                n_known += one if is_known else zero
                n += 1
        low, high = -MOST, MOST
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
            found[0, block], found[1, block] = mean, pedestal / n_known
            found[2, block], found[3, block] = square / n_in, per_gain / n_in
            # Among very few electrons a single one is no outlier.
            width = np.float32(CLIP) * np.sqrt(square / n_in) + step
            low, high = mean - width, mean + width


def deviation_histogram(stack: CorrectedStack, levels: Levels, stride: int) -> npt.NDArray[np.int64]:
    """See `komad.kernels.deviation_histogram`."""
    rows = np.arange(0, len(stack.total), stride)

    def work(start: int, stop: int) -> Any:
        return _histogram_of_rows(
            *_arguments(stack, levels),
            rows[start:stop],
        )

    return np.sum(over_bands(work, len(rows), max(1, BAND_ROWS // stride)), axis=0)


def _arguments(stack: CorrectedStack, levels: Levels) -> tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any]:
    """What the loops below take first: total, gain, offset, n_frames, means, units, is_counts, step, ceiling."""
    of_stack = stack.total, stack.gain, stack.offset, np.float32(stack.n_frames)
    return (
        *of_stack,
        levels.mean,
        levels.unit,
        levels.is_counts,
        np.float32(levels.step),
        np.float32(levels.ceiling),
    )


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
            if gain[y, x] > 0 and abs(value) < MOST:
                # A count stands for all values within half a count; Knuth's hash says for which.
                part = np.float32((x * 2654435761 + y * 40503) >> 7 & 0xFFFF) / np.float32(65536)
                value += (part - np.float32(0.5)) * step * gain[y, x]
                pedestal = -offset[y, x] * n_frames
                electron = unit[x] * gain[y, x] if is_counts else unit[x]
                sigma = _deviation(value, mean[x], pedestal, electron, np.float32(0), is_counts)
                place = np.floor((sigma + HIGHEST) * (N_BINS / (2 * HIGHEST)))
                histogram[int(min(max(place, -1), N_BINS)) + 1] += 1
    return histogram


def deviating_pixels(
    stack: CorrectedStack, levels: Levels, dead: float, hot: float
) -> tuple[npt.NDArray[np.int32], FloatArray]:
    """See `komad.kernels.deviating_pixels`."""

    def work(y0: int, y1: int) -> Any:
        return _deviating_in_band(
            *_arguments(stack, levels),
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
    # A deviation is at most 1.42 of the distance over its width below the mean, and never more than it above.
    below, above = np.float32(0.5) * dead * dead, hot * hot
    places, sigmas = np.empty(((y1 - y0) * nx, 2), np.int32), np.empty((y1 - y0) * nx, np.float32)
    n = 0
    for y in range(y0, y1):
        _interpolate(means, y, mean)
        _interpolate(units, y, unit)
        for x in range(nx):
            value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
            variance = unit[x]
            if is_counts:
                variance *= gain[y, x] * (mean[x] - offset[y, x] * n_frames)
            distance = value - mean[x]
            limit = (below if distance < 0 else above) * variance
            # Written so that what is not a number is far, too.
            is_far[x] = not ((distance * distance <= limit) & (gain[y, x] > 0))
        for x in range(nx):
            if not is_far[x]:
                continue
            value = np.float32(total[y, x]) * gain[y, x] + offset[y, x] * n_frames
            sigma = np.float32(np.nan)
            if gain[y, x] > 0 and abs(value) < MOST:
                usual, pedestal, electron = mean[x], -offset[y, x] * n_frames, unit[x]
                if is_counts:
                    electron *= gain[y, x]
                half = step * gain[y, x] / 2
                sigma = _deviation(value, usual, pedestal, electron, half, is_counts)
                if -dead < sigma < hot:
                    continue
                near = _usual_near(total, gain, offset, n_frames, y, x, value, usual)
                beyond = max(usual, min(near, ceiling)) if value > usual else min(usual, near)
                if (value > usual) != (value > beyond):
                    continue
                sigma = _deviation(value, beyond, pedestal, electron, half, is_counts)
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
            expected = (np.float32(total[y, x]) - most) / (n_frames - one)
            if is_counts:
                # Raw, because the gain is in both, and with the dark, which is counted, too.
                expected = max(expected, unit / n_frames) * brightest
                distance, variance = max(most - expected, zero), unit * expected
            else:
                distance, variance = max(most - expected, zero) * gain[y, x], unit / n_frames
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
def _deviation(value: Any, mean: Any, pedestal: Any, electron: Any, half: Any, is_counts: bool) -> Any:
    """Standard deviations of a normal distribution that are as rare as `value`, or one farther away, is by counting.

    The modified signed root of Poisson's deviance (Barndorff-Nielsen 1986), r + log(p / r) / r with Pearson's residual
    p, for values half a step nearer to the mean, because counts are discrete: within 0.05 of the true quantile, even
    where a hundredth of an electron is expected. Where not `is_counts`, `electron` is the variance of a normal one.
    """
    if not is_counts:
        return (value - mean) / np.sqrt(electron)
    mean = max((mean + pedestal) / electron, np.float32(FEWEST_ELECTRONS))
    value, half = (value + pedestal) / electron, half / electron
    value = max(value - half, mean) if value > mean else max(min(value + half, mean), np.float32(0))
    deviance = mean - value
    if value > 0:
        deviance += value * np.log(value / mean)
    root = np.sqrt(max(2 * deviance, np.float32(0)))
    root = root if value > mean else -root
    width = np.sqrt(mean)
    if abs(root) < np.float32(0.2):
        return root + np.float32(1 / 6) / width
    return root + np.log((value - mean) / (width * root)) / root


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
            if (yy != y or xx != x) and gain[yy, xx] > 0 and abs(near) < MOST:
                n += 1
                if near > highest[-1]:
                    place = NEIGHBOURS_LIKE_IT
                    while place > 0 and near > highest[place - 1]:
                        highest[place] = highest[place - 1]
                        place -= 1
                    highest[place] = near
    return sign * highest[n * NEIGHBOURS_LIKE_IT // 24] if n > 0 else usual
