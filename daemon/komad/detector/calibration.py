"""Dark and gain as one multiplication and one addition per pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import beside, namespace, parallel_map
from komad.errors import ReferenceFileError
from komad.model import KomaMethod, Pattern

FloatArray = npt.NDArray[np.float32]

BAND_ROWS = 256
LEAST_RESPONSE = 0.1
"""No pixel is made brighter than ten times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """corrected = frame * gain + offset."""

    gain: FloatArray
    """(ny, nx); zero, which makes a pixel a defect, where a reference is not a number or the gain not positive."""
    offset: FloatArray
    """(ny, nx)."""
    n_invalid: int
    """Pixels at which a reference is not a number, or the gain zero or negative."""


def calibrate(
    shape: tuple[int, int],
    *,
    gain: FloatArray | None,  # (ny, nx), oriented
    dark: FloatArray | None,  # (ny, nx), oriented
    gamma: float = 1.0,
    like: Any = None,
) -> Calibration:
    """(frame - dark) * gain**gamma, written as frame * gain + offset; without references the frame itself.

    McLeod et al. (2017) eq. 9; zero and negative gains, which make a pixel an outlier, stay as they are. All lies where
    `like`, the frames, is computed; on the host without it.

    Raises
    ------
    ReferenceFileError
        A reference has another size than the frames.
    """
    for name, reference in (("gain", gain), ("dark", dark)):
        if reference is not None and reference.shape != shape:
            raise ReferenceFileError(
                f"the {name} reference is {reference.shape[1]} x {reference.shape[0]} pixels, "
                f"the frames are {shape[1]} x {shape[0]}; give the {name} of this camera mode"
            )
    xp = namespace(like)
    multiplier = xp.ones(shape, np.float32) if gain is None else beside(like, gain, np.float32)
    if gain is not None and gamma != 1:
        multiplier = _raised(multiplier, gamma)
    if dark is None:
        offset = xp.zeros(shape, np.float32)
    else:
        offset = (beside(like, dark) * multiplier).astype(np.float32, copy=False)
        np.negative(offset, out=offset)
    invalid = ~((multiplier > 0) & np.isfinite(multiplier) & np.isfinite(offset))
    n_invalid = int(np.count_nonzero(invalid))
    if n_invalid:
        multiplier, offset = (np.where(invalid, np.float32(0), array) for array in (multiplier, offset))
    return Calibration(gain=multiplier, offset=offset, n_invalid=n_invalid)


def _raised(gain: FloatArray, gamma: float) -> FloatArray:
    """gain**gamma where it is positive, else the gain."""
    positive = gain > 0
    power = np.power(np.where(positive, gain, np.float32(1)), np.float32(gamma))
    return np.where(positive, power, gain)


def without_pattern(calibration: Calibration, pattern: Pattern, method: KomaMethod) -> Calibration:
    """The calibration that takes the detector's pattern off as well, at no cost for each frame.

    subtract: corrected - pattern * mean per frame, McLeod et al. (2017) section 5.2; divide: corrected / (1 + pattern),
    as an error of the gain.
    """
    relative = beside(calibration.gain, pattern.relative)
    mean = np.float32(pattern.mean_e_per_px_frame)
    if method == "subtract":
        changed = np.empty_like(calibration.offset)

        def subtract(y0: int) -> None:
            rows = np.s_[y0 : y0 + BAND_ROWS]
            np.subtract(calibration.offset[rows], relative[rows] * mean, out=changed[rows])

        list(parallel_map(changed, subtract, range(0, len(changed), BAND_ROWS)))
        return replace(calibration, offset=changed)
    factor = (1 / np.maximum(1 + relative, LEAST_RESPONSE)).astype(np.float32, copy=False)
    return replace(calibration, gain=calibration.gain * factor, offset=calibration.offset * factor)
