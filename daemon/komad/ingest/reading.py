"""What one sidecar says of one movie."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from komad.formats.eer import ANNOUNCED
from komad.model import MovieHeader

MOST_BYTES = 128 << 20
"""A sidecar is not longer; the longest are those of a whole session, with 1.5 KB for each movie."""
FINEST = 1024.0
"""Sampling of a movie, relative to the image shown: more, and either number is wrong."""

Value = float | tuple[float, ...]
"""One number, or one for each frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Values that are certain, and why others are not."""

    name: str
    """File name of the sidecar."""
    values: Mapping[str, Value] = field(default_factory=dict)
    """Field of `Acquisition` -> value in its unit."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Field of `Acquisition` -> why what the sidecar says was not used."""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What else is worth keeping; names carry the unit."""
    earlier_exposures: float | None = 0.0
    """As in `Acquisition`: None when the movie's tilt series is named and does not list it (yet)."""

    @classmethod
    def of(
        cls,
        name: str,
        found: Mapping[str, tuple[Value | None, str]],
        facts: Mapping[str, float | str],
        *,
        earlier_exposures: float = 0.0,
    ) -> Reading:
        """Make a reading from (value, doubt) of each field: the value when there is one, else the doubt, if any."""
        return cls(
            name=name,
            values={field: value for field, (value, _) in found.items() if value},
            doubts={
                field: f"{name}: {doubt}" for field, (value, doubt) in found.items() if doubt and not value
            },
            facts=facts,
            earlier_exposures=earlier_exposures,
        )


def content(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a small file.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no regular file (a named pipe would be waited for), or longer than `most_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_size > most_bytes:
            raise ValueError(f"it is longer than {most_bytes} bytes")
        return file.read(status.st_size)


def finite(text: str) -> float | None:
    """The number that a word is; None when it is none, or not finite: what is computed from it could not be stored."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def times_finer(movie: tuple[float, float], image: tuple[float, float]) -> float | None:
    """Sampling of a movie relative to an image of the same field, both given as two sides in pixels.

    Returns
    -------
    float or None
        A power of two; None when the sides do not agree with one within 1 %: then the fields differ.
    """
    ratio = movie[0] / image[0]
    if not 1 / FINEST <= ratio <= FINEST:
        return None
    finer = float(2.0 ** round(math.log2(ratio)))
    same_field = all(abs(m - i * finer) < 0.01 * i * finer for m, i in zip(movie, image, strict=True))
    return finer if same_field else None


def n_frames_exposed(header: MovieHeader) -> int:
    """Frames of the exposure as it was meant, which dose and time are told of: more than there are if it stopped."""
    return max(header.n_frames, int(header.facts.get(ANNOUNCED, 0)))


def same_count(said: float, n_frames: int) -> bool:
    """Tell whether a number of frames in a sidecar means the frames of the movie.

    One frame or 5 % may be missing (cameras drop frames at the end): the dose per frame stays what it was. A larger
    difference means that frames were grouped or left out, and the dose of a frame of the movie is not known.
    """
    return abs(said - n_frames) <= max(1.0, 0.05 * n_frames)
