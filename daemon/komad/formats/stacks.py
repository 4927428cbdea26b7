"""Stacks of pictures that are too large to be held in memory, written picture by picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad import __version__
from komad.errors import OutputError
from komad.formats.atomic import atomic_file
from komad.formats.images import LABEL, refuse_foreign
from komad.formats.mrc import HEADER_BYTES, build_header, plain_layout

FLOAT = 2
"""Mode of 32-bit floats."""


def write_stack(
    path: Path,
    pictures: Iterable[npt.NDArray[np.float32]],  # each (ny, nx)
    *,
    pixel_size_angstrom: float,
) -> int:
    """Write pictures of one size as an MRC image stack (mode 2) with its statistics in the header; gives their number.

    Raises
    ------
    OutputError
        The file cannot be written, there is no picture, or a file that komad did not write has this name.
    DiskFullError
        No space is left.
    """
    refuse_foreign(path)
    statistics = _Statistics()
    with atomic_file(path) as temporary, temporary.open("r+b") as file:
        file.seek(HEADER_BYTES)
        for picture in pictures:
            file.write(np.ascontiguousarray(picture, "<f4").data)
            statistics.add(picture)
        if not statistics.n_pictures:
            raise OutputError(f"cannot write {path}: there is no picture for it")
        shape = (statistics.n_pictures, *statistics.shape)
        header = build_header(
            plain_layout(shape, FLOAT, pixel_size_angstrom=pixel_size_angstrom),
            statistics=(statistics.smallest, statistics.largest, statistics.mean),
            spread=statistics.spread,
            labels=(f"{LABEL} {__version__}",),
        )
        file.seek(0)
        file.write(header)
    return statistics.n_pictures


class _Statistics:
    """What the header tells of all pictures together."""

    def __init__(self) -> None:
        self.n_pictures = 0
        self.shape = (0, 0)
        self.smallest, self.largest = np.inf, -np.inf
        self._sum = self._squares = 0.0

    def add(self, picture: npt.NDArray[np.float32]) -> None:
        self.n_pictures += 1
        self.shape = (picture.shape[0], picture.shape[1])
        self.smallest = min(self.smallest, float(picture.min()))
        self.largest = max(self.largest, float(picture.max()))
        mean = float(picture.mean(dtype=np.float64))
        self._sum += mean
        self._squares += float(picture.var(dtype=np.float64)) + mean**2

    @property
    def mean(self) -> float:
        return self._sum / self.n_pictures

    @property
    def spread(self) -> float:
        return float(np.sqrt(max(0.0, self._squares / self.n_pictures - self.mean**2)))
