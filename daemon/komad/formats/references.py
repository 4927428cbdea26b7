"""Gain, dark and defects as arrays that fit the frames of a movie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad.detector.gain import orient
from komad.errors import ReferenceFileError
from komad.formats.defects import Defects, read_defects
from komad.formats.images import read_image
from komad.model import ReferenceFile, References

N_CACHED = 2
"""Arrays of each kind that stay in memory: the present one and that of another watched folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedReferences:
    """What the detector does to a picture, as (ny, nx) in MRC row order; None where the configuration names no file.

    The arrays are shared between movies: never change them.
    """

    gain: npt.NDArray[np.float32] | None = None
    """Turned and flipped as the frames are."""
    dark: npt.NDArray[np.float32] | None = None
    defects: npt.NDArray[np.bool_] | None = None
    """True where a pixel is bad."""
    warnings: tuple[str, ...] = ()
    """What a person should know of the files, in plain words."""


def load(references: References, shape: tuple[int, int]) -> LoadedReferences:
    """Read the references of a movie whose frames have `shape` (ny, nx). Only the gain is turned and flipped.

    Raises
    ------
    ReferenceFileError
        A file cannot be read or has another size than the frames; the message names both sizes and what to try.
    """
    gain, dark, defects = references.gain, references.dark, references.defects
    marked = _defects(defects, shape) if defects else None
    return LoadedReferences(
        gain=_gain(gain, references.gain_rot, references.gain_flip, shape) if gain else None,
        dark=_dark(dark, shape) if dark else None,
        defects=marked.pixels if marked else None,
        warnings=tuple(_warnings(defects, marked, shape)),
    )


@lru_cache(4 * N_CACHED)
def check(references: References, shape: tuple[int, int]) -> None:
    """Raise as `load` would; no array stays in memory."""
    gain, dark, defects = references.gain, references.dark, references.defects
    if gain:
        _gain.__wrapped__(gain, references.gain_rot, references.gain_flip, shape)
    if dark:
        _dark.__wrapped__(dark, shape)
    if defects:
        _defects.__wrapped__(defects, shape)


def read_gain(file: ReferenceFile) -> npt.NDArray[np.float32]:
    """Read a gain reference (ny, nx) as it lies in its file.

    Raises
    ------
    ReferenceFileError
        It cannot be read, or would leave nothing of a movie.
    """
    image = read_image(file.path)
    if not np.any((image > 0) & np.isfinite(image)):
        raise ReferenceFileError(
            f"{file.original_path}: the gain reference has no pixel above zero, so nothing would be left of the movie; "
            "give another file, or take one from the movies with `komad gain estimate`"
        )
    return image


@lru_cache(N_CACHED)
def _gain(
    file: ReferenceFile, gain_rot: int, gain_flip: int, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    image = orient(read_gain(file), gain_rot=gain_rot, gain_flip=gain_flip)
    if image.shape != shape:
        advice = _advice(image.shape, shape, f"gain_rot = {(gain_rot + 1) % 4} or {(gain_rot + 3) % 4}")
        raise ReferenceFileError(_wrong_size("gain", file.original_path, image.shape, shape) + advice)
    return np.ascontiguousarray(image)


@lru_cache(N_CACHED)
def _dark(file: ReferenceFile, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    image = read_image(file.path)
    if image.shape != shape:
        advice = _advice(image.shape, shape, "a dark reference as the movie is; it is not turned")
        raise ReferenceFileError(_wrong_size("dark", file.original_path, image.shape, shape) + advice)
    return image


@lru_cache(N_CACHED)
def _defects(file: ReferenceFile, shape: tuple[int, int]) -> Defects:
    return read_defects(file.path, shape)


def _warnings(file: ReferenceFile | None, defects: Defects | None, shape: tuple[int, int]) -> Iterator[str]:
    if file and defects and defects.n_outside:
        yield (
            f"{defects.n_outside} of {defects.n_given} defects in {file.original_path} lie outside of frames of "
            f"{shape[1]} x {shape[0]} pixels, and are ignored"
        )


def _wrong_size(kind: str, path: Path, image: tuple[int, ...], frames: tuple[int, int]) -> str:
    return f"{path}: the {kind} reference is {image[1]} x {image[0]} pixels, the frames are {frames[1]} x {frames[0]}; "


def _advice(image: tuple[int, ...], frames: tuple[int, int], when_turned: str) -> str:
    if image == frames[::-1]:
        return f"it fits when turned by a quarter: try {when_turned}"
    for this, other in ((image, frames), (image, frames[::-1])):
        if tuple(2 * n for n in this) == other:
            return "it is half as large: the movies are super-resolution, give the reference for super-resolution"
        if this == tuple(2 * n for n in other):
            return "it is twice as large: the reference is for super-resolution, give the one for counting"
    return "give the reference of this camera and mode"
