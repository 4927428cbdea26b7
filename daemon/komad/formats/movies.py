"""The door for everything a camera wrote: what it is, whether it is all there, its frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, MovieTruncatedError
from komad.formats import tiff
from komad.formats.dm import DmReader, is_dm
from komad.formats.eer import EerReader, is_eer
from komad.formats.frame_files import FrameFilesReader
from komad.formats.limits import refuse_too_large
from komad.formats.mrc import HEADER_BYTES, MrcReader, parse_header
from komad.formats.mrcz import MrczReader
from komad.formats.packed import PackedReader
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile
from komad.formats.unpacking import Packing, packing_of
from komad.model import EerRendering, MovieFormat, MovieHeader
from komad.model.frame_names import is_frames

__all__ = [
    "MovieReader",
    "check_complete",
    "check_finished",
    "identify",
    "open_movie",
    "read_frames",
    "read_header",
]

OTHER_KINDS = {
    b"\x89HDF": "an HDF5 file, which is not read; export it as TIFF or MRC",
    b"\x89PNG": "a PNG picture, no movie",
    b"\xff\xd8\xff": "a JPEG picture, no movie",
    b"<?xml": "an XML text, no movie",
}
"""First bytes of what else lies in a camera's folder."""


def identify(path: Path) -> MovieFormat:
    """Tell the container by its content; the suffix does not count.

    Raises
    ------
    MovieMissingError
        The file or its file system is gone.
    MovieTruncatedError
        There is not enough of it yet.
    MovieError
        It is something else, or cannot be opened.
    """
    if is_frames(path):
        return MovieFormat.FILES
    with SourceFile(path) as source:
        kind, _ = _identify(source)
        return kind


def read_header(path: Path) -> MovieHeader:
    """Read what the file says about itself, without decoding a frame. Errors as `identify`."""
    with open_movie(path) as reader:
        return reader.header


def check_complete(path: Path) -> None:
    """Look, cheaply, whether the file holds all that its header promises.

    MRC: its length. MRCZ: the chain of chunks. TIFF and EER: the chain of pages, every strip inside the file, the last
    one decodes. Compressed: its end, and the length that it tells. Frames in files: that none is missing, and each of
    them.

    Raises
    ------
    MovieTruncatedError
        Something is missing; the message says what.
    MovieError, MovieMissingError
        The structure is damaged; the file is gone.
    """
    with open_movie(path) as reader:
        reader.check_complete()


def check_finished(path: Path) -> None:
    """`check_complete`, and whether there are all frames that the movie announces: else more may come.

    Raises
    ------
    MovieShortError
        It is whole, and has fewer.
    MovieTruncatedError, MovieError, MovieMissingError
        As `check_complete`.
    """
    with open_movie(path) as reader:
        reader.check_complete()
        reader.check_finished()


def open_movie(  # noqa: PLR0911 - one for each kind
    path: Path,
    rendering: EerRendering | None = None,
) -> MovieReader:
    """Open a movie for reading single frames. Close it, or use it in a `with` statement. Errors as `identify`.

    `rendering` says what the frames of an EER movie are; left out, they are its raw frames. Others have none.
    """
    if is_frames(path):
        return FrameFilesReader(path, open_movie)
    source = SourceFile(path)
    try:
        kind, packing = _identify(source)
        if packing is not None:
            return PackedReader(source, packing)
        match kind:
            case MovieFormat.MRC:
                return MrcReader(source)
            case MovieFormat.MRCZ:
                return MrczReader(source)
            case MovieFormat.TIFF:
                return tiff.TiffReader(source)
            case MovieFormat.DM:
                return DmReader(source)
            case MovieFormat.EER:
                return EerReader(source, rendering)
            case other:
                raise MovieError(f"{path} is a movie of kind {other}, which cannot be read")
    except BaseException:
        source.close()
        raise


def read_frames(
    path: Path, rendering: EerRendering | None = None, *, on_frame: Callable[[int], None] | None = None
) -> npt.NDArray[Any]:
    """Read all frames as one array (n_frames, ny, nx), decoded in parallel on the process's thread pool.

    Integer types stay; 4-bit pixels come as uint8, 16-bit floats as float32. `on_frame` is called in the calling
    thread with the index of each frame that is in place, in order.

    Raises
    ------
    MovieTruncatedError, MovieError
        A frame ends early or cannot be decoded; the message names it.
    MovieMissingError
        The file or its file system is gone.
    """
    with open_movie(path, rendering) as reader:
        reader.check_complete()
        refuse_too_large(path, reader.header.n_frames * reader.frame_bytes)
        frames = np.empty(reader.header.shape, dtype=reader.header.dtype)
        reader.read_all(frames, on_frame)
    return frames


def _identify(source: SourceFile) -> tuple[MovieFormat, Packing | None]:
    """What it is; and how it is compressed, which nothing but MRC may be."""
    start = source.read(0, HEADER_BYTES)
    packing = None if start[208:212] == b"MAP " else packing_of(source, start)
    if packing is None:
        kind = _kind(start, source.path)
        return (MovieFormat.EER if kind is MovieFormat.TIFF and is_eer(source) else kind), None
    start = packing.start(HEADER_BYTES)
    if packing_of(source, start) is not None:
        raise MovieError(f"{source.path} is compressed twice; unpack it once, or as a whole")
    try:
        kind = _kind(start, source.path)
    except MovieTruncatedError:
        raise
    except MovieError as error:
        raise MovieError(f"{error} (what is compressed with {packing.name} in it)") from error
    if kind is not MovieFormat.MRC:
        raise MovieError(
            f"{source.path} is a movie of kind {kind}, which is compressed by itself, compressed with {packing.name} "
            "again; unpack it"
        )
    return kind, packing


def _kind(start: bytes, path: Path) -> MovieFormat:
    """Tell the container by its first bytes."""
    if not start:
        raise MovieTruncatedError(f"{path} is empty (0 bytes): it is still being written, or its copy failed")
    if start.startswith(tiff.SIGNATURES):
        return MovieFormat.TIFF
    if start[208:212] != b"MAP ":  # old MRC files lack it, but none begins with one of these
        if is_dm(start):
            return MovieFormat.DM
        for signature, kind in OTHER_KINDS.items():
            if start.startswith(signature):
                raise MovieError(f"{path} is {kind}")
    return MovieFormat.MRCZ if parse_header(start, path).codec else MovieFormat.MRC
