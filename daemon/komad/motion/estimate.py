"""Motion of one movie: the whole frame first, then what differs across the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from komad.config import Processing
from komad.model.motion import MotionModel, early_frames
from komad.motion.global_shifts import estimate_global_shifts
from komad.motion.spectra import transform


def estimate_motion(
    small: npt.NDArray[np.float32],  # (n_used, y, x)
    *,
    used: npt.NDArray[np.bool_],  # (n_frames,)
    shape: tuple[int, int],  # noqa: ARG001
    binning: int,
    pixel_size_angstrom: float,
    exposure: npt.NDArray[np.float64] | None,  # (n_frames,)
    voltage_kv: float | None,
    processing: Processing,
) -> MotionModel:
    """Measure how the specimen moved; frames that are not used have shifts that are NaN.

    Parameters
    ----------
    small : gain-corrected frames that are used, binned.
    used : which frames of the movie they are.
    shape : (ny, nx) of the movie as read.
    binning : pixels of the movie per small pixel.
    pixel_size_angstrom : of the movie as read.
    exposure : e/Å² at the end of each frame of the movie; None when unknown.
    voltage_kv : for the radiation damage; None when unknown.

    Raises
    ------
    MotionError
        The frames hold no numbers to align (NaN, or all pixels equal).
    """
    dose = None if exposure is None else exposure[used]
    spectra = transform(
        small,
        pixel_size_angstrom=pixel_size_angstrom * binning,
        exposure=dose,
        voltage_kv=voltage_kv if processing.dose_weighting else None,
    )
    measured = estimate_global_shifts(
        spectra,
        binning=binning,
        pixel_size_angstrom=pixel_size_angstrom,
        max_shift_angstrom=processing.max_shift_angstrom,
        n_early=early_frames(dose),
    )
    shifts = np.full((len(used), 2), np.nan)
    shifts[used] = measured.shifts_px
    return replace(measured, shifts_px=shifts)
