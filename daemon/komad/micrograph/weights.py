"""How much each frame counts, at each frequency, in the sums that are weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.config import Processing
from komad.optics.exposure import LowRankWeights, dose_weights, factorise, signal_left

FloatArray = npt.NDArray[np.float64]

RANK = 6
RANK_WITH_MOTION = 8
"""Blur differs from frame to frame, and is not smooth in time: 3e-5 for a path of 3 px in the first frame."""
N_FREQUENCIES = 1024
N_DIRECTIONS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseRange:
    """The frames of one more dose-weighted sum, and their weights."""

    frames: npt.NDArray[np.bool_]
    """(n_frames,)."""
    weights: LowRankWeights
    """Rows for these frames only."""


def weights_of_sums(
    used: npt.NDArray[np.bool_],  # (n_frames,)
    shifts_px: FloatArray,  # (n_frames, 2), of whole frames
    *,
    exposure: FloatArray | None,  # (n_frames,) e/Å² at the end of each frame
    exposure_before: float,
    pixel_size_angstrom: float,
    voltage_kv: float | None,
    processing: Processing,
) -> tuple[LowRankWeights | None, DoseRange | None]:
    """Weights of all frames used, and of those within `sum_range`; None where not asked for, or where none lies.

    Exposure and voltage must be known when `processing` asks for dose weighting.
    """
    if not processing.dose_weighting:
        return None, None
    assert exposure is not None
    assert voltage_kv is not None
    path = path_within_frames_px(shifts_px) if processing.in_frame_motion else None

    def of(which: npt.NDArray[np.bool_]) -> LowRankWeights:
        return frame_weights(
            exposure[which],
            pixel_size_angstrom=pixel_size_angstrom,
            voltage_kv=voltage_kv,
            path_px=None if path is None else path[which],
        )

    if processing.sum_range is None:
        return of(used), None
    within = used & frames_within(exposure, before=exposure_before, dose_range=processing.sum_range)
    return of(used), DoseRange(frames=within, weights=of(within)) if within.any() else None


def frame_weights(
    exposure: FloatArray,  # (n,) e/Å² at the end of each frame that is summed
    *,
    pixel_size_angstrom: float,
    voltage_kv: float,
    path_px: FloatArray
    | None,  # (n,) from `path_within_frames_px`; None: motion within frames does not count
) -> LowRankWeights:
    """Weights q / sqrt(sum of q²) of the frames, up to the corner of the spectrum; frequency in cycles per pixel.

    q is the signal that radiation has left, times what motion within the frame has left of it: the weights of least
    squares, with which a sharp frame counts more than a blurred one.
    """
    frequency = np.linspace(0, np.sqrt(0.5), N_FREQUENCIES)
    # What was lost before the first frame is lost to all, and drops out of the weights: counted, it could leave 0 / 0.
    since_first = exposure - exposure.min()
    q = signal_left(frequency / pixel_size_angstrom, since_first, voltage_kv=voltage_kv)
    if path_px is None:
        return factorise(dose_weights(q), frequency, rank=RANK)
    return factorise(dose_weights(q * sharpness_left(frequency, path_px)), frequency, rank=RANK_WITH_MOTION)


def path_within_frames_px(shifts_px: FloatArray) -> FloatArray:
    """(n_frames,): distance that the specimen travels during each frame; NaN for frames that are left out.

    The central difference of the shifts of the whole frame, one-sided at the ends; (n_frames, 2) in pixels.
    """
    used = np.flatnonzero(np.isfinite(shifts_px).all(axis=1))
    path = np.full(len(shifts_px), np.nan)
    path[used] = np.hypot(*np.gradient(shifts_px[used], used, axis=0).T) if len(used) > 1 else 0.0
    return path


def sharpness_left(frequency: FloatArray, path_px: FloatArray) -> FloatArray:
    """(n_frames, n): amplitude left after even motion along `path_px` (n_frames,), at `frequency` (n,) in 1/px.

    At wave vector k a path d leaves sinc(k . d). The weights know only the length of k, so its mean over directions is
    taken, which is no more than a few per cent off while k d is below a half.
    """
    directions = (np.arange(N_DIRECTIONS) + 0.5) * np.pi / 2 / N_DIRECTIONS
    k_d = path_px[:, None] * frequency[None, :]
    table = np.linspace(0, max(float(k_d.max(initial=0)), 1e-9), 2048)
    mean = np.sinc(table[:, None] * np.cos(directions)[None, :]).mean(axis=1)
    return np.interp(k_d, table, mean)


def frames_within(
    exposure: FloatArray,  # (n_frames,) e/Å² at the end of each frame
    *,
    before: float,  # e/Å² before the first frame
    dose_range: tuple[float, float],
) -> npt.NDArray[np.bool_]:
    """(n_frames,): frames of whose exposure at least half lies within the range, e/Å²."""
    start = np.concatenate([[before], exposure[:-1]])
    overlap = np.minimum(exposure, dose_range[1]) - np.maximum(start, dose_range[0])
    return overlap >= 0.5 * (exposure - start) - 1e-9
