"""Whether the beam was on, and not too bright."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, to_host

FloatArray = npt.NDArray[np.float32]

BEAM_OFF_FRACTION = 0.1
"""A frame with less than this share of the usual counts has seen no beam, or a closing shutter."""
NEGATIVE_FRACTION = 0.25
"""More negative values than these in a frame, and its mean says nothing of the beam: it has been subtracted."""
SATURATED_FRACTION = 0.5
SAMPLE_STRIDE = 7


def leave_out_unlit(
    small: FloatArray,  # (n_used, y, x), gain-corrected
    used: npt.NDArray[np.bool_],  # (n_frames,)
) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """The frames that have seen the beam, which ones of the movie these are, and the indices of the others.

    Values that lie around zero are told by their spread, not by their mean. When no frame has, all are kept: whatever
    is there is better than nothing.
    """
    negative = to_host(np.mean(small[:, ::SAMPLE_STRIDE, ::SAMPLE_STRIDE] < 0, axis=(1, 2)))
    measure = np.std if np.median(negative) > NEGATIVE_FRACTION else np.mean
    unlit = without_beam(to_host(measure(small, axis=(1, 2), dtype=np.float64)))
    index = np.flatnonzero(used)
    if not unlit.any() or unlit.all():
        return small, used, index[unlit]
    used = used.copy()
    used[index[unlit]] = False
    return small[beside(small, np.flatnonzero(~unlit))], used, index[unlit]


def without_beam(
    frame_means: npt.NDArray[np.float64],  # (n_frames,) gain-corrected; or spreads
) -> npt.NDArray[np.bool_]:
    """(n_frames,): frames that are all but empty, compared with the median; all of them when none has counts.

    When most frames are empty, the median of the others counts.
    """
    usual = float(np.median(frame_means))
    if usual <= 0:
        lit = frame_means[frame_means > 0]
        if not len(lit):
            return np.ones(len(frame_means), bool)
        usual = float(np.median(lit))
    return frame_means < BEAM_OFF_FRACTION * usual


def is_saturated(frames: Array) -> bool:
    """Whether more than half of the pixels have the largest value that occurs: too bright, or no picture at all."""
    sample = frames[:, ::SAMPLE_STRIDE, ::SAMPLE_STRIDE]
    largest = sample.max()
    return bool(largest > 0 and np.count_nonzero(sample == largest) > SATURATED_FRACTION * sample.size)
