"""Write movies as cameras do: MRC of 8, 16 and 4 bits, TIFF with LZW, and EER."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tifffile

from komad.errors import ParameterError
from komad.formats.mrc import build_header, plain_layout
from komad.formats.tiff_writer import append_page, encode
from komad.simulate.eer import RAW_FRAMES_PER_FRAME, write_eer_frames

Frames = npt.NDArray[np.uint8 | np.uint16]
MovieFileFormat = Literal["mrc", "mrc-uint16", "mrc-4bit", "tiff-lzw", "eer"]

SUFFIX: dict[MovieFileFormat, str] = {
    "mrc": ".mrc",
    "mrc-uint16": ".mrc",
    "mrc-4bit": ".mrc",
    "tiff-lzw": ".tif",
    "eer": ".eer",
}
MRC_MODE: dict[MovieFileFormat, int] = {"mrc": 0, "mrc-uint16": 6, "mrc-4bit": 101}
LARGEST_COUNT: dict[MovieFileFormat, int] = {
    "mrc": 255,
    "mrc-uint16": 65535,
    "mrc-4bit": 15,
    "tiff-lzw": 65535,
    "eer": RAW_FRAMES_PER_FRAME,
}
NOT_COMPUTED = (0.0, -1.0, -2.0)
"""Minimum above maximum above mean: statistics as those of cameras."""
LABELS = ("komad simulated movie",)


def write_movie(
    path: Path, frames: Frames, file_format: MovieFileFormat, *, pixel_size_angstrom: float
) -> None:
    """Write (n_frames, ny, nx) counts in MRC row order to `path`.

    `mrc` is mode 0, unsigned as IMOD marks it; `mrc-uint16` mode 6; `mrc-4bit` mode 101; `tiff-lzw` has its top
    row first; `eer` has RAW_FRAMES_PER_FRAME raw frames for each frame, as `write_eer_frames` says.

    Raises
    ------
    ParameterError
        A count does not fit the format.
    """
    for _ in write_frames(path, frames, file_format, pixel_size_angstrom=pixel_size_angstrom):
        pass


def write_frames(
    path: Path,
    frames: Frames,
    file_format: MovieFileFormat,
    *,
    pixel_size_angstrom: float,
) -> Iterator[int]:
    """Write as `write_movie` does, giving the number of frames after each: the file holds them then, and no more."""
    if frames.max() > LARGEST_COUNT[file_format]:
        raise ParameterError(
            f"{path.name}: counts up to {frames.max()} do not fit {file_format}; "
            f"simulate with max_count = {LARGEST_COUNT[file_format]}"
        )
    if file_format == "eer":
        yield from write_eer_frames(path, frames, pixel_size_angstrom=pixel_size_angstrom)
        return
    if file_format == "tiff-lzw":
        yield from _write_tiff(path, frames, pixel_size_angstrom)
        return
    layout = plain_layout(frames.shape, MRC_MODE[file_format], pixel_size_angstrom=pixel_size_angstrom)
    with path.open("wb") as file:
        file.write(build_header(layout, statistics=NOT_COMPUTED, labels=LABELS))
        for index, frame in enumerate(frames, start=1):
            file.write(layout.pack(frame).data)
            file.flush()
            yield index


def _write_tiff(path: Path, frames: Frames, pixel_size_angstrom: float) -> Iterator[int]:
    with tifffile.TiffWriter(path) as writer:
        for index, frame in enumerate(frames, start=1):
            strips = encode(frame, "lzw")
            append_page(
                writer, strips, frame.shape, frame.dtype, "lzw", pixel_size_angstrom=pixel_size_angstrom
            )
            yield index
