"""Movies as other programs need them: where they lie, whether RELION reads them, and how they are unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, OutputError
from komad.export.session import Entry
from komad.formats.frame_files import status_of
from komad.formats.movies import read_frames
from komad.formats.mrc import PACKED
from komad.formats.mrc_writer import write_mrc_movie

READ_BY_RELION = {"mrc": (".mrc", ".mrcs"), "tiff": (".tif", ".tiff"), "eer": (".eer",)}
"""Format -> suffixes by which RELION knows it."""
MODES_OF_RELION = frozenset({0, 1, 2, 6, 101})
"""Modes of MRC that RELION 3.1.3 reads."""

WHOLE_MODES = {0: "int8", 1: "int16", 6: "uint16"}
FLOAT = 2


class State(StrEnum):
    """What can be done with a movie."""

    AS_IT_LIES = "as it lies"
    PACKED = "packed"
    """It must be unpacked first."""
    LOST = "lost"
    """Neither the movie nor an archive of it is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawMovie:
    """A movie for RELION."""

    state: State
    source: Path
    """What is linked or unpacked."""
    suffix: str
    """Of the name under which RELION finds it."""
    n_bytes: int
    """Unpacked."""


def raw_movie(entry: Entry, details: Mapping[str, Any]) -> RawMovie:
    """Look where the frames of a movie are; `details` is its `<stem>.json`."""
    header = details["header"]
    n_bytes = header["n_frames"] * header["ny"] * header["nx"] * np.dtype(header["dtype"]).itemsize
    suffixes = READ_BY_RELION.get(str(header["format"]), ())
    unknown_mode = header["format"] == "mrc" and header.get("mrc_mode") not in {None, *MODES_OF_RELION}
    if unknown_mode or PACKED in header.get("facts", {}):
        suffixes = ()
    archive = entry.archive if entry.archive is not None and entry.archive.is_file() else None
    is_there = _is_the_file(entry.movie, details["movie_file"])

    def found(state: State, source: Path, suffix: str) -> RawMovie:
        return RawMovie(state=state, source=source, suffix=suffix, n_bytes=int(n_bytes))

    if is_there and suffixes:
        own = entry.movie.suffix.lower()
        return found(State.AS_IT_LIES, entry.movie, own if own in suffixes else suffixes[0])
    if archive is not None and archive.suffix == ".eer":
        return found(State.AS_IT_LIES, archive, ".eer")
    if archive is not None or is_there:
        return found(State.PACKED, archive or entry.movie, ".mrc")
    return found(State.LOST, entry.movie, suffixes[0] if suffixes else ".mrc")


def _is_the_file(movie: Path, told: Mapping[str, Any]) -> bool:
    """Whether the movie, of one file or of several, is still there, and not another one of the same name."""
    try:
        return status_of(movie).size_bytes == int(told["size_bytes"])
    except (OSError, MovieError):
        return False


def unpack(raw: RawMovie, target: Path, *, pixel_size_angstrom: float) -> None:
    """Write the frames as MRC that RELION reads; a file that is there already was written before and stays.

    Raises
    ------
    MovieError
        The frames cannot be read.
    OutputError, DiskFullError
        They cannot be written.
    """
    if target.is_file() and not target.is_symlink():
        return
    if target.is_symlink() and target.exists():
        raise OutputError(f"{target} is a link that komad did not make; move it away")
    target.unlink(missing_ok=True)
    frames = read_frames(raw.source)
    mode = _mode_for_relion(frames)
    if mode == FLOAT:
        frames = frames.astype(np.float32, copy=False)
    write_mrc_movie(target, frames, mode, pixel_size_angstrom=pixel_size_angstrom, signed=mode == 0)


def _mode_for_relion(frames: npt.NDArray[Any]) -> int:
    """The smallest mode that holds the counts; bytes above 127 are negative for RELION, so they need 16 bits."""
    smallest, largest = frames.min(), frames.max()
    for mode, kind in WHOLE_MODES.items() if frames.dtype.kind in "iu" else ():
        if np.iinfo(kind).min <= smallest and largest <= np.iinfo(kind).max:
            return mode
    return FLOAT
