"""One shift per frame: found coarsely by correlation, then refined as one maximum-likelihood problem.

Model per coefficient: F_t(k) = q_t(k) S(k)^(1/2) a(k) exp(2 pi i k . shift_t) + noise of power N(k). Integrating
over the unknown specimen a(k) gives log L = sum over k of |A(k)|^2 / (N (Q + N / S)), with the aligned sum
A = sum over t of q_t F_t exp(-2 pi i k . shift_t) and Q = sum over t of q_t^2. S and N come from the movie itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import scipy.fft

from komad import kernels
from komad.arrays import thread_pool
from komad.errors import MotionError
from komad.model.motion import MotionModel
from komad.motion.spectra import Spectra, ring_mean, signal_and_noise, total_power

FloatArray = npt.NDArray[np.float64]

COARSE_LENGTH = 256
"""The first search is made on frames of at most this many pixels a side."""
COARSE_ROUNDS = 4
FIRST_B_FACTOR_ANGSTROM2 = 1500.0
"""Weight exp(-B k^2 / 4) of the first correlation, when signal and noise are not known yet."""
MAX_ROUNDS = 12
FIRST_BEND_ANGSTROM = 1.0
"""Standard deviation of the second differences that the refinement starts from; then it is fitted."""
PRIOR_STEPS = 10
"""Expectation-maximisation steps for the strength of the prior in each round."""
TOLERANCE_PX = 0.005
"""Refinement ends when no frame moves by more than this (pixels of the movie as read)."""
EARLY_FRAMES_MIN = 3
EVIDENCE_PER_SHIFT = 1.5
"""By how much log L must rise per fitted number; noise alone raises it by one half on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Information:
    weight: npt.NDArray[np.float32]
    """(n_rings,) weight of |A|^2 in log L."""
    fisher: FloatArray
    """(n_frames, n_frames) Fisher information of the shifts along one axis, per small px^2."""


def estimate_global_shifts(
    spectra: Spectra,
    *,
    binning: int,
    pixel_size_angstrom: float,
    max_shift_angstrom: float,
    n_early: int,
) -> MotionModel:
    """Shift of each frame that makes all frames coincide with the first.

    Parameters
    ----------
    spectra : transforms of the small frames.
    binning : pixels of the movie per small pixel.
    pixel_size_angstrom : of the movie as read.
    max_shift_angstrom : largest shift between any two frames.
    n_early : frames exposed to less than about 4 e/Å², which move faster than the others.

    Returns
    -------
    MotionModel with shifts (n_frames, 2) in pixels of the movie as read, the first being zero; all of them zero,
    and `supported` false, when the movie does not say more than noise would.

    Raises
    ------
    MotionError
        The frames hold no numbers to align (NaN, or all pixels equal).
    """
    n_frames = len(spectra.values)
    if n_frames == 1:
        return MotionModel(
            shifts_px=np.zeros((1, 2)),
            shift_error_px=float("nan"),
            n_iterations=0,
            kind="none",
            reason="only one frame",
        )
    power = total_power(spectra)
    if not np.isfinite(power).all() or not power.any():
        raise MotionError(
            "the frames hold no picture (all pixels equal, or not numbers); check the gain reference"
        )
    small_pixel = binning * pixel_size_angstrom
    max_shift = max_shift_angstrom / small_pixel
    shifts = _search(spectra, small_pixel=small_pixel, max_shift=max_shift)
    shifts, error, rounds = _refine(
        spectra,
        shifts,
        power,
        tolerance=TOLERANCE_PX / binning,
        n_early=n_early,
        first_bend=FIRST_BEND_ANGSTROM / small_pixel,
        spread=max_shift / 4,
    )
    still = np.zeros_like(shifts)
    evidence = _log_likelihood(spectra, shifts, power) - _log_likelihood(spectra, still, power)
    supported = evidence > EVIDENCE_PER_SHIFT * 2 * (n_frames - 1)
    if not supported:
        shifts = still
    return MotionModel(
        shifts_px=(shifts - shifts[0]) * binning,
        shift_error_px=error * binning,
        n_iterations=rounds,
        kind="global" if supported else "none",
        reason="" if supported else "no motion stands out from the noise",
    )


def _search(spectra: Spectra, *, small_pixel: float, max_shift: float) -> FloatArray:
    """Shifts to start from, on a coarse grid; small pixels.

    Searched from two starts, no motion and an even drift, of which the likelier end counts: in a long even drift no
    frame resembles the plain sum, and frames that find different others end in groups that are aligned in themselves
    only. Peaks over a wide window are found in noise too. They are believed when they raise the likelihood by more
    than the best of as many random positions would; otherwise all shifts are zero, and the refinement starts there.
    """
    coarse, scale = _crop(spectra, COARSE_LENGTH)
    n_frames = len(coarse.values)
    power = total_power(coarse)
    weight = np.exp(
        -FIRST_B_FACTOR_ANGSTROM2 / 4 * np.square(coarse.ring_frequency / (small_pixel * scale[1]))
    )
    weight = weight / np.maximum(power, power.max() * 1e-12)
    window = _window(coarse.shape, max_shift / float(scale[1]))
    still = np.zeros((n_frames, 2))
    starts = (still, _even_drift(coarse, weight, window))
    ends = [_climb(coarse, start, power, weight, window) for start in starts]
    likelihoods = [_log_likelihood(coarse, shifts, power) for shifts in (still, *ends)]
    best = int(np.argmax(likelihoods[1:]))
    if likelihoods[1 + best] - likelihoods[0] < n_frames * (np.log(window.sum()) + 1):
        return still
    return ends[best] * scale


def _even_drift(spectra: Spectra, weight: FloatArray, window: npt.NDArray[np.bool_]) -> FloatArray:
    """Shifts of a specimen that drifts evenly, from the mean correlation of frames half the movie apart."""
    n_frames = len(spectra.values)
    lag = n_frames // 2
    cross = np.zeros(spectra.ring.shape, np.complex64)
    for t in range(n_frames - lag):
        cross += spectra.values[t] * spectra.values[t + lag].conj()
    shift = _highest(cross * _on_rings(weight, spectra), spectra.shape, window, origin=False)
    return (np.arange(n_frames) - (n_frames - 1) / 2)[:, None] * (shift / lag)


def _climb(
    spectra: Spectra,
    shifts: FloatArray,
    power: FloatArray,
    weight: FloatArray,
    window: npt.NDArray[np.bool_],
) -> FloatArray:
    """Whole-frame correlation peaks against the sum of all other frames, in a few rounds."""
    n_frames = len(shifts)
    flat = np.ones_like(spectra.q)
    for round_index in range(COARSE_ROUNDS):
        aligned = kernels.shifted_sum(spectra.values, spectra.ky, spectra.kx, spectra.ring, flat, shifts)
        if round_index:
            signal, noise = signal_and_noise(aligned, power, spectra)
            weight = signal / (noise * (noise + n_frames * signal))
        # While all frames stand where the detector stands, its pattern peaks at the origin.
        origin = bool(shifts.any())
        peak = partial(_peak, spectra, aligned, _on_rings(weight, spectra), window, origin=origin)
        shifts = np.array(list(thread_pool().map(peak, range(n_frames), shifts)))
        shifts = shifts - shifts.mean(axis=0)
    return shifts


def _on_rings(weight: FloatArray, spectra: Spectra) -> npt.NDArray[np.float32]:
    """(my, mx) weight of each coefficient, zero where it takes no part."""
    return np.where(spectra.ring >= 0, weight[spectra.ring], 0).astype(np.float32)


def _log_likelihood(spectra: Spectra, shifts: FloatArray, power: FloatArray) -> float:
    """Log L of shifts, with the signal and noise spectra that fit them best, up to a constant."""
    aligned = kernels.shifted_sum(spectra.values, spectra.ky, spectra.kx, spectra.ring, spectra.q, shifts)
    aligned_power = ring_mean(np.square(np.abs(aligned)), spectra)
    signal, noise = signal_and_noise(aligned, power, spectra)
    ratio = np.square(spectra.q, dtype=np.float64).sum(axis=0) * signal / noise
    gain = signal / noise * aligned_power / (noise * (1 + ratio)) - np.log1p(ratio)
    return float((spectra.ring_count * gain).sum())


def _peak(
    spectra: Spectra,
    aligned: npt.NDArray[np.complex64],
    weight: npt.NDArray[np.float32],
    window: npt.NDArray[np.bool_],
    t: int,
    shift: FloatArray,
    *,
    origin: bool,
) -> FloatArray:
    """Shift of frame `t` at the highest correlation with the other frames, to a fraction of a pixel."""
    wave = np.exp(-2j * np.pi * (spectra.ky[:, None] * shift[0] + spectra.kx[None, :] * shift[1])).astype(
        np.complex64
    )
    others = aligned - spectra.values[t] * wave
    return _highest(others * spectra.values[t].conj() * weight, spectra.shape, window, origin=origin)


def _highest(
    cross_spectrum: npt.NDArray[np.complex64],
    shape: tuple[int, int],
    window: npt.NDArray[np.bool_],
    *,
    origin: bool,
) -> FloatArray:
    """(y, x) of the highest correlation in the window, to a fraction of a pixel; `origin` says whether zero counts."""
    correlation = scipy.fft.irfft2(cross_spectrum, s=shape)
    if not origin:
        around = [correlation[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
        correlation[0, 0] = np.mean(around)
    y, x = np.unravel_index(np.argmax(np.where(window, correlation, -np.inf)), correlation.shape)
    return np.array([_vertex(correlation[:, x], int(y)), _vertex(correlation[y, :], int(x))])


def _vertex(line: npt.NDArray[np.float32], peak: int) -> float:
    """Position of the parabola through the peak and its neighbours, wrapped to [-n/2, n/2)."""
    n = len(line)
    before, at, after = (float(line[(peak + step) % n]) for step in (-1, 0, 1))
    curvature = before - 2 * at + after
    fraction = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    return (peak + fraction + n / 2) % n - n / 2


def _window(shape: tuple[int, int], radius: float) -> npt.NDArray[np.bool_]:
    """Shifts within `radius`, in the order of an inverse transform; at least the nearest neighbours."""
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in shape)
    return np.hypot(y[:, None], x[None, :]) <= max(radius, 1.5)


def _crop(spectra: Spectra, length: int) -> tuple[Spectra, FloatArray]:
    """The same spectra on a coarser grid of about `length` pixels a side, and its (y, x) pixel in small pixels."""
    ny, nx = spectra.shape
    factor = max(1, -(-max(ny, nx) // length))
    my, mx = (2 * max(1, n // factor // 2) for n in (ny, nx))
    rows = np.r_[0 : my // 2, ny - my // 2 : ny]
    columns = slice(0, mx // 2 + 1)
    scale_y, scale_x = ny / my, nx / mx
    ring = np.ascontiguousarray(spectra.ring[rows, columns])
    # The new Nyquist lines hold one half of a pair only.
    ring[my // 2, :] = -1
    ring[:, -1] = -1
    count = np.bincount(ring[ring >= 0], minlength=len(spectra.ring_count)).astype(np.float64)
    return (
        Spectra(
            values=np.ascontiguousarray(spectra.values[:, rows, columns]),
            ky=(spectra.ky[rows] * scale_y).astype(np.float32),
            kx=(spectra.kx[columns] * scale_x).astype(np.float32),
            ring=ring,
            ring_frequency=(spectra.ring_frequency * np.float32(scale_x)),
            ring_count=count,
            q=spectra.q,
            shape=(my, mx),
        ),
        np.array([scale_y, scale_x]),
    )


def _refine(
    spectra: Spectra,
    shifts: FloatArray,
    power: FloatArray,
    *,
    tolerance: float,
    n_early: int,
    first_bend: float,
    spread: float,
) -> tuple[FloatArray, float, int]:
    """Fisher scoring on all shifts at once, with a prior on their second differences whose strength is fitted.

    A second, very weak prior of width `spread` holds the shifts near zero where the movie says nothing at all.

    Returns shifts and their expected RMS error in small pixels, and the number of rounds.
    """
    n_frames = len(shifts)
    bend = np.diff(np.eye(n_frames), n=2, axis=0)
    early = np.arange(len(bend)) < max(EARLY_FRAMES_MIN, n_early)
    variance = np.full(len(bend), first_bend**2)
    covariance = np.zeros((n_frames, n_frames))
    rounds = 0
    while rounds < MAX_ROUNDS:
        rounds += 1
        aligned = kernels.shifted_sum(spectra.values, spectra.ky, spectra.kx, spectra.ring, spectra.q, shifts)
        information = _information(spectra, aligned, power)
        gradient = kernels.shift_gradient(
            spectra.values,
            spectra.ky,
            spectra.kx,
            spectra.ring,
            spectra.q,
            shifts,
            aligned,
            information.weight,
        )
        # The likelihood near `shifts` as a quadratic form: the posterior mean, and the prior that suits it best.
        pull = information.fisher @ shifts + gradient
        # The mean of all shifts is free; the ones pin it without touching differences.
        pin = np.full((n_frames, n_frames), np.trace(information.fisher) / n_frames**2 + 1e-12)
        mean = shifts
        for _ in range(PRIOR_STEPS):
            stiffness = bend.T @ (bend / variance[:, None]) + np.eye(n_frames) / spread**2
            covariance = np.linalg.inv(information.fisher + stiffness + pin)
            mean = covariance @ pull
            variance = _bend_variance(mean, bend, covariance, early)
        step = mean - shifts
        # No frame leaps farther than half a small pixel at a time: beyond that the likelihood is not quadratic.
        step *= min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-12))
        shifts = shifts + step - step.mean(axis=0)
        if np.abs(step).max() < tolerance:
            break
    difference_variance = np.diag(covariance) - covariance.mean()
    return shifts, float(np.sqrt(max(difference_variance.mean(), 0.0))), rounds


def _information(spectra: Spectra, aligned: npt.NDArray[np.complex64], power: FloatArray) -> _Information:
    """Weight of each ring in the likelihood, and the Fisher information of the shifts it gives."""
    signal, noise = signal_and_noise(aligned, power, spectra)
    q = spectra.q.astype(np.float64)
    weight = signal / (noise * (np.square(q).sum(axis=0) * signal + noise))
    # E(-d2 log L / ds_t ds_u) = -2 w (2 pi k)^2 q_t^2 q_u^2 S; averaged over directions, k^2 / 2 along one axis.
    strength = 2 * weight * signal * spectra.ring_count * np.square(2 * np.pi * spectra.ring_frequency) / 2
    coupling = np.square(q) @ (strength[:, None] * np.square(q).T)
    fisher = np.diag(coupling.sum(axis=1)) - coupling
    return _Information(weight=weight.astype(np.float32), fisher=fisher)


def _bend_variance(
    shifts: FloatArray, bend: FloatArray, covariance: FloatArray, early: npt.NDArray[np.bool_]
) -> FloatArray:
    """Variance of the second differences, one value for early and one for late frames (one EM step).

    A smooth movie gets a stiff prior, a jumpy one a weak prior; both are read from the movie.
    """
    expected = np.square(bend @ shifts).mean(axis=1) + ((bend @ covariance) * bend).sum(axis=1)
    variance = np.empty(len(bend))
    for group in (early, ~early):
        if group.any():
            variance[group] = max(float(expected[group].mean()), 1e-8)
    return variance
