"""The door for everything a camera wrote: what it is, whether it is all there, its frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_count
from komad.errors import MovieError, MovieTruncatedError
from komad.formats import tiff
from komad.formats.limits import refuse_too_large
from komad.formats.mrc import HEADER_BYTES, MrcReader, parse_header
from komad.formats.mrcz import MrczReader
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile, map_in_order
from komad.model import EerRendering, MovieFormat, MovieHeader

__all__ = ["MovieReader", "check_complete", "identify", "open_movie", "read_frames", "read_header"]

OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"\x89HDF": "an HDF5 file, which is not read; export it as TIFF or MRC",
    b"\0\0\0\3\0\0": "a DM3 file, which is not read; export it as TIFF or MRC",
    b"\0\0\0\4\0\0": "a DM4 file, which is not read; export it as TIFF or MRC",
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
    with SourceFile(path) as source:
        return _identify(source)


def read_header(path: Path) -> MovieHeader:
    """Read what the file says about itself, without decoding a frame. Errors as `identify`."""
    with open_movie(path) as reader:
        return reader.header


def check_complete(path: Path) -> None:
    """Look, cheaply, whether the file holds all that its header promises.

    MRC: its length. MRCZ: the chain of chunks. TIFF: the chain of pages, every strip inside the file, the last one
    decodes.

    Raises
    ------
    MovieTruncatedError
        Something is missing; the message says what.
    MovieError, MovieMissingError
        The structure is damaged; the file is gone.
    """
    with open_movie(path) as reader:
        reader.check_complete()


def open_movie(
    path: Path,
    rendering: EerRendering | None = None,  # noqa: ARG001
) -> MovieReader:
    """Open a movie for reading single frames. Close it, or use it in a `with` statement. Errors as `identify`.

    `rendering` says what the frames of an EER movie are; left out, they are its raw frames. Others have none.
    """
    source = SourceFile(path)
    try:
        match _identify(source):
            case MovieFormat.MRC:
                return MrcReader(source)
            case MovieFormat.MRCZ:
                return MrczReader(source)
            case MovieFormat.TIFF:
                return tiff.TiffReader(source)
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
        n_frames = reader.header.n_frames
        refuse_too_large(path, n_frames * reader.frame_bytes)
        frames = np.empty(reader.header.shape, dtype=reader.header.dtype)
        n_parts = min(reader.max_parts, math.ceil(thread_count() / n_frames))

        def decode(task: int) -> None:
            index, part = divmod(task, n_parts)
            reader.read_part(index, part, n_parts, frames[index])

        with closing(map_in_order(decode, n_frames * n_parts)) as done:
            for task, _ in enumerate(done):
                if on_frame is not None and (task + 1) % n_parts == 0:
                    on_frame(task // n_parts)
    return frames


def _identify(source: SourceFile) -> MovieFormat:
    start = source.read(0, HEADER_BYTES)
    if not start:
        raise MovieTruncatedError(
            f"{source.path} is empty (0 bytes): it is still being written, or its copy failed"
        )
    if start.startswith(tiff.SIGNATURES):
        return MovieFormat.TIFF
    if start[208:212] != b"MAP ":  # old MRC files lack it, but none begins with one of these
        for signature, kind in OTHER_KINDS.items():
            if start.startswith(signature):
                raise MovieError(f"{source.path} is {kind}")
    return MovieFormat.MRCZ if parse_header(start, source.path).codec else MovieFormat.MRC
