"""Dark and gain as one multiplication and one addition per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.errors import ReferenceFileError

FloatArray = npt.NDArray[np.float32]


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
) -> Calibration:
    """(frame - dark) * gain, written as frame * gain + offset; without references the frame itself.

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
    multiplier = np.ones(shape, np.float32) if gain is None else np.ascontiguousarray(gain, np.float32)
    offset = np.zeros(shape, np.float32) if dark is None else (-dark * multiplier).astype(np.float32)
    invalid = ~((multiplier > 0) & np.isfinite(multiplier) & np.isfinite(offset))
    n_invalid = int(np.count_nonzero(invalid))
    if n_invalid:
        multiplier, offset = (np.where(invalid, np.float32(0), array) for array in (multiplier, offset))
    return Calibration(gain=multiplier, offset=offset, n_invalid=n_invalid)
