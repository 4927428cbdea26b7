"""Single pictures: gain, dark and defect references in, micrographs out."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt

from komad import __version__
from komad.errors import MovieError, OutputError, ParameterError, ReferenceFileError
from komad.formats.atomic import atomic_file
from komad.formats.movies import open_movie
from komad.formats.mrc import HEADER_BYTES, MrcReader
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile

LABEL = "komad micrograph"
"""In the header of every picture that we write: what has it may be replaced by a later run."""
LABELS_AT = 224
MAX_TEXT_BYTES = 1 << 20
"""A list of defect boxes is not longer."""


def read_image(path: Path) -> npt.NDArray[np.float32]:
    """Read a gain or dark reference (MRC, MRCZ or TIFF with one picture) as (ny, nx) float32 in MRC row order.

    An MRC whose header counts more pictures than its length has room for is taken as the one picture that it holds:
    Direct Electron's gain references claim nz = 32766.

    Raises
    ------
    ReferenceFileError
        The file is missing, damaged, no picture, or holds several.
    """
    try:
        with open_movie(path) as reader:
            if reader.header.n_frames > 1 and not _holds_one_picture(reader):
                raise ReferenceFileError(
                    f"{path} holds {reader.header.n_frames} pictures; a reference is a single one"
                )
            if reader.header.n_frames == 1:
                reader.check_complete()
            return reader.read_frame(0).astype(np.float32)
    except MovieError as error:
        raise ReferenceFileError(f"the reference cannot be used: {error}") from error


def _holds_one_picture(reader: MovieReader) -> bool:
    return isinstance(reader, MrcReader) and reader.frames_in_file == 1


def read_defects(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Read which pixels of a frame (ny, nx) are defect, in MRC row order.

    A defect map is a picture whose non-zero pixels are bad; its shape must be `shape`. A text file lists one box per
    line, `x y width height` in pixels from 0 (as MotionCor2 and RELION read it); `#` begins a comment.

    Raises
    ------
    ReferenceFileError
        The file is missing, is neither, or does not fit the frames.
    """
    text = _text(path)
    if text is not None:
        return _boxes(text, path, shape)
    image = read_image(path)
    if image.shape != shape:
        raise ReferenceFileError(
            f"the defect map {path} has {image.shape[1]} x {image.shape[0]} pixels, the frames {shape[1]} x {shape[0]}"
        )
    return image != 0


def write_mrc(
    path: Path,
    image: npt.NDArray[np.float32],  # (ny, nx)
    *,
    pixel_size_angstrom: float | None,
    float16: bool = False,
) -> None:
    """Write a picture as MRC mode 2, or mode 12 (16-bit float), with its statistics in the header.

    Raises
    ------
    OutputError
        The file cannot be written, or a file that komad did not write has this name: it may be a movie.
    ParameterError
        Values are too large for 16 bits.
    DiskFullError
        No space is left.
    """
    refuse_foreign(path)
    largest = np.abs(image).max()
    if float16 and largest > np.finfo(np.float16).max:
        # No fault of the disk: other movies can be written, and this one never can.
        raise ParameterError(
            f"cannot write {path}: values up to {largest:g} do not fit into 16-bit floats; leave output.float16 off"
        )
    stored = image.astype(np.float16 if float16 else np.float32, copy=False)
    with atomic_file(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(stored)
        mrc.voxel_size = pixel_size_angstrom or 0.0
        mrc.header.nlabl = 0
        mrc.add_label(f"{LABEL} {__version__}")


def is_foreign(path: Path) -> bool:
    """Whether a file has this name that `write_mrc` did not write, and would not replace."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError:
        return False  # nothing there, or nothing that can be read: writing will tell
    return bool(header) and LABEL.encode() not in header[LABELS_AT:]


def refuse_foreign(path: Path) -> None:
    """Raise OutputError when a file that komad did not write has this name."""
    if is_foreign(path):
        raise OutputError(
            f"{path} exists and was not written by komad; it is kept: choose another output folder, or move it away"
        )


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


def _boxes(text: str, path: Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    defects = np.zeros(shape, dtype=np.bool_)
    ny, nx = shape
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = (int(word) for word in words)
        except ValueError:
            raise ReferenceFileError(
                f"{path}, line {number}: '{line.strip()}' is no box `x y width height`"
            ) from None
        if min(x, y) < 0 or min(width, height) < 1 or x + width > nx or y + height > ny:
            raise ReferenceFileError(
                f"{path}, line {number}: the box '{line.strip()}' does not lie inside frames of {nx} x {ny} pixels"
            )
        defects[y : y + height, x : x + width] = True
    return defects
