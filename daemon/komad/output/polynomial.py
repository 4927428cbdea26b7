"""RELION's model of local motion: a polynomial of third order in the frame and second order in the place. Pure.

shift(z, y, x) = sum of coefficient * (z, z², z³) * (1, x, x², y, y², x y), for X and for Y, in pixels of the movie,
added to the global shift of the frame. z is the frame counted from the first one used, where the model is zero;
x = X / width - 0.5 and y = Y / height - 0.5. A positive shift moves the content to a larger index, as ours does.

Source: the files of RELION 3.1, whose coefficients come out again from a fit of the patch shifts in them. RELION fits
with z half a frame later than it evaluates; what counts for a reader is where it evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.model import Acquisition, MotionModel
from komad.optics.exposure import VOLTAGE_KV, signal_left

FloatArray = npt.NDArray[np.float64]

MIN_FRAMES = 4
"""Three powers of the frame need three frames beside the first, where the model is zero."""
GRID = 9
"""Places per axis, from outer edge to outer edge, at which the field is met."""
WEIGHT_ANGSTROM = 10.0
"""The resolution at which frames are weighed. Finer ones would leave late frames without any say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Polynomial:
    """The polynomial nearest to a measured field."""

    coefficients_px: FloatArray
    """(2, 18) as (y, x): terms in RELION's order, (z, z², z³) fastest."""
    misfit_rms_px: float
    """Distance to the field: RMS over the used frames and a grid that reaches the edges."""
    misfit_largest_px: float
    """The same at the worst point."""


def polynomial_terms(z: npt.ArrayLike, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
    """(..., 18) value of each term; `z` in frames, `y` and `x` as fractions of the field from its middle."""
    z, y, x = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (z, y, x)))
    place = np.stack([np.ones_like(x), x, x * x, y, y * y, x * y], axis=-1)
    time = np.stack([z, z**2, z**3], axis=-1)
    return (place[..., :, None] * time[..., None, :]).reshape(*z.shape, 18)


def fit_polynomial(
    z: FloatArray,  # (n,) frames
    y: FloatArray,  # (n,) fractions of the field from its middle
    x: FloatArray,  # (n,)
    shifts_px: FloatArray,  # (n, 2) as (y, x)
    weights: FloatArray,  # (n,) of squared distances
) -> FloatArray:
    """(2, 18) as (y, x): coefficients by weighted least squares."""
    length = np.abs(z).max()  # powers of hundreds of frames would lose digits
    root = np.sqrt(weights)[:, None]
    terms = polynomial_terms(z / length, y, x)
    scaled = np.linalg.lstsq(root * terms, root * shifts_px, rcond=None)[0].T
    return scaled / np.tile(length ** np.array([1.0, 2.0, 3.0]), 6)


def nearest_polynomial(motion: MotionModel, frame_weights: FloatArray) -> Polynomial | None:
    """Project the local field of `motion` onto RELION's model; None without a field, or with too few frames for it.

    Parameters
    ----------
    motion
        What was measured.
    frame_weights
        (n_frames,) how much a squared distance counts in each frame.
    """
    used = np.flatnonzero(motion.used)
    if motion.local is None or len(used) < MIN_FRAMES:
        return None
    ny, nx = motion.local.shape
    y, x = np.linspace(-0.5, ny - 0.5, GRID), np.linspace(-0.5, nx - 0.5, GRID)
    shifts = motion.local.on_grid(y, x)[used]
    shifts -= shifts[0]
    z, y, x = np.meshgrid(used - used[0], y / ny - 0.5, x / nx - 0.5, indexing="ij")
    weights = np.broadcast_to(frame_weights[used, None, None], z.shape)
    coefficients = fit_polynomial(z.ravel(), y.ravel(), x.ravel(), shifts.reshape(-1, 2), weights.ravel())
    misfit = np.linalg.norm(polynomial_terms(z, y, x) @ coefficients.T - shifts, axis=-1)
    return Polynomial(
        coefficients_px=coefficients,
        misfit_rms_px=float(np.sqrt(np.mean(misfit**2))),
        misfit_largest_px=float(misfit.max()),
    )


def frame_weights(acquisition: Acquisition, n_frames: int) -> FloatArray:
    """(n_frames,) how much a squared distance counts: the power of the signal left at 10 Å, 1 where that is unknown.

    A frame goes into the dose-weighted sum with its signal's amplitude once more as weight, so what a wrong shift
    takes from the sum grows with the square of the amplitude left.
    """
    exposure, voltage_kv = acquisition.exposure(n_frames), acquisition.voltage_kv
    if exposure is None or voltage_kv is None or not VOLTAGE_KV[0] <= voltage_kv <= VOLTAGE_KV[-1]:
        return np.ones(n_frames)
    # The exposure before the movie takes from all frames alike.
    gained = exposure - exposure[0]
    left = signal_left(np.array([1 / WEIGHT_ANGSTROM]), gained, voltage_kv=voltage_kv)[:, 0]
    return np.asarray(left**2, np.float64)
