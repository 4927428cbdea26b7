"""MRC movies of every mode, written frame by frame and never with a value changed.

Modes are those of MRC2014 with 4 bits (101), as the CCP-EM page and IMOD's have them. A gain reference behind the
extended header makes mode 101 the archive of MotionCor2 (`-ArcDir`). mrcfile, which writes single pictures (`images`),
holds or maps a whole file, and knows neither 4 bits nor IMOD's mark for unsigned bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad import __version__
from komad.errors import ParameterError
from komad.formats.atomic import atomic_file
from komad.formats.mrc import PACKED_4_BIT, build_header, plain_layout
from komad.formats.reader import Frames, map_frames

RANGES: dict[int, tuple[float, float]] = {
    PACKED_4_BIT: (0, 15),
    0: (-128, 255),
    6: (0, 65535),
    1: (-32768, 32767),
    2: (-np.inf, np.inf),
    12: (-np.inf, np.inf),
}
"""Mode -> least and greatest value, the smallest first. Mode 0 is either signed or unsigned, not both."""
WHOLE = frozenset({PACKED_4_BIT, 0, 6, 1})
"""Modes of whole numbers."""
SIGNED_BYTE = 127
RELION_MOST = {0: SIGNED_BYTE, 6: 32767}
"""Mode -> the largest unsigned count that RELION 3.1 does not take for a negative one."""
LABELS = (f"komad {__version__}",)
MOST_EXTENDED_BYTES = 2**31 - 1
"""The header counts them in a signed number of 32 bits."""


def mode_of(dtype: np.dtype[Any]) -> int | None:
    """Give the mode that holds every value of a type; None where there is none: whole numbers of 32 bits."""
    modes = {"int8": 0, "uint8": 0, "int16": 1, "uint16": 6, "float16": 12, "float32": 2}
    return modes.get(dtype.name)


def refuse_mode(mode: int) -> None:
    """Raise ParameterError where files of this mode are not written."""
    if mode not in RANGES:
        raise ParameterError(
            f"MRC mode {mode} is not written; possible are {', '.join(map(str, sorted(RANGES)))}"
        )


def mrc_bytes(shape: tuple[int, int, int], mode: int) -> int:
    """Length of such a file without an extended header."""
    layout = plain_layout(shape, mode, pixel_size_angstrom=None)
    return layout.data_offset + layout.n_frames * layout.frame_bytes


def write_mrc_movie(
    path: Path,
    frames: Frames,  # (n_frames, ny, nx)
    mode: int,
    *,
    pixel_size_angstrom: float | None,
    signed: bool = False,
    gain: npt.NDArray[np.float32] | None = None,  # (ny, nx)
    on_frame: Callable[[int], None] | None = None,
) -> tuple[float, float]:
    """Write a movie, little-endian, with its statistics in the header; it appears under its name when it is whole.

    Frames are asked for and written by the threads of the process's pool; each has one at a time in memory.

    Parameters
    ----------
    mode
        0, 1, 2, 6, 12 or 101. In mode 0 bytes are unsigned where no value is below zero, and marked as IMOD does it;
        readers that do not know the mark see counts above 127 as negative.
    signed
        With mode 0: no byte that such readers would see as negative.
    gain
        Put behind the extended header, as MotionCor2 does in its 4-bit archives. It lies as the frames do.
    on_frame
        Called with the index of each frame that was written.

    Returns
    -------
    Least and greatest value of the movie.

    Raises
    ------
    ParameterError
        A value does not fit the mode, which the message says with one that holds it; the gain has another size.
    DiskFullError, OutputError
        The file cannot be written.
    """
    refuse_mode(mode)
    shape = tuple(frames.shape)
    if gain is not None and (gain.shape != shape[1:] or gain.nbytes > MOST_EXTENDED_BYTES):
        raise ParameterError(
            f"{path}: the gain reference has {gain.shape[1]} x {gain.shape[0]} pixels, the frames have {shape[2]} x "
            f"{shape[1]}"
        )
    # int8 stays int8 though no value may be below zero: it is what the camera said.
    is_unsigned = not signed and frames.dtype != np.int8
    layout = plain_layout(
        shape,
        mode,
        pixel_size_angstrom=pixel_size_angstrom,
        is_unsigned=is_unsigned,
        extended_bytes=0 if gain is None else gain.nbytes,
    )
    lowest, highest, mean = np.inf, -np.inf, 0.0
    with atomic_file(path) as temporary, temporary.open("r+b", buffering=0) as file:
        descriptor = file.fileno()

        def write(index: int, frame: npt.NDArray[Any]) -> tuple[float, float, float]:
            limits = _limits(frame)
            _refuse(path, frame, limits, mode, signed=signed)
            # A frame without a value below zero has the same bytes, signed or not.
            as_bytes = replace(layout, is_unsigned=limits[0] >= 0)
            _write_at(descriptor, as_bytes.pack(frame), layout.data_offset + index * layout.frame_bytes)
            return *limits, float(frame.mean(dtype=np.float64))

        with closing(map_frames(write, frames)) as written:
            for index, (least, greatest, average) in enumerate(written):
                lowest, highest = min(lowest, least), max(highest, greatest)
                mean += average / len(frames)
                if mode == 0 and lowest < 0 and highest > SIGNED_BYTE:
                    raise ParameterError(_sentence(path, lowest, highest, mode))
                if on_frame is not None:
                    on_frame(index)
        header = build_header(
            replace(layout, is_unsigned=is_unsigned and lowest >= 0),
            statistics=(lowest, highest, mean),
            labels=LABELS,
        )
        _write_at(descriptor, np.frombuffer(header, dtype=np.uint8), 0)
        if gain is not None:
            _write_at(descriptor, np.ascontiguousarray(gain, dtype="<f4"), len(header))
    return lowest, highest


def _limits(frame: npt.NDArray[Any]) -> tuple[float, float]:
    """Least and greatest value, those that are no numbers left aside."""
    if frame.dtype.kind != "f":
        return float(frame.min()), float(frame.max())
    finite = frame[np.isfinite(frame)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _refuse(
    path: Path, frame: npt.NDArray[Any], limits: tuple[float, float], mode: int, *, signed: bool
) -> None:
    """Raise ParameterError when a mode cannot hold a frame as it is."""
    lowest, highest = limits
    least, greatest = RANGES[mode]
    if not least <= lowest <= highest <= greatest:
        raise ParameterError(_sentence(path, lowest, highest, mode))
    if mode == 0 and signed and highest > SIGNED_BYTE:
        raise ParameterError(
            f"{path}: counts up to {highest:g} do not fit signed bytes, which end at {SIGNED_BYTE}: take mode 6 or 1, "
            "or let bytes be unsigned, which IMOD's mark in the header says"
        )
    if mode in WHOLE and frame.dtype.kind == "f" and not np.array_equal(frame, np.rint(frame)):
        raise ParameterError(f"{path}: values that are no whole numbers do not fit mode {mode}: take mode 2")
    stored = {2: "float32", 12: "float16"}.get(mode)
    if stored is not None and not _is_same(frame, stored):
        raise ParameterError(
            f"{path}: values up to {max(-lowest, highest):g} would lose digits in mode {mode}"
            f"{': take mode 2' if mode == 12 else ', and no mode of MRC holds them'}"
        )


def _is_same(frame: npt.NDArray[Any], stored: str) -> bool:
    with np.errstate(over="ignore"):  # becomes infinite, which is not the same
        there = frame.astype(stored)
    back = there.astype(np.float64 if frame.dtype.kind != "f" else frame.dtype)
    return bool(np.array_equal(back, frame, equal_nan=frame.dtype.kind == "f"))


def _sentence(path: Path, lowest: float, highest: float, mode: int) -> str:
    values = f"counts up to {highest:g}" if lowest >= 0 else f"values from {lowest:g} to {highest:g}"
    fitting = [
        f"mode {other}"
        for other, (least, greatest) in RANGES.items()
        if other != 12
        and least <= lowest <= highest <= greatest
        and not (other == 0 and lowest < 0 and highest > SIGNED_BYTE)
    ]
    return f"{path}: {values} do not fit mode {mode}: take {' or '.join(fitting[:2])}"


def _write_at(descriptor: int, array: npt.NDArray[Any], offset: int) -> None:
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
