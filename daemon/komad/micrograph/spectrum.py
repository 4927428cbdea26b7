"""Power spectrum of a micrograph, for the estimation of the contrast transfer function."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, beside, namespace, parallel_map, rfft2, to_host
from komad.optics.frequency import fast_even_length

FloatArray = npt.NDArray[np.float32]

SPECTRUM_LENGTH = 512
SPECTRUM_PIXEL_ANGSTROM = 1.4
"""Rings beyond 2.8 Å are never used for the fit; RELION writes its spectra at the same pixel size."""


def power_spectrum(
    pictures: Iterable[FloatArray],  # each (y, x), unweighted sums
    *,
    pixel_size_angstrom: float,
) -> tuple[FloatArray, float]:
    """Amplitude spectrum averaged over half-overlapping tiles, zero frequency in the middle (Welch's method).

    The powers of several pictures are added: sums of successive groups of frames, which motion that was not corrected
    has blurred less than the sum of all, as RELION does it.

    Returns
    -------
    spectrum : (512, 512) float32 on the host, root of the power, zero frequency at [256, 256].
    pixel_size : Å per pixel of a picture that would have this spectrum; Nyquist is at the edge.

    Notes
    -----
    A picture smaller than one tile is padded with its mean.
    """
    length = fast_even_length(
        max(SPECTRUM_LENGTH, round(SPECTRUM_LENGTH * SPECTRUM_PIXEL_ANGSTROM / pixel_size_angstrom))
    )
    power: Any = sum(_mean_power(_at_least(picture, length), length) for picture in pictures)
    amplitude = to_host(np.sqrt(power).astype(np.float32))
    return _centred(amplitude), pixel_size_angstrom * length / SPECTRUM_LENGTH


def _mean_power(picture: FloatArray, length: int) -> Array:
    """(length, length // 2 + 1): power of windowed tiles, their mean; 1 for white noise of unit spread."""
    xp = namespace(picture)
    profile = np.hanning(length + 1)[:length].astype(np.float32)
    window = beside(picture, profile[:, None]) * beside(picture, profile[None, :])

    def power_of(tiles_at: list[tuple[int, int]]) -> FloatArray:
        tiles = xp.stack([picture[y : y + length, x : x + length] for y, x in tiles_at])
        tiles -= tiles.mean(axis=(1, 2), keepdims=True)
        tiles *= window
        spectra = rfft2(tiles)
        power = np.square(spectra.real)
        power += np.square(spectra.imag)
        return power.sum(axis=0)

    rows, columns = (_starts(n, length) for n in picture.shape)
    # A tile for each thread, but on a GPU a row of them: it is slow at many small things.
    at_once = 1 if xp is np else len(columns)
    corners = [(int(y), int(x)) for y in rows for x in columns]
    some = [corners[i : i + at_once] for i in range(0, len(corners), at_once)]
    mean = xp.zeros((length, length // 2 + 1), np.float64)
    for power in parallel_map(picture, power_of, some):
        mean += power
    return mean / (len(corners) * float(np.square(profile).sum()) ** 2)


def _at_least(picture: FloatArray, length: int) -> FloatArray:
    """The picture, padded with its mean to at least `length` pixels a side."""
    missing = [max(0, length - n) for n in picture.shape]
    if not any(missing):
        return picture
    return np.pad(picture, [(0, n) for n in missing], constant_values=float(picture.mean()))


def _starts(n: int, length: int) -> npt.NDArray[np.intp]:
    """Starts of half-overlapping tiles that cover [0, n) from end to end."""
    count = max(1, round((n - length) / (length / 2)) + 1)
    return np.linspace(0, n - length, count).astype(np.intp)


def _centred(half: FloatArray) -> FloatArray:
    """The inner 512 x 512 of a half-plane spectrum, as a full plane with zero frequency in the middle."""
    middle = SPECTRUM_LENGTH // 2
    rows = np.r_[-middle:middle]
    right = half[rows, : middle + 1]
    left = half[-rows, middle:0:-1]
    return np.ascontiguousarray(np.concatenate([left, right[:, :middle]], axis=1))
