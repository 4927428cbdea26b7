"""The field of the fused pass: motion and magnification together, at the nodes between which it is interpolated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.model import MotionModel

FloatArray = npt.NDArray[np.float64]


def shifts_at_nodes_px(
    motion: MotionModel,
    shape: tuple[int, int],
    *,
    magnification: tuple[float, float, float] | None,
) -> npt.NDArray[np.float32]:
    """(n_frames, nodes_y, nodes_x, 2) as (y, x): what `kernels.correct` is given; zero for frames that are left out.

    Parameters
    ----------
    motion : the shifts that correct it.
    shape : (ny, nx) of the movie as read.
    magnification : (major, minor, angle): the picture is stretched about the centre of the detector, by `major` along
        an axis that is turned from x towards y by `angle` degrees, and by `minor` across it.
    """
    y, x = kernels.node_positions(shape)
    if magnification is None or magnification[:2] == (1.0, 1.0):
        shifts = motion.shifts_on_grid_px(y, x)
    else:
        here = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).astype(np.float64)
        source = unstretched(here, shape, magnification)
        # The content of a pixel comes from `source` in the corrected frame, and there the motion is looked up.
        shifts = here - source + _shifts_at_px(motion, source)
    return np.nan_to_num(shifts).astype(np.float32)


def unstretched(
    places: FloatArray,  # (..., 2) as (y, x)
    shape: tuple[int, int],
    magnification: tuple[float, float, float],
) -> FloatArray:
    """(..., 2): where the content of each place was before the picture was stretched about its centre."""
    major, minor, degrees = magnification
    angle = np.deg2rad(degrees)
    axis = np.array([np.sin(angle), np.cos(angle)])
    along = np.outer(axis, axis)
    inverse = along / major + (np.eye(2) - along) / minor
    centre = (np.array(shape) - 1) / 2
    return centre + (places - centre) @ inverse  # the matrix is symmetric


def _shifts_at_px(motion: MotionModel, places: FloatArray) -> FloatArray:
    """(n_frames, nodes_y, nodes_x, 2): the whole shift at places (nodes_y, nodes_x, 2)."""
    whole = motion.shifts_px[:, None, None, :]
    if motion.local is None:
        return whole
    y, x = places.reshape(-1, 2).T
    return whole + motion.local.at_places(y, x).reshape(-1, *places.shape)
