"""Where the specimen went, as measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline, make_interp_spline

FloatArray = npt.NDArray[np.float64]

MotionKind = Literal["none", "global", "local"]

SPLINE_DEGREE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SplineField:
    """A smooth shift over field and exposure: cubic B-splines in y and x, a cubic spline through knots in exposure.

    A place is given in pixels of the movie as read, 0 being the centre of the first pixel, so that the field of a
    frame of ny rows reaches from -0.5 to ny - 0.5.
    """

    shape: tuple[int, int]
    """(ny, nx) of the frames."""
    knots: FloatArray
    """(n_knots,) rising: the moments, in the unit of `moments`, at which the coefficients hold."""
    moments: FloatArray
    """(n_frames,) exposure (e/Å²) in the middle of each frame, or its index where the dose is unknown."""
    coefficients_px: FloatArray
    """(n_knots, n_y, n_x, 2) as (y, x): weights of uniform B-splines; n - 3 intervals from edge to edge."""

    def basis_y(self, y: npt.ArrayLike) -> FloatArray:
        """(..., n_y) value of each B-spline at rows `y`."""
        return spline_basis(y, self.shape[0], self.coefficients_px.shape[1])

    def basis_x(self, x: npt.ArrayLike) -> FloatArray:
        """(..., n_x) value of each B-spline at columns `x`."""
        return spline_basis(x, self.shape[1], self.coefficients_px.shape[2])

    def frame_coefficients_px(self) -> FloatArray:
        """(n_frames, n_y, n_x, 2): coefficients at the moment of each frame; held constant beyond the knots."""
        return np.tensordot(time_basis(self.moments, self.knots), self.coefficients_px, axes=1)

    def on_grid(self, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """(n_frames, len(y), len(x), 2) as (y, x): shift in each frame on the grid of rows `y` and columns `x`."""
        coefficients = self.frame_coefficients_px()
        return np.einsum("ai,bj,tijd->tabd", self.basis_y(y), self.basis_x(x), coefficients, optimize=True)

    def at_places(self, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """(n_frames, n, 2) as (y, x): shift in each frame at `n` places, given by their rows and columns."""
        coefficients = self.frame_coefficients_px()
        return np.einsum("ni,nj,tijd->tnd", self.basis_y(y), self.basis_x(x), coefficients, optimize=True)


def spline_basis(at: npt.ArrayLike, length: int, n: int) -> FloatArray:
    """(..., n) values of `n` uniform cubic B-splines that span `length` pixels from outer edge to outer edge.

    Beyond the edges (an edge pixel that moved) the values of the edge hold.
    """
    intervals = n - SPLINE_DEGREE
    where = np.clip((np.asarray(at, np.float64) + 0.5) / length, 0.0, 1.0) * intervals
    knots = np.arange(-SPLINE_DEGREE, intervals + SPLINE_DEGREE + 1, dtype=np.float64)
    values = BSpline.design_matrix(where.ravel(), knots, SPLINE_DEGREE).toarray()
    return np.asarray(values.reshape(*where.shape, n))


def time_basis(moments: npt.ArrayLike, knots: FloatArray) -> FloatArray:
    """(n, n_knots): how much each knot counts at each moment, for a cubic spline through the knots."""
    inside = np.clip(np.asarray(moments, np.float64), knots[0], knots[-1])
    degree = min(SPLINE_DEGREE, len(knots) - 1)
    if degree == 0:
        return np.ones((len(inside), 1))
    return np.asarray(make_interp_spline(knots, np.eye(len(knots)), k=degree)(inside))


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionModel:
    """Shifts that correct the motion: a positive shift moves the content to a larger index.

    The shift at a place is that of the whole frame plus that of the local field there; `displacement = -shift` is
    what the specimen did. Both parts are zero in the reference frame (the first one used, unless asked otherwise).
    """

    shifts_px: FloatArray
    """(n_frames, 2) as (y, x), pixels of the movie as read: mean over the field; NaN where the frame was left out."""
    shift_error_px: float
    """Expected RMS error per frame and axis, from the curvature of the likelihood; NaN when it cannot be told."""
    n_iterations: int
    kind: MotionKind
    """What the movie supports: no motion at all (all shifts are zero), one shift per frame, or a local field too."""
    reason: str
    """Why it is no more than that, or on what grounds the local field was accepted; one sentence."""
    local: SplineField | None = None
    """None unless `kind` is local; its mean over the field is zero in every frame."""
    local_error_px: float = float("nan")
    """Expected RMS error of the local field per axis, over field and frames; NaN without one."""
    fixed_pattern: float = 0.0
    """Power of what stays with the detector over the noise power, in the sum of all frames; 0.01 to 0.1 is usual."""
    patch_centres_px: FloatArray | None = None
    """(n_patches, 2) as (y, x): where the local motion was looked at; None when it was not."""

    @property
    def supported(self) -> bool:
        """Whether the motion stands out from the noise; if not (no signal, or no motion), all shifts are zero."""
        return self.kind != "none"

    @property
    def displacement_px(self) -> FloatArray:
        """(n_frames, 2) as (y, x): what the specimen did, mean over the field."""
        return -self.shifts_px

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """(n_frames,) which frames were aligned and added."""
        return np.asarray(np.isfinite(self.shifts_px).all(axis=1))

    def shifts_on_grid_px(self, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """(n_frames, len(y), len(x), 2) as (y, x): the whole shift on a grid; NaN where the frame was left out."""
        y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
        whole = np.broadcast_to(
            self.shifts_px[:, None, None, :], (len(self.shifts_px), len(y), len(x), 2)
        ).copy()
        return whole if self.local is None else whole + self.local.on_grid(y, x)


EARLY_DOSE = 4.0
"""e/Å². Most of the beam-induced motion happens before; RELION splits its accumulated motion here."""


def path_length_px(shifts_px: FloatArray) -> float:
    """Sum of the distances between successive frames that were used."""
    used = shifts_px[np.isfinite(shifts_px).all(axis=1)]
    return float(np.hypot(*np.diff(used, axis=0).T).sum()) if len(used) > 1 else 0.0


def early_late_px(
    shifts_px: FloatArray,  # (n_frames, 2)
    exposure: FloatArray | None,  # (n_frames,) e/Å² at the end of each frame
) -> tuple[float, float]:
    """Path length before and after an exposure of EARLY_DOSE, as RELION splits it.

    Early is the path between frames whose exposure ends by then. Without a dose the whole path counts as late.
    """
    early = path_length_px(shifts_px[: early_frames(exposure)])
    return early, path_length_px(shifts_px) - early


def early_frames(exposure: FloatArray | None) -> int:
    """Number of frames that end by an exposure of EARLY_DOSE; 0 when the exposure is unknown."""
    return 0 if exposure is None else int(np.count_nonzero(exposure <= EARLY_DOSE * (1 + 1e-9)))
