"""One shift per frame: found coarsely by correlation, then refined as one maximum-likelihood problem.

Model per coefficient: F_t(k) = q_t(k) s(k) exp(2 pi i k . shift_t) + noise of power N(k), with a specimen s of power
S(k). Integrating over the unknown specimen gives log L = sum over k of |A(k)|² / (N (Q + N / S)), with the aligned sum
A = sum over t of q_t F_t exp(-2 pi i k . shift_t) and Q = sum over t of q_t². S and N come from the movie itself. The
refinement adds a pattern that stays with the detector (`komad.motion.pattern`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, beside, irfft2, namespace, parallel_map, portions, to_host
from komad.motion import pattern
from komad.motion.path_prior import Path, fit_path
from komad.motion.spectra import Rings, Spectra, Statistics, aligned_power, statistics
from komad.motion.weights import Weighting, fisher_information, log_likelihood

FloatArray = npt.NDArray[np.float64]
Result = TypeVar("Result")

COARSE_LENGTH = 256
"""The first search is made on frames of at most this many pixels a side."""
COARSE_ROUNDS = 4
SETTLED_PEAK = 0.25
"""Coarse pixels: the search ends early when no peak moves by more."""
LATTICE_PEAK, LATTICE_GAIN = 0.6, 0.8
"""Parts of the highest peak, and of the gain in log L: what comes so close may be a crystal one unit cell off. Peaks
are compared on the grid, where a sharp one between two pixels loses a third."""
LATTICE_ROUNDS = 8
BYTES_PER_PIXEL = 32
"""What a coarse pixel takes while frames are correlated."""
FIRST_B_FACTOR_ANGSTROM2 = 1500.0
"""Weight exp(-B k² / 4) of the first correlation, when signal and noise are not known yet."""
LARGEST_STEP = 0.5
"""Small pixels. No frame leaps farther at a time: beyond that the likelihood is not quadratic."""
SETTLING_ROUNDS = 3
"""Rounds after which the pattern's power and the strengths of the prior are left as they are."""
EVIDENCE_PER_NUMBER = 0.5
EVIDENCE = 9.0
"""By how much log L must rise for each number that the measurement decides, which is what noise does on average, and
beyond that: the search finds the best of many paths, worth up to 9 in pure noise."""
INFORMATION_KEPT = 0.98
"""Of the Fisher information: finer details than hold this much of it only cost time in what follows."""
LOWEST_BAND, HIGHEST_BAND = 0.2, 0.5
"""Cycles per small pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Whole frames aligned; small pixels."""

    shifts: FloatArray
    """(n_frames, 2), mean 0; all zero when nothing stands out from the noise."""
    error: float
    """Expected RMS error per frame and axis."""
    rounds: int
    supported: bool
    pattern: float
    """Power of the fixed pattern over that of the noise, in the sum of all frames."""
    band: float
    """Cycles per small pixel below which nearly all of the information lies."""


def refine(
    spectra: Spectra,
    plain_sum: Array,
    start: FloatArray,
    *,
    moments: FloatArray,
    weighting: Weighting,
    trusted: bool,
    max_rounds: int,
    tolerance: float,
) -> Alignment:
    """Fisher scoring on all shifts at once, with a prior on the path whose strength is fitted.

    Parameters
    ----------
    spectra : of whole frames, one window.
    plain_sum : (my, mx) sum of the frames as they lie on the detector, transformed alike, without q.
    start : (n_frames, 2) shifts to start from, small pixels.
    moments : (n_frames,) exposure in the middle of each frame, e/Å².
    weighting : how much each frequency counts; the pattern is modelled under optimal weights only.
    trusted : whether motion is known to stand out from the noise.
    max_rounds, tolerance : the end: so many rounds, or no frame moving by more than this (small pixels).
    """
    shifts = start - start.mean(axis=0)
    level = spectra.rings.picture(spectra.q)[None].astype(np.complex64)
    path: Path | None = None
    ratio, rounds = 0.0, 0
    while rounds < max_rounds:
        rounds += 1
        aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, shifts[None])
        power = aligned_power(aligned, spectra)
        found = statistics(power, spectra)
        if weighting.kind == "optimal":
            overlap = kernels.aligned_sum(level, spectra.rings.ky, spectra.rings.kx, shifts[None])
            sums = pattern.Sums(aligned=aligned[0], plain=plain_sum, overlap=overlap[0])
            # What the pattern adds to |A|² beyond what noise of its power would is no signal.
            held = (aligned_power(overlap, spectra) - spectra.total_q) / len(shifts)
            found = statistics(power - ratio * found.noise * held, spectra)
            if rounds <= SETTLING_ROUNDS:
                ratio = pattern.fit_ratio(sums, found, spectra)
                found = statistics(power - ratio * found.noise * held, spectra)
        weight = weighting.weight(found, spectra)
        if ratio > 0:
            pull, static = pattern.pulls(ratio, sums, found, spectra)
            gradient = _gradient(spectra.values, spectra, shifts, pull) - _gradient(
                level, spectra, shifts, static
            )
        else:
            gradient = _gradient(
                spectra.values, spectra, shifts, aligned[0] * spectra.rings.picture(weight[0])
            )
        fisher = fisher_information(weight, found, spectra)[0]
        path = fit_path(
            fisher,
            fisher @ shifts + gradient * spectra.share,
            moments,
            angstrom=weighting.small_pixel,
            strengths=None if path is None else path.strengths,
            settled=rounds > SETTLING_ROUNDS,
        )
        step = path.shifts - shifts
        step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        shifts = shifts + step
        if np.abs(step).max() < tolerance:
            break
    assert path is not None
    variance = np.diag(path.covariance) - path.covariance.mean()
    supported = trusted or _evidence(spectra, shifts) > EVIDENCE + EVIDENCE_PER_NUMBER * path.n_determined
    return Alignment(
        shifts=shifts if supported else np.zeros_like(shifts),
        error=float(np.sqrt(max(variance.mean(), 0.0))),
        rounds=rounds,
        supported=supported,
        pattern=ratio,
        band=_band(weight, found, spectra),
    )


def _band(weight: FloatArray, found: Statistics, spectra: Spectra) -> float:
    """Frequency below which INFORMATION_KEPT of the Fisher information lies; all where there is none."""
    part = (
        weight[0]
        * found.signal[0]
        * spectra.rings.count
        * np.square(spectra.total_q * spectra.rings.frequency)
    )
    if not part.sum() > 0:
        return HIGHEST_BAND
    enough = int(np.searchsorted(np.cumsum(part), INFORMATION_KEPT * part.sum()))
    band = 1.1 * float(spectra.rings.frequency[enough])
    # What was not looked at may inform too.
    return HIGHEST_BAND if band > spectra.rings.kx[-1] else max(band, LOWEST_BAND)


def _gradient(values: Array, spectra: Spectra, shifts: FloatArray, pull: Array) -> FloatArray:
    """(n_frames, 2)."""
    return kernels.alignment_gradient(values, spectra.rings.ky, spectra.rings.kx, shifts[None], pull[None])[0]


def _evidence(spectra: Spectra, shifts: FloatArray) -> float:
    """By how much `shifts` are likelier than none at all."""
    return _fit(spectra, shifts)[1] - _fit(spectra, np.zeros_like(shifts))[1]


def _fit(spectra: Spectra, shifts: FloatArray) -> tuple[Statistics, float]:
    """The statistics that suit the shifts best, and log L with them."""
    aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, shifts[None])
    power = aligned_power(aligned, spectra)
    found = statistics(power, spectra)
    return found, log_likelihood(power, found, spectra)


def search(spectra: Spectra, *, small_pixel: float, max_shift: float) -> FloatArray:
    """Shifts (n_frames, 2) to start from, on a coarse grid; small pixels.

    Searched from two starts, no motion and an even drift, of which the likelier end counts: in a long even drift no
    frame resembles the plain sum, and frames that find different others end in groups that are aligned in themselves
    only. Peaks over a wide window are found in noise too. They are believed when they raise the likelihood by more
    than the best of as many random positions would; otherwise all shifts are zero, and the refinement starts there.
    """
    coarse, scale = _crop(spectra, COARSE_LENGTH)
    n_frames = coarse.values.shape[1]
    weight = np.exp(
        -FIRST_B_FACTOR_ANGSTROM2 / 4 * np.square(coarse.rings.frequency / (small_pixel * scale[1]))
    )
    power = coarse.power.sum(axis=0)
    weight = weight / np.maximum(power, power.max() * 1e-12)
    within = _window(coarse.shape, max_shift / float(scale[1]))
    window = beside(coarse.values, within)
    still = np.zeros((n_frames, 2))
    starts = (still, _even_drift(coarse, weight, window))
    ends = [_climb(coarse, start, weight, window) for start in starts]
    likelihoods = [_fit(coarse, shifts)[1] for shifts in (still, *ends)]
    best = int(np.argmax(likelihoods[1:]))
    gain = likelihoods[1 + best] - likelihoods[0]
    if gain < n_frames * (np.log(within.sum()) + 1):
        return still
    shifts = ends[best]
    for _ in range(LATTICE_ROUNDS):
        together = _keep_together(coarse, shifts, window)
        if together is None or np.abs(together - shifts).max() < SETTLED_PEAK:
            break
        if _fit(coarse, together)[1] - likelihoods[0] < LATTICE_GAIN * gain:
            break
        shifts = together
    return shifts * scale


def _keep_together(spectra: Spectra, shifts: FloatArray, window: Array) -> FloatArray | None:
    """The shortest path through peaks that are nearly as high as those at `shifts`; None where there are no others.

    A crystal fits one unit cell off as well: frame by frame, from the middle one, the peak counts that is nearest to
    the frame beside it.
    """
    weight = _fit(spectra, shifts)[0].weight(spectra)[0]
    peaks = [
        peaks
        for some in _with_others(spectra, shifts, weight, partial(_peaks, spectra, window))
        for peaks in some
    ]
    if all(len(of_frame) == 1 for of_frame in peaks):
        return None
    path, middle = shifts.copy(), len(shifts) // 2
    for t in (*range(middle + 1, len(shifts)), *range(middle - 1, -1, -1)):
        beside_it = path[t - 1] if t > middle else path[t + 1]
        path[t] = peaks[t][np.argmin(np.square(peaks[t] - beside_it).sum(axis=1))]
    return path - path.mean(axis=0)


def _even_drift(spectra: Spectra, weight: FloatArray, window: Array) -> FloatArray:
    """Shifts of a specimen that drifts evenly, from the mean correlation of frames half the movie apart."""
    frames = spectra.values[0]
    n_frames, lag = len(frames), len(frames) // 2
    cross = namespace(frames).zeros(frames.shape[1:], np.complex64)
    for some in portions(frames, n_frames - lag, 3 * frames[0].nbytes):
        cross += (frames[some] * frames[lag:][some].conj()).sum(axis=0)
    shift = _highest(spectra, window, (cross * spectra.rings.picture(weight))[None], origin=False)[0]
    return (np.arange(n_frames) - (n_frames - 1) / 2)[:, None] * (shift / lag)


def _climb(spectra: Spectra, shifts: FloatArray, weight: FloatArray, window: Array) -> FloatArray:
    """Whole-frame correlation peaks against the sum of all other frames, in a few rounds."""
    for round_index in range(COARSE_ROUNDS):
        if round_index:
            weight = _fit(spectra, shifts)[0].weight(spectra)[0]
        # While all frames stand where the detector stands, its pattern peaks at the origin.
        highest = partial(_highest, spectra, window, origin=bool(shifts.any()))
        before = shifts
        shifts = np.concatenate(_with_others(spectra, shifts, weight, highest))
        shifts = shifts - shifts.mean(axis=0)
        if round_index and np.abs(shifts - before).max() < SETTLED_PEAK:
            break
    return shifts


def _with_others(
    spectra: Spectra, shifts: FloatArray, weight: FloatArray, find: Callable[[Array], Result]
) -> list[Result]:
    """What is found in the weighted cross spectra (n, my, mx) of frames with all others, which stand at `shifts`.

    A few frames at a time, in order.
    """
    rings, values = spectra.rings, spectra.values
    aligned = kernels.aligned_sum(values, rings.ky, rings.kx, shifts[None])[0]
    on_coefficients = rings.picture(weight)
    wave_y, wave_x = (
        beside(values, np.exp(-2j * np.pi * shifts[:, axis, None] * k).astype(np.complex64))
        for axis, k in enumerate((rings.ky, rings.kx))
    )

    def work(some: slice) -> Result:
        frames = values[0, some]
        moved = frames * (wave_y[some, :, None] * wave_x[some, None, :])
        return find((aligned - moved) * frames.conj() * on_coefficients)

    ny, nx = spectra.shape
    return list(parallel_map(values, work, portions(values, len(shifts), BYTES_PER_PIXEL * ny * nx)))


def _highest(spectra: Spectra, window: Array, cross_spectra: Array, *, origin: bool) -> FloatArray:
    """(n, 2) as (y, x) of the highest correlation in the window, to a fraction of a pixel; `origin`: zero counts."""
    correlation = irfft2(cross_spectra, spectra.shape)
    xp, (n, _, nx) = namespace(correlation), correlation.shape
    if not origin:
        around = [correlation[:, y, x] for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
        correlation[:, 0, 0] = xp.stack(around).mean(axis=0)
    place = np.where(window, correlation, -np.inf).reshape(n, -1).argmax(axis=1)
    return _tops(correlation, xp.arange(n), place // nx, place % nx)[1]


def _peaks(spectra: Spectra, window: Array, cross_spectra: Array) -> list[FloatArray]:
    """For each of n frames (n_peaks, 2) positions of all peaks that are nearly as high as its highest."""
    correlation = irfft2(cross_spectra, spectra.shape)
    xp = namespace(correlation)
    highest = np.where(window, correlation, -np.inf).max(axis=(1, 2), keepdims=True)
    around = correlation
    for axis in (1, 2):
        around = np.maximum(around, np.maximum(np.roll(around, 1, axis), np.roll(around, -1, axis)))
    # At the rim of the window the highest may be no peak.
    is_top = (correlation >= around) | (correlation >= highest)
    is_high = correlation >= np.minimum(LATTICE_PEAK * highest, highest)
    frame, tops = _tops(correlation, *xp.nonzero(window & is_high & is_top))
    return [tops[frame == t] for t in range(len(correlation))]


def _tops(correlation: Array, t: Array, y: Array, x: Array) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """(n,) frames t, and (n, 2) positions of their peaks at pixels (y, x) to a fraction of a pixel, on the host."""
    xp, (_, ny, nx) = namespace(correlation), correlation.shape
    steps = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    near = [correlation[t, (y + dy) % ny, (x + dx) % nx] for dy, dx in steps]
    # All in one array: one transfer.
    t, y, x, at, above, below, left, right = to_host(xp.stack([t, y, x, *near]).astype(np.float64))
    tops = np.stack([_vertex(y, ny, above, at, below), _vertex(x, nx, left, at, right)], axis=1)
    return t.astype(np.intp), tops


def _vertex(peak: FloatArray, n: int, before: FloatArray, at: FloatArray, after: FloatArray) -> FloatArray:
    """Position of the parabola through a peak and its neighbours, wrapped to [-n/2, n/2)."""
    curvature = before - 2 * at + after
    fraction = 0.5 * (before - after) / np.where(curvature < 0, curvature, -np.inf)
    return np.asarray((peak + fraction + n / 2) % n - n / 2)


def _window(shape: tuple[int, int], radius: float) -> npt.NDArray[np.bool_]:
    """Shifts within `radius`, in the order of an inverse transform; at least the nearest neighbours."""
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
    return np.hypot(y[:, None], x[None, :]) <= max(radius, 1.5)


def _crop(spectra: Spectra, length: int) -> tuple[Spectra, FloatArray]:
    """The same spectra on a coarser grid of about `length` pixels a side, and its (y, x) pixel in small pixels."""
    rings, (ny, nx) = spectra.rings, spectra.shape
    factor = max(1, -(-max(ny, nx) // length))
    my, mx = (2 * max(1, n // factor // 2) for n in (ny, nx))
    order = np.round(rings.ky * ny)
    rows = np.flatnonzero((order >= -my // 2) & (order < my // 2))
    columns, there = slice(0, mx // 2 + 1), beside(spectra.values, rows)
    scale_y, scale_x = ny / my, nx / mx
    ring = np.take(rings.index[:, columns], there, axis=0)
    # The new Nyquist lines hold one half of a pair only.
    ring[my // 2, :] = -1
    ring[:, -1] = -1
    values = beside(spectra.values, spectra.values[:, :, there, columns])
    values *= ring >= 0
    plan = kernels.ring_plan(ring, len(rings.count))
    (count,) = kernels.ring_sums(namespace(ring).ones((1, *ring.shape), np.float32), plan, len(rings.count))
    coarse = replace(
        spectra,
        values=values,
        rings=Rings(
            ky=(rings.ky[rows] * scale_y).astype(np.float32),
            kx=(rings.kx[columns] * scale_x).astype(np.float32),
            index=ring,
            plan=plan,
            frequency=rings.frequency * scale_x,
            count=count,
        ),
        shape=(my, mx),
    )
    return coarse, np.array([scale_y, scale_x])
