"""Sums of a few frames at a time: for the aligned stack, and for spectra that specimen motion has not blurred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array

FloatArray = npt.NDArray[np.float32]
Group = npt.NDArray[np.intp]

SPECTRUM_DOSE = 4.0
"""e/Å² in a group, as RELION groups frames for its spectra: rings are still visible, and not yet blurred."""


def successive_groups(used: npt.NDArray[np.bool_], size: int) -> list[Group]:
    """Indices of `size` frames each of those used (n_frames,), in order; the last group may have fewer."""
    index = np.flatnonzero(used)
    return [index[i : i + size] for i in range(0, len(index), size)]


def groups_for_spectrum(used: npt.NDArray[np.bool_], exposure: npt.NDArray[np.float64]) -> list[Group]:
    """Groups of about SPECTRUM_DOSE; `exposure` (n_frames,) is in e/Å², at the end of each frame."""
    per_frame = float(np.mean(np.diff(exposure))) if len(exposure) > 1 else SPECTRUM_DOSE
    return successive_groups(used, max(1, round(SPECTRUM_DOSE / max(per_frame, 1e-3))))


def group_sums(
    frames: Array,  # (n_frames, ny, nx)
    gain: FloatArray,  # (ny, nx)
    offset: FloatArray,  # (ny, nx); corrected = frame * gain + offset
    outliers: kernels.Outliers,
    *,
    shifts_px: FloatArray,  # (n_frames, nodes_y, nodes_x, 2)
    groups: Iterable[Group],
) -> Iterator[FloatArray]:
    """The corrected sum (ny, nx) of each group of frames, unweighted; one after the other, so that one is in memory."""
    for group in groups:
        span = slice(int(group[0]), int(group[-1]) + 1)
        coefficients = np.zeros((span.stop - span.start, 1), np.float32)
        coefficients[group - span.start] = 1
        yield kernels.correct(
            frames[span],
            gain,
            offset,
            outliers,
            shifts=shifts_px[span],
            coefficients=coefficients,
            first_frame=span.start,
        )[0]
