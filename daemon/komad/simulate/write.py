"""Write movies as cameras do: MRC of 8, 16 and 4 bits, TIFF with LZW, and EER."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

from komad.errors import ParameterError
from komad.formats.mrc import MrcLayout, build_header
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
    with path.open("wb") as file:
        file.write(mrc_header(frames.shape, MRC_MODE[file_format], pixel_size_angstrom))
        for index, frame in enumerate(frames, start=1):
            _write_mrc_frame(file, frame, file_format)
            file.flush()
            yield index


def mrc_header(shape: tuple[int, ...], mode: int, pixel_size_angstrom: float) -> bytes:
    """1024 bytes, little endian, for (n_frames, ny, nx); the statistics say "not computed", as those of cameras do."""
    n_frames, ny, nx = shape
    layout = MrcLayout(
        byte_order="<",
        mode=mode,
        codec=0,
        n_frames=n_frames,
        ny=ny,
        nx=nx,
        is_unsigned=True,
        extended_bytes=0,
        has_json=False,
        pixel_size_angstrom=pixel_size_angstrom,
    )
    not_computed = (0.0, -1.0, -2.0)  # minimum above maximum above mean
    return bytes(build_header(layout, statistics=not_computed, labels=("komad simulated movie",)))


def pack_nibbles(frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(ny, ceil(nx / 2)) bytes of (ny, nx) counts below 16: the even column in the low half."""
    padded = np.pad(frame, ((0, 0), (0, frame.shape[1] % 2))).astype(np.uint8)
    return np.bitwise_or(padded[:, 0::2], np.left_shift(padded[:, 1::2], 4), dtype=np.uint8)


def _write_mrc_frame(file: IO[bytes], frame: npt.NDArray[Any], file_format: MovieFileFormat) -> None:
    if file_format == "mrc-4bit":
        file.write(pack_nibbles(frame).tobytes())
    else:
        file.write(np.ascontiguousarray(frame, "<u2" if file_format == "mrc-uint16" else "u1").data)


def _write_tiff(path: Path, frames: Frames, pixel_size_angstrom: float) -> Iterator[int]:
    per_cm = 1e8 / pixel_size_angstrom
    with tifffile.TiffWriter(path) as writer:
        for index, frame in enumerate(frames, start=1):
            writer.write(
                frame[::-1],
                compression="lzw",
                photometric="minisblack",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                contiguous=False,
            )
            yield index
