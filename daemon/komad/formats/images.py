"""Single pictures: gain, dark and defect references in, micrographs out."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt
import tifffile

from komad import __version__
from komad.errors import MovieError, OutputError, ParameterError, ReferenceFileError
from komad.formats.atomic import atomic_file
from komad.formats.movies import open_movie
from komad.formats.mrc import HEADER_BYTES, LABELS_AT, MrcReader
from komad.formats.reader import MovieReader

LABEL = "komad micrograph"
"""In the header of every picture that we write: what has it may be replaced by a later run."""
REFERENCE_LABEL = "komad gain reference"
MRC_SUFFIXES = frozenset({".mrc"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".gain"})
"""`.gain` is what the software of Falcon 4 calls its gain references, TIFF files of one picture."""


def read_image(path: Path) -> npt.NDArray[np.float32]:
    """Read a gain or dark reference, one picture of any format that is read, as (ny, nx) float32 in MRC row order.

    An MRC whose header counts more pictures than its length has room for is taken as the one picture that it holds:
    Direct Electron's gain references claim nz = 32766. Of a 4-bit archive of MotionCor2 it is the gain reference that
    lies in its header.

    Raises
    ------
    ReferenceFileError
        The file is missing, damaged, no picture, or holds several.
    """
    try:
        with open_movie(path) as reader:
            if (gain := reader.gain()) is not None:
                return gain
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


def check_new_reference(path: Path) -> None:
    """Look whether a reference can be written under this name.

    Raises
    ------
    ParameterError
        The suffix is of no known format, or there is a file already: it may be the only copy of another reference.
    """
    if path.suffix.lower() not in MRC_SUFFIXES | TIFF_SUFFIXES:
        raise ParameterError(
            f"{path}: the name of a reference ends in {', '.join(sorted(MRC_SUFFIXES | TIFF_SUFFIXES))}"
        )
    if path.exists():
        raise ParameterError(f"{path} is there already and is kept; name a new file, or move it away")


def write_reference(path: Path, image: npt.NDArray[np.float32]) -> None:
    """Write a gain reference (ny, nx), given in MRC row order, as 32-bit floats; MRC or TIFF by its suffix.

    Values that are no numbers are written as 0, which all programs take for a defect.

    Raises
    ------
    ParameterError
        As `check_new_reference`.
    OutputError, DiskFullError
        The file cannot be written.
    """
    check_new_reference(path)
    image = np.where(np.isfinite(image), image, 0).astype(np.float32, copy=False)
    with atomic_file(path) as temporary:
        if path.suffix.lower() in MRC_SUFFIXES:
            with mrcfile.new(temporary, overwrite=True) as mrc:
                mrc.set_data(image)
                mrc.header.nlabl = 0
                mrc.add_label(f"{REFERENCE_LABEL} {__version__}")
        else:  # the first row of a TIFF is the last one of the picture in MRC order
            label = f"{REFERENCE_LABEL} {__version__}"
            tifffile.imwrite(temporary, image[::-1], photometric="minisblack", software=label, metadata=None)


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
