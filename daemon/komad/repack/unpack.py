"""A movie of any kind becomes an MRC of some mode or a TIFF, with every pixel as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from komad.errors import ParameterError
from komad.formats.images import read_image
from komad.formats.movies import open_movie
from komad.formats.mrc import PACKED_4_BIT
from komad.formats.mrc_writer import RANGES, RELION_MOST, mode_of, mrc_bytes, refuse_mode, write_mrc_movie
from komad.formats.mrcz import MrczReader
from komad.formats.reader import LazyFrames, MovieReader
from komad.formats.tiff_writer import TiffCompression, write_tiff_movie
from komad.model import MovieFormat
from komad.repack.pack import Written, keep_gain


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a movie is to be unpacked to."""

    mode: int | None = None
    """Of MRC; None: the mode that the camera wrote where the archive tells it, else the one that holds the type."""
    tiff: TiffCompression | None = None
    """TIFF instead of MRC."""
    signed: bool = False
    """Mode 0 without counts above 127, as MRC2014 has it."""
    gain: Path | None = None
    """Put into the header, as MotionCor2 does in its 4-bit archives."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense together (ParameterError)."""
        if self.mode is not None:
            refuse_mode(self.mode)
        if self.tiff is not None and (self.mode is not None or self.signed or self.gain is not None):
            raise ParameterError(
                "modes, signed bytes and a gain reference in the header are for MRC: leave --tiff out"
            )
        if self.signed and self.mode not in {None, 0}:
            raise ParameterError("--signed is about the bytes of mode 0: leave it or --mode out")
        if self.gain is not None and self.mode not in {None, PACKED_4_BIT}:
            raise ParameterError("a gain reference is in the header of 4-bit archives: take --mode 101")

    @property
    def suffix(self) -> str:
        """Of the file."""
        return ".mrc" if self.tiff is None else ".tif"


def unpack(
    source: Path,
    target: Path,
    form: Form,
    *,
    save_gain: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> Written:
    """Write a movie in another form; it appears under its name when it is whole.

    Parameters
    ----------
    save_gain
        As for `pack`.
    on_frame
        Called with the index of each frame that was written.

    Raises
    ------
    MovieError
        It cannot be read.
    ParameterError
        The form cannot hold it as it is; it is EER, and no frames were made of it.
    ReferenceFileError
        The gain cannot be read.
    DiskFullError, OutputError
        The file cannot be written.
    """
    with _opened(source) as reader:
        reader.check_complete()
        frames = LazyFrames(reader)
        pixel_size = reader.header.pixel_size_angstrom
        if form.tiff is not None:
            write_tiff_movie(
                target, frames, compression=form.tiff, pixel_size_angstrom=pixel_size, on_frame=on_frame
            )
            kind, caution = f"TIFF {form.tiff}", ""
        else:
            mode = chosen_mode(reader, form)
            _, highest = write_mrc_movie(
                target,
                frames,
                mode,
                pixel_size_angstrom=pixel_size,
                signed=form.signed,
                gain=None if form.gain is None else read_image(form.gain),
                on_frame=on_frame,
            )
            kind, caution = f"mode {mode}", _caution(mode, highest)
        return Written(
            pixel_bytes=reader.frame_bytes * len(frames),
            n_bytes=target.stat().st_size,
            kind=kind,
            notes=(*filter(None, [caution]), *keep_gain(reader, target, wanted=save_gain)),
        )


@contextmanager
def _opened(source: Path) -> Iterator[MovieReader]:
    with open_movie(source) as reader:
        if reader.header.format is MovieFormat.EER:
            n_frames = reader.header.n_frames
            raise ParameterError(
                f"{source} is an EER movie of {n_frames} raw frames, which would take "
                f"{reader.frame_bytes * n_frames / 1e9:.1f} GB one by one: make frames of it with `komad mrcz pack` "
                "and unpack that"
            )
        yield reader


def most_bytes(source: Path, form: Form) -> int:
    """Bytes that a movie takes at most when it is unpacked. Errors as `unpack`."""
    with _opened(source) as reader:
        if form.tiff is not None:
            return reader.frame_bytes * reader.header.n_frames
        gain_bytes = 0 if form.gain is None else 4 * reader.header.ny * reader.header.nx
        return mrc_bytes(reader.header.shape, chosen_mode(reader, form)) + gain_bytes


def chosen_mode(reader: MovieReader, form: Form) -> int:
    """Mode in which a movie is written where none is asked for: the camera's own, or that of its type.

    Raises
    ------
    ParameterError
        No mode holds all values of the type.
    """
    if form.mode is not None:
        return form.mode
    if form.gain is not None:
        return PACKED_4_BIT
    if form.signed:
        return 0
    header = reader.header
    written = header.mrc_mode
    if isinstance(reader, MrczReader):
        archived = reader.metadata.get("header")
        written = archived.get("mrc_mode") if isinstance(archived, dict) else None
        if reader.metadata.get("source_dtype") == "float16":
            written = 12
    if isinstance(written, int) and written in RANGES:
        return written
    mode = mode_of(np.dtype(header.dtype))
    if mode is None:
        raise ParameterError(
            f"{reader.path}: no mode of MRC holds all values of {header.dtype}; name one that may hold these: "
            "--mode 6, 1 or 2"
        )
    return mode


def _caution(mode: int, highest: float) -> str:
    """What some programs would make of the file, where it matters."""
    if mode == 0 and highest > RELION_MOST[mode]:
        return (
            f"counts up to {highest:g} are unsigned bytes, marked as IMOD does it; programs that take mode 0 as signed "
            "(RELION 3.1, mrcfile, python-mrcz) read those above 127 as negative: --mode 1 is safe"
        )
    if mode == 6 and highest > RELION_MOST[mode]:
        return (
            f"counts up to {highest:g}: RELION 3.1 reads those above {RELION_MOST[mode]} as negative; "
            "--mode 2 is safe"
        )
    if mode == 12:
        return "RELION 3.1 does not read mode 12; later versions do"
    return ""
