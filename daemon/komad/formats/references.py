"""Gain, dark and defects as arrays that fit the frames of a movie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.detector.gain import orient
from komad.errors import ReferenceFileError
from komad.formats.defects import MOST_BAD, marked, read_defects
from komad.formats.falcon import read_header_defects
from komad.formats.grids import bad_for, dark_for, factor_for, fits
from komad.formats.images import read_image
from komad.formats.movies import open_movie
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

    Those whose pixels are 2 or 4 times finer or coarser are brought to the pixels of the frames, and a warning says so.

    Raises
    ------
    ReferenceFileError
        A file cannot be read or does not fit the frames; the message names both sizes and what to try.
    """
    factor = _gain(replace(references, dark=None, defects=None), shape) if references.gain else None
    offset = _dark(references.dark, shape) if references.dark else None
    bad = _bad(replace(references, dark=None), shape)
    return LoadedReferences(
        gain=factor.image if factor else None,
        dark=offset.image if offset else None,
        defects=bad.image,
        warnings=tuple(warning for each in (factor, offset, bad) if each for warning in each.warnings),
    )


@lru_cache(4 * N_CACHED)
def check(references: References, shape: tuple[int, int]) -> None:
    """Raise as `load` would; no array stays in memory."""
    if references.gain:
        _gain.__wrapped__(references, shape)
    if references.dark:
        _dark.__wrapped__(references.dark, shape)
    _bad.__wrapped__(references, shape)


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


def read_factor(references: References, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Read the gain of a movie as the factor in pixels of its frames (ny, nx), but not yet turned and flipped.

    Raises
    ------
    ReferenceFileError
        As `load`; but a gain that would fit after another quarter turn is given as it is, (nx, ny).
    """
    return _factor(references, shape)[0]


def _factor(
    references: References, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """The factor, and the size of the picture in the file."""
    gain = references.gain
    assert gain is not None
    image = read_gain(gain)
    if references.gain_rows_as_eer:
        image = image[::-1]
    ny, nx = image.shape
    for frames in (shape, shape[::-1]) if references.gain_rot % 2 == 0 else (shape[::-1], shape):
        if fits(image.shape, frames):
            return factor_for(image, frames, is_response=references.gain_is_response), (ny, nx)
    raise ReferenceFileError(
        f"{_sizes('gain', gain, (ny, nx), shape)}; give the reference of this camera and mode"
    )


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A reference in pixels of the frames."""

    image: Any
    """(ny, nx); None where no pixel is known to be bad."""
    warnings: tuple[str, ...]


@lru_cache(N_CACHED)
def _gain(references: References, shape: tuple[int, int]) -> _Fitted:
    gain, rot = references.gain, references.gain_rot
    assert gain is not None
    factor, size = _factor(references, shape)
    image = orient(factor, gain_rot=rot, gain_flip=references.gain_flip)
    if image.shape != shape:
        raise ReferenceFileError(
            f"{_sizes('gain', gain, size, shape)}; it fits when turned by a quarter: try gain_rot = "
            f"{(rot + 1) % 4} or {(rot + 3) % 4}"
        )
    return _Fitted(np.ascontiguousarray(image), tuple(_notice("gain", gain, size, shape)))


@lru_cache(N_CACHED)
def _dark(file: ReferenceFile, shape: tuple[int, int]) -> _Fitted:
    image = read_image(file.path)
    ny, nx = image.shape
    if not fits(image.shape, shape):
        advice = (
            "it fits when turned by a quarter: give a dark reference as the movie is; it is not turned"
            if fits(image.shape, shape[::-1])
            else "give the reference of this camera and mode"
        )
        raise ReferenceFileError(f"{_sizes('dark', file, (ny, nx), shape)}; {advice}")
    return _Fitted(dark_for(image, shape), tuple(_notice("dark", file, (ny, nx), shape)))


@lru_cache(N_CACHED)
def _bad(references: References, shape: tuple[int, int]) -> _Fitted:
    """The defects that are configured, and those in the header of the gain."""
    found = [_listed(references.defects, shape)] if references.defects else []
    if references.gain:
        found += _in_header(references, references.gain, shape)
    pixels = [each.image for each in found if each.image is not None]
    return _Fitted(
        np.logical_or.reduce(pixels) if pixels else None,
        tuple(warning for each in found for warning in each.warnings),
    )


def _listed(file: ReferenceFile, shape: tuple[int, int]) -> _Fitted:
    defects = read_defects(file.path, shape)
    warnings = list(_notice("defects", file, defects.map_size or shape, shape))
    if defects.n_outside:
        warnings.append(
            f"{defects.n_outside} of {defects.n_given} defects in {file.original_path} lie outside of frames of "
            f"{shape[1]} x {shape[0]} pixels, and are ignored"
        )
    return _Fitted(defects.pixels, tuple(warnings))


def _in_header(references: References, gain: ReferenceFile, shape: tuple[int, int]) -> Iterator[_Fitted]:
    """Give the defects in the header of the gain, which lie as it does; what cannot be used is told."""
    header = read_header_defects(gain.path)
    if header is None:
        return
    place = f"the header of {gain.original_path}"
    warnings = []
    if header.unreadable:
        warnings.append(
            f"{place} lists defects that cannot be read ({'; '.join(header.unreadable)}): name them with "
            "references.defects"
        )
    with open_movie(gain.path) as picture:
        defects = marked(header.boxes, (picture.header.ny, picture.header.nx))
    if defects.n_outside:
        warnings.append(
            f"{defects.n_outside} of {defects.n_given} defects in {place} lie outside, and are ignored"
        )
    if defects.part > MOST_BAD:
        warnings.append(f"{place} marks {defects.part:.0%} of the pixels as bad, which is not believed")
        yield _Fitted(None, tuple(warnings))
        return
    rows = defects.pixels if references.gain_rows_as_eer else defects.pixels[::-1]
    turned = orient(rows, gain_rot=references.gain_rot, gain_flip=references.gain_flip)
    pixels = bad_for(turned, shape)
    if pixels.any():
        warnings.insert(
            0,
            f"{place} lists {defects.n_given - defects.n_outside} defects: {np.count_nonzero(pixels)} pixels of the "
            "frames are bad",
        )
    yield _Fitted(pixels, tuple(warnings))


BROUGHT = {
    "gain": (
        "the response of {n} x {n} of its pixels was averaged",
        "each of its pixels stands for {n} x {n}, and what differs between these stays",
    ),
    "dark": ("{n} x {n} of its pixels were added up", "each of its pixels was shared out among {n} x {n}"),
    "defects": ("a pixel is bad where one of {n} x {n} is", "each of its pixels stands for {n} x {n}"),
}
"""What is done to a reference that is finer, or coarser."""
NAMES = {"gain": "gain reference", "dark": "dark reference", "defects": "defect map"}


def _notice(kind: str, file: ReferenceFile, image: tuple[int, int], frames: tuple[int, int]) -> Iterator[str]:
    """Tell of a reference whose pixels were brought to those of the frames; it may lie across."""
    n, finer = max(image) // max(frames), True
    if n == 0:
        n, finer = max(frames) // max(image), False
    if n > 1:
        yield f"{_sizes(kind, file, image, frames)}: {BROUGHT[kind][not finer].format(n=n)}"


def _sizes(kind: str, file: ReferenceFile, image: tuple[int, int], frames: tuple[int, int]) -> str:
    return (
        f"{file.original_path}: the {NAMES[kind]} is {image[1]} x {image[0]} pixels, "
        f"the frames are {frames[1]} x {frames[0]}"
    )
