"""What `<stem>.json` says of the motion: plain values, no NaN."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from komad.model import MotionModel, Movie
from komad.model.motion import SplineField, early_late_px, path_length_px
from komad.output.polynomial import Polynomial

FloatArray = npt.NDArray[np.float64]

GRID = 17
"""Places per axis of `displacement_px`, from outer edge to outer edge."""
DECIMALS = 4
"""Of pixels in the file."""


def motion_lengths_px(motion: MotionModel, movie: Movie) -> dict[str, float]:
    """How far the specimen went, in pixels of the movie.

    Path length of the whole frame: total, early (first 4 e/Å²), late. Local displacement: RMS over field and frames,
    and the largest at a corner.
    """
    early, late = early_late_px(motion.shifts_px, movie.acquisition.exposure(len(motion.shifts_px)))
    local = _local_distances_px(motion)
    return {
        "total": path_length_px(motion.shifts_px),
        "early": early,
        "late": late,
        "local_rms": float(np.sqrt(np.mean(local**2))),
        "local_corner": float(local[:, :: GRID - 1, :: GRID - 1].max()),
    }


def _local_distances_px(motion: MotionModel) -> FloatArray:
    """(n_used, 17, 17) length of the local displacement; zero without a local field."""
    if motion.local is None:
        return np.zeros((1, GRID, GRID))
    return np.asarray(np.linalg.norm(motion.local.on_grid(*_grid(motion.local.shape))[motion.used], axis=-1))


def _grid(shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Rows and columns of the places, outer edges of the corner pixels included."""
    ny, nx = shape
    return np.linspace(-0.5, ny - 0.5, GRID), np.linspace(-0.5, nx - 0.5, GRID)


def expected_error_angstrom(motion: MotionModel, movie: Movie) -> float | None:
    """Expected RMS error per axis that is left after the correction, of whole frames and local field together."""
    squares = [motion.shift_error_px**2, *([motion.local_error_px**2] if motion.local is not None else [])]
    return finite(math.sqrt(sum(squares)) * (movie.acquisition.pixel_size_angstrom or math.nan))


def motion_record(motion: MotionModel, movie: Movie, polynomial: Polynomial | None) -> dict[str, object]:
    """All that was measured. Vectors are [y, x], None stands for a frame left out; frame 0 is the movie's first."""
    pixel_size = movie.acquisition.pixel_size_angstrom or math.nan
    header = movie.header
    displacement = -motion.shifts_on_grid_px(*_grid((header.ny, header.nx)))
    return {
        "kind": motion.kind,
        "reason": motion.reason,
        "supported": motion.supported,
        "shifts_yx_px": _rows(motion.shifts_px),
        "shifts_yx_angstrom": _rows(motion.shifts_px * pixel_size),
        "displacement_px": _rows(np.moveaxis(displacement, -1, 1)),
        "shift_error_px": finite(motion.shift_error_px),
        "local_error_px": finite(motion.local_error_px),
        "expected_error_angstrom": expected_error_angstrom(motion, movie),
        "fixed_pattern": finite(motion.fixed_pattern),
        "n_iterations": motion.n_iterations,
        "patch_centres_yx_px": None if motion.patch_centres_px is None else _rounded(motion.patch_centres_px),
        "local": None if motion.local is None else _field(motion.local),
        "relion_model": None if polynomial is None else _misfit(polynomial),
    }


def _field(field: SplineField) -> dict[str, object]:
    """The spline of the shift (not the displacement); `komad.model.motion.SplineField` says how to evaluate it."""
    return {
        "shape": list(field.shape),
        "knots": field.knots.tolist(),
        "moments": field.moments.tolist(),
        "coefficients_px": _rounded(field.coefficients_px),
    }


def _misfit(polynomial: Polynomial) -> dict[str, float]:
    return {
        "misfit_rms_px": round(polynomial.misfit_rms_px, DECIMALS),
        "misfit_largest_px": round(polynomial.misfit_largest_px, DECIMALS),
    }


def _rows(per_frame: FloatArray) -> list[object]:
    """One entry per frame, None where the frame was left out."""
    return [_rounded(values) if np.isfinite(values).all() else None for values in per_frame]


def _rounded(values: FloatArray) -> list[object]:
    # Adding zero turns -0.0 into 0.0.
    return (values.round(DECIMALS) + 0.0).tolist()


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
