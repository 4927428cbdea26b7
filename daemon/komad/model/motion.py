"""Where the specimen went, as measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionModel:
    """Shifts that correct the motion: a positive shift moves the content to a larger index.

    `displacement = -shift` is what the specimen did.
    """

    shifts_px: npt.NDArray[np.float64]
    """(n_frames, 2) as (y, x), pixels of the movie as read; zero in the first used frame, NaN where skipped."""
    shift_error_px: float
    """Expected RMS error per frame and axis, from the curvature of the likelihood; NaN when it cannot be told."""
    n_iterations: int
    supported: bool
    """Whether the motion stands out from the noise; if not (no signal, or no motion), all shifts are zero."""

    @property
    def displacement_px(self) -> npt.NDArray[np.float64]:
        """(n_frames, 2) as (y, x): what the specimen did."""
        return -self.shifts_px


EARLY_DOSE = 4.0
"""e/Å². Most of the beam-induced motion happens before; RELION splits its accumulated motion here."""


def path_length_px(shifts_px: npt.NDArray[np.float64]) -> float:
    """Sum of the distances between successive frames that were used."""
    used = shifts_px[np.isfinite(shifts_px).all(axis=1)]
    return float(np.hypot(*np.diff(used, axis=0).T).sum()) if len(used) > 1 else 0.0


def early_late_px(
    shifts_px: npt.NDArray[np.float64],  # (n_frames, 2)
    *,
    dose_per_frame: float | None,
    pre_exposure: float,
) -> tuple[float, float]:
    """Path length before and after an exposure of EARLY_DOSE, as RELION splits it.

    Early is the path between frames whose exposure ends by then. Without a dose the whole path counts as late.
    """
    if not dose_per_frame:
        return 0.0, path_length_px(shifts_px)
    early = path_length_px(shifts_px[: early_frames(dose_per_frame, pre_exposure)])
    return early, path_length_px(shifts_px) - early


def early_frames(dose_per_frame: float, pre_exposure: float) -> int:
    """Number of frames that end by an exposure of EARLY_DOSE."""
    return int(max(0.0, (EARLY_DOSE - pre_exposure) / dose_per_frame))
