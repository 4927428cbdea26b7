"""What stands in for an outlier in one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import beside, namespace, to_host
from komad.kernels.cpu.bands import FloatArray, exact
from komad.kernels.plan import WINDOW, Outliers
from komad.model import ALL_FRAMES

SPOT = np.dtype(
    [
        ("x", np.int32),
        ("frame", np.int32),
        ("keep", np.float32),
        ("summand", np.float32),
        ("top", np.int32),
        ("left", np.int32),
    ]
)
"""One outlier, as a record, so that a loop is given few arrays and finds together what it reads together. `frame` is
counted as those of the loop are."""
NEVER = np.iinfo(np.int32).max

Records = npt.NDArray[Any]


def spots_and_scales(
    outliers: Outliers, gain: FloatArray, offset: FloatArray, first_frame: int
) -> tuple[Records, FloatArray]:
    """(n,) SPOT and (n, WINDOW, WINDOW) weights, gain and offset taken into them, the part that is kept left out.

    `first_frame` is the one of the movie with which the frames of the loop begin. Gain and offset may be on a device:
    only what lies in the windows is brought from there.
    """
    spots = np.zeros(len(outliers.column), SPOT)
    spots["x"], spots["keep"] = outliers.column, outliers.keep
    spots["top"], spots["left"] = outliers.corner.T
    later = np.where(outliers.frame < first_frame, NEVER, outliers.frame - first_frame)
    spots["frame"] = np.where(outliers.frame == ALL_FRAMES, ALL_FRAMES, later)
    scale = outliers.weight * (1 - outliers.keep)[:, None, None]
    cells = np.arange(WINDOW)
    at = spots["top"][:, None, None] + cells[:, None], spots["left"][:, None, None] + cells
    y, x = (beside(gain, it) for it in at)
    gains, offsets = to_host(namespace(gain).stack([gain[y, x], offset[y, x]]))
    has_offset = bool(offsets.any())
    for i in range(WINDOW):
        for j in range(WINDOW):
            weight = scale[:, i, j].copy()
            # Gain and dark of a bad pixel may be no numbers.
            np.multiply(weight, gains[:, i, j], out=scale[:, i, j], where=weight != 0)
            if has_offset:
                spots["summand"] += np.where(weight != 0, weight * offsets[:, i, j], 0)
    return spots, scale


@exact
def is_replaced(spots: Any, k: int, t: int) -> bool:
    """Whether outlier `k` is one in frame `t`."""
    return spots[k].frame == ALL_FRAMES or spots[k].frame == t


@exact
def replaced_value(
    frames: Any, gain: Any, offset: Any, spots: Any, scale: Any, draw: bool, k: int, t: int, y: int
) -> Any:
    """The corrected value that outlier `k`, of row `y`, gets in frame `t`."""
    top, left, keep = spots[k].top, spots[k].left, spots[k].keep
    value = np.float32(0)
    if draw:
        # A multiplicative hash over outlier and frame: cheap, and the same on every run. From that cell on, the
        # first good one.
        cell = ((k * 2654435761 + t * 2246822519) >> 16 & 0xFFFF) * (WINDOW * WINDOW) >> 16
        for _ in range(WINDOW * WINDOW):
            i, j = cell // WINDOW, cell % WINDOW
            if scale[k, i, j] != 0:
                value = np.float32(frames[t, top + i, left + j]) * gain[top + i, left + j]
                value = (1 - keep) * (value + offset[top + i, left + j])
                break
            cell = (cell + 1) % (WINDOW * WINDOW)
    else:
        value = spots[k].summand
        for i in range(WINDOW):
            for j in range(WINDOW):
                part = np.float32(frames[t, top + i, left + j]) * scale[k, i, j]
                value += part if scale[k, i, j] != 0 else np.float32(0)
    if keep > 0:
        x = spots[k].x
        value += keep * (np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x])
    return value
