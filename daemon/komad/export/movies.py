"""Movies as other programs need them: where they lie, whether RELION reads them, and how they are unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, OutputError
from komad.export.session import Entry
from komad.formats.eer import COMPRESSION_FACT, PICTURES
from komad.formats.frame_files import status_of
from komad.formats.movies import read_frames
from komad.formats.mrc import HEADER_BYTES, PACKED, PACKED_4_BIT, largest_in_header
from komad.formats.mrc_writer import RELION_MOST, write_mrc_movie
from komad.model import EerRendering, MovieFormat, MovieHeader
from komad.output.schema import MovieDetails, MovieFile

READ_BY_RELION = {
    MovieFormat.MRC: (".mrc", ".mrcs"),
    MovieFormat.TIFF: (".tif", ".tiff"),
    MovieFormat.EER: (".eer",),
}
"""Format -> suffixes by which RELION knows it."""
MODES_OF_RELION = frozenset({0, 1, 2, 6, 101})
"""Modes of MRC that RELION 3.1.3 reads."""
EER_COMPRESSIONS = frozenset({65000, 65001})
EER_SIDE = 4096
"""Pixels of the camera, the only ones that RELION 3.1.3 knows of EER movies."""

WHOLE_MODES = {0: "int8", 1: "int16"}
"""Mode -> type, of those that nobody reads wrong."""
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
    rendering: EerRendering | None = None
    """Of an EER movie: the frames that RELION would make of it, and behind them what is left."""
    reason: str = ""
    """Why RELION does not read it as it lies; '' where it does."""
    notes: tuple[str, ...] = ()
    """What a person should know where it is linked."""

    @property
    def n_left(self) -> int:
        """Frames at the end that are not unpacked: RELION drops what does not fill a group."""
        rendering = self.rendering
        return 0 if rendering is None else int(rendering.n_raw_frames % rendering.grouping > 0)


def raw_movie(entry: Entry, details: MovieDetails) -> RawMovie:
    """Look where the frames of a movie are, and whether RELION 3.1.3 reads them right."""
    header = details.header
    archive = entry.archive if entry.archive is not None and entry.archive.is_file() else None
    largest = details.largest_count
    if largest is None and archive is not None and archive.suffix == ".mrcz":
        largest = _largest_in_archive(archive)
    suffixes = READ_BY_RELION.get(header.format, ())
    reason = unreadable(header, largest)
    rendering = header.eer and _as_relion_groups(header.eer)
    n_frames = header.n_frames
    if rendering is not None:
        n_frames = rendering.n_raw_frames // rendering.grouping
    found = RawMovie(
        state=State.AS_IT_LIES,
        source=entry.movie,
        suffix=".mrc" if reason else suffixes[0],
        n_bytes=n_frames * header.ny * header.nx * _bytes_for_relion(np.dtype(header.dtype), largest),
        rendering=rendering,
        reason=reason,
        notes=tuple(_notes(header, largest)),
    )
    is_there = _is_the_file(entry.movie, details.movie_file)
    if is_there and not reason:
        own = entry.movie.suffix.lower()
        return replace(found, suffix=own if own in suffixes else suffixes[0])
    if archive is not None and archive.suffix == ".eer" and not reason:
        return replace(found, source=archive)
    if archive is not None or is_there:
        why = reason or "the movie was removed, its archive is MRCZ"
        return replace(found, state=State.PACKED, source=archive or entry.movie, suffix=".mrc", reason=why)
    return replace(found, state=State.LOST)


def unreadable(header: MovieHeader, largest: float | None) -> str:
    """Why RELION 3.1.3 refuses such a movie, or reads it wrong; '' when it does not, or that is not known.

    `largest` is the largest count of the movie, None when that is not known.
    """
    return next(_reasons(header, largest), "")


def _reasons(header: MovieHeader, largest: float | None) -> Iterator[str]:
    if header.format is MovieFormat.FILES:
        yield "one file for each frame"
    if header.format not in READ_BY_RELION:
        yield header.format.upper()
    if PACKED in header.facts:
        yield str(header.facts[PACKED])
    if header.format is MovieFormat.EER:
        yield from _reasons_of_eer(header)
    mode = header.mrc_mode
    if header.format is MovieFormat.MRC and mode is not None:
        if mode not in MODES_OF_RELION:
            yield f"MRC mode {mode}"
        if mode == PACKED_4_BIT and header.nx % 2:
            yield f"MRC mode {mode} with an odd number of columns"
        if _may_be_negative(header) and largest is not None and largest > RELION_MOST[mode]:
            yield f"MRC mode {mode} with counts above {RELION_MOST[mode]}, read as negative"


def _reasons_of_eer(header: MovieHeader) -> Iterator[str]:
    compression = float(header.facts.get(COMPRESSION_FACT, 0))
    if compression and compression not in EER_COMPRESSIONS:
        yield f"EER of compression {compression:g}"
    if header.facts.get(PICTURES):
        yield "EER with a picture among the raw frames"
    upsampling = header.eer.upsampling if header.eer else 1
    ny, nx = header.ny // upsampling, header.nx // upsampling
    if (ny, nx) != (EER_SIDE, EER_SIDE):
        yield f"EER of {nx} x {ny} pixels"


def _may_be_negative(header: MovieHeader) -> bool:
    """Whether it is of a kind whose large counts RELION takes for negative ones."""
    return (
        header.format is MovieFormat.MRC
        and header.mrc_mode in RELION_MOST
        and header.dtype.startswith("uint")
    )


def _notes(header: MovieHeader, largest: float | None) -> Iterator[str]:
    if _may_be_negative(header) and largest is None:
        assert header.mrc_mode is not None
        yield (
            f"it is not known of all movies of MRC mode {header.mrc_mode} whether they count above "
            f"{RELION_MOST[header.mrc_mode]}, which RELION 3.1 takes for negative: an older komad corrected them, and "
            "they have no archive"
        )
    if header.format is MovieFormat.EER and COMPRESSION_FACT not in header.facts:
        yield (
            "it is not known of all EER movies whether RELION 3.1 reads them (it does not know compression 65002, "
            "nor pictures among the raw frames): an older komad corrected them"
        )
    if header.nx % 2:
        yield "frames have an odd number of columns: polishing takes them, RELION's own motion correction does not"


def _largest_in_archive(path: Path) -> float | None:
    """What komad wrote into the header of an archive; None where that cannot be read."""
    try:
        with path.open("rb") as file:
            return largest_in_header(file.read(HEADER_BYTES), path)
    except (OSError, MovieError):
        return None


def _as_relion_groups(rendering: EerRendering) -> EerRendering:
    n_raw, grouping = rendering.n_raw_frames, rendering.grouping
    left = (n_raw,) if n_raw % grouping else ()
    return replace(rendering, ends=(*range(grouping, n_raw + 1, grouping), *left))


def _is_the_file(movie: Path, told: MovieFile) -> bool:
    """Whether the movie, of one file or of several, is still there, and not another one of the same name."""
    try:
        return status_of(movie).size_bytes == told.size_bytes
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
    frames = read_frames(raw.source, raw.rendering)
    frames = frames[: len(frames) - raw.n_left]
    mode = _mode_for_relion(frames)
    if mode == FLOAT:
        frames = frames.astype(np.float32, copy=False)
    write_mrc_movie(target, frames, mode, pixel_size_angstrom=pixel_size_angstrom, signed=mode == 0)


def _mode_for_relion(frames: npt.NDArray[Any]) -> int:
    """The smallest mode that holds the counts and whose numbers are signed, as RELION takes them."""
    smallest, largest = frames.min(), frames.max()
    for mode, kind in WHOLE_MODES.items() if frames.dtype.kind in "iu" else ():
        if np.iinfo(kind).min <= smallest and largest <= np.iinfo(kind).max:
            return mode
    return FLOAT


def _bytes_for_relion(dtype: np.dtype[Any], largest: float | None) -> int:
    """Bytes that a pixel takes unpacked, as far as that is known before the frames are."""
    if dtype.kind != "u" or largest is None:
        return dtype.itemsize
    return next(
        (np.dtype(kind).itemsize for kind in WHOLE_MODES.values() if largest <= np.iinfo(kind).max), 4
    )
