"""What a person should know of the detector and the exposure, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from komad.arrays import Array
from komad.detector.beam import is_saturated
from komad.detector.calibration import Calibration

OUTLIER_FRACTION = 0.01


def detector_warnings(
    frames: Array,  # (n_frames, ny, nx) raw
    calibration: Calibration,
    *,
    n_outliers: int,
    unlit: npt.NDArray[np.intp],  # indices of frames without beam
) -> Iterator[str]:
    """One sentence for each thing that is not as it should be."""
    n_pixels = calibration.gain.size
    if n_outliers > OUTLIER_FRACTION * n_pixels:
        yield (
            f"{100 * n_outliers / n_pixels:.1f} % of the pixels are outliers: is the gain reference the right one, "
            "the right way up?"
        )
    if calibration.n_invalid:
        yield (
            f"{calibration.n_invalid} pixels of the gain are zero, negative or no numbers, or their dark is none: they "
            "count as defects"
        )
    if len(unlit) == len(frames):
        yield "no frame has seen the beam"
    elif len(unlit):
        names = ", ".join(str(i + 1) for i in unlit)
        yield f"without beam, and left out: frame {names} (counted from 1)"
    if is_saturated(frames):
        yield "more than half of the pixels have the largest value that occurs: the movie is saturated, or flat"
