"""Small pictures placed at any sub-pixel position without interpolation: whole pixels by index, the rest by phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprites:
    """Things that move as one piece each. Several may share a picture."""

    spectra: npt.NDArray[np.complex64]
    """(n_pictures, box, box // 2 + 1): `rfft2` of square periodic pictures, Nyquist lines zero."""
    picture: npt.NDArray[np.intp]
    """(n_sprites,) index of each one's picture."""
    centres_px: npt.NDArray[np.float64]
    """(n_sprites, 2) as (y, x): where picture index (box // 2, box // 2) lies before the exposure."""
    damaged: bool
    """Whether the beam wears it out."""

    @property
    def box(self) -> int:
        """Side of the pictures in pixels."""
        return int(self.spectra.shape[1])


def add_sprites(
    canvas: npt.NDArray[np.float32],  # (ny, nx), changed in place
    spectra: npt.NDArray[np.complex64],  # (n_pictures, box, box // 2 + 1)
    picture: npt.NDArray[np.intp],  # (n,)
    positions_px: FloatArray,  # (n, 2)
) -> None:
    """Add each sprite to `canvas` with its centre at (y, x); what lies outside is cut off."""
    box = spectra.shape[1]
    ky = -2j * np.pi * np.fft.fftfreq(box)
    kx = -2j * np.pi * np.fft.rfftfreq(box)
    corners = np.floor(positions_px).astype(np.int64)
    parts = positions_px - corners
    for index, (y, x), (dy, dx) in zip(picture, corners - box // 2, parts, strict=True):
        inside = _overlap(int(y), box, canvas.shape[0]), _overlap(int(x), box, canvas.shape[1])
        if any(part.stop <= part.start for part in inside):
            continue
        phase_y = np.exp(ky * dy).astype(np.complex64)
        phase_x = np.exp(kx * dx).astype(np.complex64)
        shifted = spectra[index] * phase_x
        shifted *= phase_y[:, None]
        image = scipy.fft.irfft2(shifted, s=(box, box), overwrite_x=True, workers=1)
        rows, columns = inside
        canvas[rows, columns] += image[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def _overlap(start: int, length: int, size: int) -> slice:
    """Part of [start, start + length) inside [0, size)."""
    return slice(max(start, 0), min(start + length, size))
