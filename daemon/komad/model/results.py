"""What the stages give back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from komad.model.detector import DetectorReport, OutlierPixels, StackFacts
from komad.model.motion import MotionModel


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSum:
    """The sum of a movie's frames as the camera wrote them, before any alignment."""

    total: npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | npt.NDArray[np.float32]
    """(ny, nx): uint16 where it fits, else uint32; float32 for signed and floating-point movies."""
    frame_means: npt.NDArray[np.float64]
    """(n_frames,): mean raw value of each frame."""
    outliers: OutlierPixels
    """Pixels to replace."""
    facts: StackFacts
    """What the sum is like, after gain and dark."""
    largest_count: float | None = None
    """The largest value of a pixel in a frame, as the camera wrote it; None when it is not known, or no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicrographResult:
    """The pictures and numbers made from one movie. All pictures are (y, x) float32 at the output pixel size."""

    sum_unweighted: npt.NDArray[np.float32]
    sum_dose_weighted: npt.NDArray[np.float32] | None
    """None when no dose is known or dose weighting is off."""
    sum_even: npt.NDArray[np.float32] | None
    """Frames 1, 3, 5, ... counted from 1 are odd; this is the sum of the even ones. None when not asked for."""
    sum_odd: npt.NDArray[np.float32] | None
    power_spectrum: npt.NDArray[np.float32] | None
    """(512, 512), centred; None when not asked for."""
    power_spectrum_pixel_size_angstrom: float
    pixel_size_angstrom: float
    """Output pixel size."""
    motion: MotionModel
    n_outliers: int
    mean_e_per_px_frame: float
    """Mean corrected value per pixel of the movie as read, and frame."""
    sum_even_weighted: npt.NDArray[np.float32] | None = None
    """The part of the even frames in `sum_dose_weighted`; None when not asked for."""
    sum_odd_weighted: npt.NDArray[np.float32] | None = None
    sum_dose_range: npt.NDArray[np.float32] | None = None
    """Dose-weighted sum of the frames within `sum_range`; None when not asked for."""
    largest_count: float | None = None
    """`StackSum.largest_count`."""
    detector: DetectorReport = field(default_factory=DetectorReport)
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds per stage."""
    warnings: tuple[str, ...] = ()
    """What a person should know, in plain words."""
