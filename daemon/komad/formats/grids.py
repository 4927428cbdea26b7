"""References of finer or coarser pixels than the frames': super-resolution for counting, and the other way round.

A pixel of coarse frames holds the counts of n x n fine ones. So responses are averaged, darks add up, and a pixel is
bad where one of its parts is. For fine frames each part of a coarse pixel gets the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.detector.gain import inverted, reciprocal

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, ...]

TIMES = (1, 2, 4)
"""Pixels of the finer grid along one of the coarser; K2, K3 and Falcon have these."""


def times_finer(image: Shape, frames: Shape) -> int | None:
    """How many pixels of the image lie along one of the frames; None where the image is no finer by one of `TIMES`."""
    return next((n for n in TIMES if tuple(n * length for length in frames) == tuple(image)), None)


def fits(image: Shape, frames: Shape) -> bool:
    """Whether an image of this size can be brought to the pixels of the frames."""
    return times_finer(image, frames) is not None or times_finer(frames, image) is not None


def factor_for(image: FloatArray, frames: Shape, *, is_response: bool) -> FloatArray:
    """Give the factor (ny, nx) of frames of this size from a gain reference that `fits`: itself, or mean by response.

    The responses of n x n pixels are averaged, also those that factors stand for: the mean of the factors is another
    number. 0, a defect, where one of the parts is no positive number.
    """
    n = times_finer(image.shape, frames)
    if n is None:
        return repeated(inverted(image) if is_response else image, frames)
    if n == 1:
        return inverted(image) if is_response else image
    response = np.zeros(frames, np.float32)
    for part in _parts(image, n):
        response += np.where(part > 0, part, np.nan) if is_response else reciprocal(part)
    response /= n * n
    return inverted(response) if is_response else np.nan_to_num(reciprocal(response), copy=False, nan=0.0)


def dark_for(image: FloatArray, frames: Shape) -> FloatArray:
    """Give the dark counts (ny, nx) of frames of this size from a dark reference that `fits`."""
    n = times_finer(image.shape, frames)
    if n is None:
        return repeated(image * np.float32(image.size / np.prod(frames)), frames)
    return image if n == 1 else np.add.reduce(list(_parts(image, n)))


def bad_for(pixels: npt.NDArray[np.bool_], frames: Shape) -> npt.NDArray[np.bool_]:
    """Give the bad pixels (ny, nx) of frames of this size from a map that `fits`."""
    n = times_finer(pixels.shape, frames)
    if n is None:
        return repeated(pixels, frames)
    return pixels if n == 1 else np.logical_or.reduce(list(_parts(pixels, n)))


def repeated(image: npt.NDArray[Any], frames: Shape) -> npt.NDArray[Any]:
    """Each pixel n x n times, as a new array of the size of the frames."""
    (ny, nx), n = image.shape, frames[0] // image.shape[0]
    return np.broadcast_to(image[:, None, :, None], (ny, n, nx, n)).reshape(ny * n, nx * n)


def _parts(image: npt.NDArray[Any], n: int) -> Iterator[npt.NDArray[Any]]:
    """The pixels at one of the n x n places within the coarser ones, for each place; views."""
    return (image[y::n, x::n] for y in range(n) for x in range(n))
