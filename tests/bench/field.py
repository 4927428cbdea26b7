"""Displacement fields: what was true, what komad and RELION say, and how far they are apart.

A field is (n_frames, 2, 17, 17), vectors (y, x), pixels of the movie: what the specimen did, at 17 x 17 points from the
outer edge of the first pixel to the outer edge of the last.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad.formats.star import read_star
from komad.simulate import MotionTruth

FloatArray = npt.NDArray[np.float64]

N_POINTS = 17


def edge_to_edge(length: int) -> FloatArray:
    """(17,) positions along an axis of `length` pixels, the centre of the first pixel being 0."""
    return np.linspace(-0.5, length - 0.5, N_POINTS)


def true_field(truth: MotionTruth) -> FloatArray:
    """What was simulated."""
    return np.moveaxis(since_first(truth, *map(edge_to_edge, truth.shape)), -1, 1)


def since_first(truth: MotionTruth, y: FloatArray, x: FloatArray) -> FloatArray:
    """(n_frames, len(y), len(x), 2): where what the first frame shows at rows `y` and columns `x` has gone."""
    at = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    before = at  # the exposure: the truth's own places
    for _ in range(3):
        before = at - truth.displacement_px(0, before[..., 0], before[..., 1])
    frames = [truth.displacement_px(t, before[..., 0], before[..., 1]) for t in range(truth.n_frames)]
    return np.stack(frames) - frames[0]


def komad_field(path: Path) -> FloatArray:
    """What `<stem>.json` says."""
    return np.array(json.loads(path.read_text(encoding="utf-8"))["motion"]["displacement_px"])


def relion_field(path: Path) -> FloatArray:
    """What a motion STAR of RELION says; its shifts correct the motion, in pixels of the movie where bin is 1."""
    tables = read_star(path)
    columns = tables["global_shift"].columns
    shifts = np.stack([np.array(columns[f"rlnMicrographShift{axis}"], float) for axis in "YX"], axis=1)
    field = np.broadcast_to(shifts[:, :, None, None], (*shifts.shape, N_POINTS, N_POINTS)).copy()
    if "local_motion_model" in tables:
        coefficients = np.array(tables["local_motion_model"].columns["rlnMotionModelCoeff"], float)
        field += relion_polynomial(coefficients, len(shifts))
    return -field


def relion_polynomial(coefficients: FloatArray, n_frames: int) -> FloatArray:
    """Local shift (a field) from RELION's 36 coefficients: 18 for x, then 18 for y.

    In each, for every term of (1, x, x², y, y², xy) those of z, z², z³; z is the frame from 0, x and y run from -0.5 to
    0.5 over the field.
    """
    y, x = np.meshgrid(*[np.linspace(-0.5, 0.5, N_POINTS)] * 2, indexing="ij")
    space = np.stack([np.ones_like(x), x, x**2, y, y**2, x * y])
    time = np.arange(n_frames)[:, None] ** np.arange(1, 4)
    along_x, along_y = coefficients.reshape(2, 6, 3)
    return np.stack(
        [np.einsum("tk,sk,sij->tij", time, values, space) for values in (along_y, along_x)], axis=1
    )


def field_error_px(measured: FloatArray, true: FloatArray) -> float:
    """RMS per axis over all frames and points; the mean over frames at a point, which blurs nothing, is left out."""
    error = measured - true
    return float(np.sqrt(np.square(error - error.mean(axis=0)).mean()))
