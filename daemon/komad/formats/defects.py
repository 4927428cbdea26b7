"""Pixels that are known to be bad: boxes of MotionCor2, defect lists of SerialEM, maps in MRC or TIFF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, ReferenceFileError
from komad.formats.grids import bad_for, fits
from komad.formats.images import read_image
from komad.formats.source import SourceFile

MAX_TEXT_BYTES = 1 << 20
"""A list of defects is not longer."""
MOST_BAD = 0.5
"""A map that marks more than these marks the good ones."""
SAME_FIELD = 0.01
"""Frames whose sides are those of the camera within this part, or a power of two times them, show its field."""

LARGEST = 10**9
"""Pixels: a number beyond is none of a detector, and none that can be computed with."""

Box = tuple[float, float, float, float]
"""x and y of the first pixel, x and y behind the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defects:
    """The bad pixels of a frame."""

    pixels: npt.NDArray[np.bool_]
    """(ny, nx) in MRC row order, True where bad."""
    n_given: int
    """Entries of the list; of a map, its bad pixels."""
    n_outside: int = 0
    """Entries that lie outside of the frame, and were ignored."""
    map_size: tuple[int, int] | None = None
    """(ny, nx) of a map as it is in its file; None for lists."""

    @property
    def part(self) -> float:
        """Of the pixels that is bad."""
        return np.count_nonzero(self.pixels) / self.pixels.size


def read_defects(path: Path, shape: tuple[int, int]) -> Defects:
    """Read which pixels of a frame (ny, nx) are bad.

    - A map is a picture whose non-zero pixels are bad, of the size of the frames, or 2 or 4 times finer or coarser.
    - Lines `x y width height`, in pixels from 0 at the lower left, are boxes as MotionCor2 and RELION read them; `#`
      begins a comment.
    - Lines that begin with a word as BadColumns or CameraSizeX are a defect list of SerialEM, in pixels from 0 at the
      upper left; it is brought to the size of the frames.

    Raises
    ------
    ReferenceFileError
        The file is missing, is none of these, or does not fit the frames: all defects lie outside.
    """
    text = _text(path)
    if text is None:
        defects = _map(path, shape)
    else:
        lines = list(_lines(text))
        defects = marked(_serialem(lines, path, shape) if _is_serialem(lines) else _boxes(lines, path), shape)
    if defects.n_given and defects.n_outside == defects.n_given:
        raise ReferenceFileError(
            f"{path}: all {defects.n_given} defects lie outside of frames of {shape[1]} x {shape[0]} pixels; give the "
            "defects of this camera and mode"
        )
    if defects.part > MOST_BAD:
        raise ReferenceFileError(
            f"{path} marks {defects.part:.0%} of the pixels as bad: a map is 0 where a pixel is good"
        )
    return defects


def _text(path: Path) -> str | None:
    """The content, if it is text."""
    try:
        with SourceFile(path) as source:
            raw = source.read(0, MAX_TEXT_BYTES + 1)
    except MovieError as error:
        raise ReferenceFileError(f"the defects cannot be used: {error}") from error
    if not raw:
        raise ReferenceFileError(f"the defects cannot be used: {path} is empty (0 bytes)")
    if b"\0" in raw or len(raw) > MAX_TEXT_BYTES:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Numbers of lines, from 1, and their words, without comments."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def _map(path: Path, shape: tuple[int, int]) -> Defects:
    image = read_image(path)
    ny, nx = image.shape
    if not fits(image.shape, shape):
        turned = (
            "; it fits when turned by a quarter: give one as the movie is"
            if fits(image.shape, shape[::-1])
            else "; give the map of this camera and mode"
        )
        raise ReferenceFileError(
            f"the defect map {path} has {nx} x {ny} pixels, the frames {shape[1]} x {shape[0]}{turned}"
        )
    pixels = image != 0
    return Defects(pixels=bad_for(pixels, shape), n_given=int(np.count_nonzero(pixels)), map_size=(ny, nx))


def marked(boxes: Iterable[Box], shape: tuple[int, int]) -> Defects:
    """Mark boxes, given in pixels of a picture of this `shape` (ny, nx) and its rows; parts outside are ignored."""
    ny, nx = shape
    pixels = np.zeros(shape, dtype=np.bool_)
    n_given = n_outside = 0
    for x0, y0, x1, y1 in boxes:
        n_given += 1
        inside = x1 > 0 and y1 > 0 and x0 < nx and y0 < ny
        n_outside += not inside
        rows, columns = (
            (math.floor(min(max(0, first), size)), math.ceil(max(0, min(end, size))))
            for first, end, size in ((y0, y1, ny), (x0, x1, nx))
        )
        pixels[slice(*rows), slice(*columns)] = True
    return Defects(pixels=pixels, n_given=n_given, n_outside=n_outside)


def _whole(word: str) -> int:
    """Raises ValueError when the word is no whole number, or none of pixels."""
    number = int(word)
    if abs(number) > LARGEST:
        raise ValueError(word)
    return number


def _boxes(lines: Iterable[tuple[int, Sequence[str]]], path: Path) -> Iterator[Box]:
    """MotionCor2's boxes."""
    for number, words in lines:
        try:
            x, y, width, height = (_whole(word) for word in words)
        except ValueError:
            width = height = 0
        if min(width, height) < 1:
            raise ReferenceFileError(
                f"{path}, line {number}: '{' '.join(words)}' is no box `x y width height`, and the file no defect list "
                "of SerialEM"
            )
        yield x, y, x + width, y + height


# SerialEM, as IMOD's programs read its lists: coordinates from the upper left of the frames as they were saved, in
# pixels of CameraSizeX and CameraSizeY; WasScaled 1 (2) says that BadPixels are the corners of 2 x 2 (4 x 4) pixels.
VALUES_OF_KEY = {
    "CameraSizeX": 1,
    "CameraSizeY": 1,
    "RotationAndFlip": 1,
    "WasScaled": 1,
    "K2Type": 1,
    "FalconType": 1,
    "NumToAvgSuperRes": 1,
    "UsableArea": 4,
    "PartialBadColumn": 4,
    "PartialBadRow": 4,
    "BadPixels": 2,
    "BadColumns": 1,
    "BadRows": 1,
}
"""Keys, and the least number of values behind each."""


def _is_serialem(lines: Iterable[tuple[int, Sequence[str]]]) -> bool:
    return any(words[0] in VALUES_OF_KEY for _, words in lines)


def _serialem(
    lines: Iterable[tuple[int, Sequence[str]]], path: Path, shape: tuple[int, int]
) -> Iterator[Box]:
    """Defects of SerialEM's list in pixels of the frames, in MRC row order."""
    entries = list(_entries(lines, path))
    single = {key: values[0] for key, values in entries if VALUES_OF_KEY[key] == 1}
    camera = (single.get("CameraSizeY", 0), single.get("CameraSizeX", 0))
    if min(camera) < 1:
        raise ReferenceFileError(f"{path} is a defect list of SerialEM without CameraSizeX and CameraSizeY")
    finer = _times_finer(camera, shape)
    if finer is None:
        turned = ", turned by a quarter" if _times_finer(camera[::-1], shape) else ""
        raise ReferenceFileError(
            f"{path}: its defects are of a camera of {camera[1]} x {camera[0]} pixels, the frames are {shape[1]} x "
            f"{shape[0]}{turned}; give the list that SerialEM saved with these frames"
        )
    ny, _ = shape
    # Frames that are a little smaller or larger than the camera show its middle.
    oy, ox = ((n - round(size * finer)) // 2 for n, size in zip(shape, camera, strict=True))
    for x0, y0, x1, y1 in _camera_boxes(entries, single, camera):
        yield x0 * finer + ox, ny - (y1 * finer + oy), x1 * finer + ox, ny - (y0 * finer + oy)


def _entries(lines: Iterable[tuple[int, Sequence[str]]], path: Path) -> Iterator[tuple[str, list[int]]]:
    """Keys that are known, and their values; others are for later versions, and passed over."""
    for number, (key, *words) in lines:
        if key not in VALUES_OF_KEY:
            continue
        least = VALUES_OF_KEY[key]
        try:
            values = [_whole(word) for word in words]
        except ValueError:
            values = []
        if len(values) < least or (least > 1 and len(values) % least):
            raise ReferenceFileError(
                f"{path}, line {number}: '{' '.join([key, *words])}' needs {least} whole number(s) behind {key}"
            )
        yield key, values


def _camera_boxes(
    entries: Iterable[tuple[str, list[int]]], single: Mapping[str, int], camera: tuple[int, int]
) -> Iterator[Box]:
    """Defects in pixels of the camera from the upper left; lines reach beyond it, as frames may."""
    far = math.inf
    pixel = {1: 2, 2: 4}.get(single.get("WasScaled", 0), 1)
    for key, values in entries:
        match key, values:
            case "BadColumns", columns:
                yield from ((x, -far, x + 1, far) for x in columns)
            case "BadRows", rows:
                yield from ((-far, y, far, y + 1) for y in rows)
            case "BadPixels", numbers:
                for x, y in zip(numbers[::2], numbers[1::2], strict=True):
                    yield x, y, x + pixel, y + pixel
            case "PartialBadColumn", [x, width, first, last, *_]:
                yield x, first, x + width, last + 1
            case "PartialBadRow", [y, height, first, last, *_]:
                yield first, y, last + 1, y + height
            case "UsableArea", [top, left, bottom, right, *_]:
                yield from _outside(top, left, bottom, right, camera)


def _outside(top: int, left: int, bottom: int, right: int, camera: tuple[int, int]) -> Iterator[Box]:
    """What lies outside of the usable area; 0 stands for the edge of the camera."""
    far = math.inf
    if top > 0:
        yield -far, -far, far, top
    if left > 0:
        yield -far, -far, left, far
    if 0 < bottom < camera[0] - 1:
        yield -far, bottom + 1, far, far
    if 0 < right < camera[1] - 1:
        yield right + 1, -far, far, far


def _times_finer(camera: tuple[int, int], shape: tuple[int, int]) -> float | None:
    """Pixels of the frames per pixel of the camera: a power of two; None when they do not show its field."""
    finer = 2.0 ** round(math.log2(shape[0] / camera[0]))
    same = all(abs(n / (size * finer) - 1) <= SAME_FIELD for n, size in zip(shape, camera, strict=True))
    return finer if same else None
