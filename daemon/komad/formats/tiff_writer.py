"""TIFF movies: a page for each frame, its upper row first, in strips that readers decode in parallel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from komad import __version__
from komad.errors import ParameterError
from komad.formats.atomic import atomic_file
from komad.formats.reader import Frames, map_frames
from komad.formats.tiff import DTYPES

TiffCompression = Literal["none", "lzw", "deflate", "zstd"]
STRIP_BYTES = 1 << 18
"""Of pixels: strips of several cameras are as long."""
DEFLATE_LEVEL, ZSTD_LEVEL = 6, 1
"""More effort makes counts hardly smaller."""
MOST_CLASSIC_BYTES = 4_000_000_000
"""A movie with more pixels is written as BigTIFF, whatever it is compressed to: a classic one ends at 4 GiB."""


def write_tiff_movie(
    path: Path,
    frames: Frames,  # (n_frames, ny, nx) in MRC row order
    *,
    compression: TiffCompression,
    pixel_size_angstrom: float | None,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Write a movie with the type of its frames; it appears under its name when it is whole.

    Frames are asked for and compressed by the threads of the process's pool; a few are in memory at a time. The pixel
    size is in the resolution tags. `on_frame` is called with the index of each frame that was written.

    Raises
    ------
    ParameterError
        The frames have a type that TIFF movies have not.
    DiskFullError, OutputError
        The file cannot be written.
    """
    if frames.dtype.name not in DTYPES:
        raise ParameterError(
            f"{path}: pixels of type {frames.dtype.name} are not for TIFF movies; possible are "
            f"{', '.join(sorted(DTYPES))}"
        )
    n_bytes = frames.dtype.itemsize * int(np.prod(frames.shape, dtype=np.int64))
    with (
        atomic_file(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=n_bytes > MOST_CLASSIC_BYTES) as writer,
        closing(map_frames(lambda _, frame: encode(frame, compression), frames)) as encoded,
    ):
        for index, strips in enumerate(encoded):
            append_page(
                writer,
                strips,
                frames.shape[1:],
                frames.dtype,
                compression,
                pixel_size_angstrom=pixel_size_angstrom,
            )
            if on_frame is not None:
                on_frame(index)


def encode(frame: npt.NDArray[Any], compression: TiffCompression) -> list[bytes]:
    """Strips of a frame (ny, nx) given in MRC row order, from the upper row down."""
    little = frame.astype(frame.dtype.newbyteorder("<"), copy=False)[::-1]
    rows = rows_per_strip(frame.shape, frame.dtype)
    strips = [little[first : first + rows].tobytes() for first in range(0, len(little), rows)]
    match compression:
        case "none":
            return strips
        case "lzw":
            return [bytes(imagecodecs.lzw_encode(strip)) for strip in strips]
        case "deflate":
            return [
                bytes(imagecodecs.deflate_encode(strip, level=DEFLATE_LEVEL, raw=False)) for strip in strips
            ]
        case "zstd":
            return [bytes(imagecodecs.zstd_encode(strip, level=ZSTD_LEVEL)) for strip in strips]


def append_page(
    writer: tifffile.TiffWriter,
    strips: list[bytes],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    compression: TiffCompression,
    *,
    pixel_size_angstrom: float | None,
) -> None:
    """Write the strips that `encode` made of a frame of this shape (ny, nx) and type as the next page."""
    per_cm = 1e8 / pixel_size_angstrom if pixel_size_angstrom else None
    if compression == "none":  # tifffile takes encoded strips only where they are compressed
        data: Any = np.frombuffer(b"".join(strips), dtype=dtype.newbyteorder("<")).reshape(shape)
    else:
        data = iter(strips)
    writer.write(
        data,
        shape=shape,
        dtype=dtype.newbyteorder("<"),
        compression=None if compression == "none" else compression,
        photometric="minisblack",
        rowsperstrip=rows_per_strip(shape, dtype),
        resolution=None if per_cm is None else (per_cm, per_cm),
        resolutionunit=None if per_cm is None else "CENTIMETER",
        software=f"komad {__version__}",
        metadata=None,
        contiguous=False,
    )


def rows_per_strip(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Rows in each strip of a frame of this shape (ny, nx)."""
    ny, nx = shape
    return max(1, min(ny, STRIP_BYTES // (nx * dtype.itemsize)))
