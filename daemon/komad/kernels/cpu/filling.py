"""What stands in for an outlier in one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from komad.kernels.cpu.bands import FloatArray, jit
from komad.kernels.plan import Outliers
from komad.model import ALL_FRAMES

# Records, so that a loop is given few arrays and finds together what it reads together.
SPOT = np.dtype([("x", np.int32), ("frame", np.int32), ("keep", np.float32), ("start", np.int32)])
"""One outlier; `frame` is counted as those of the loop are."""
TERM = np.dtype([("y", np.uint16), ("x", np.uint16), ("scale", np.float32), ("summand", np.float32)])
"""One neighbour: its part is counts * scale + summand."""
NEVER = np.iinfo(np.int32).max

Records = npt.NDArray[Any]


def records_of(
    outliers: Outliers, gain: FloatArray, offset: FloatArray, first_frame: int
) -> tuple[Records, Records]:
    """(n + 1,) SPOT and (n_neighbours,) TERM, gain and offset taken into the weights.

    `first_frame` is the one of the movie with which the frames of the loop begin.
    """
    spots, terms = np.zeros(len(outliers.start), SPOT), np.empty(len(outliers.neighbour), TERM)
    spots["start"] = outliers.start
    spots["x"][:-1], spots["keep"][:-1] = outliers.column, outliers.keep
    later = np.where(outliers.frame < first_frame, NEVER, outliers.frame - first_frame)
    spots["frame"][:-1] = np.where(outliers.frame == ALL_FRAMES, ALL_FRAMES, later)
    terms["y"], terms["x"] = np.divmod(outliers.neighbour, gain.shape[1])
    terms["scale"] = outliers.weight * gain.ravel()[outliers.neighbour]
    terms["summand"] = outliers.weight * offset.ravel()[outliers.neighbour]
    return spots, terms


@jit
def is_replaced(spots: Any, k: int, t: int) -> bool:
    """Whether outlier `k` is one in frame `t`."""
    return spots[k].frame == ALL_FRAMES or spots[k].frame == t


@jit
def replaced_value(
    frames: Any, gain: Any, offset: Any, spots: Any, terms: Any, draw: bool, k: int, t: int, y: int
) -> Any:
    """The corrected value that outlier `k`, of row `y`, gets in frame `t`."""
    first, last = np.int64(spots[k].start), np.int64(spots[k + 1].start)
    if draw:
        # Knuth's multiplicative hash over outlier and frame: cheap, and the same on every run.
        value = _part(frames, terms, t, first + ((k * 2654435761 + t * 40503) >> 7) % (last - first))
    else:
        value = np.float32(0)
        for j in range(first, last):
            value += _part(frames, terms, t, j)
    keep, x = spots[k].keep, spots[k].x
    if keep > 0:
        value += keep * (np.float32(frames[t, y, x]) * gain[y, x] + offset[y, x])
    return value


@jit
def _part(frames: Any, terms: Any, t: int, j: int) -> Any:
    """What neighbour `j` adds in frame `t`."""
    return np.float32(frames[t, terms[j].y, terms[j].x]) * terms[j].scale + terms[j].summand
