"""What every movie reader offers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError
from komad.formats.limits import MOST_FRAMES, refuse_too_large
from komad.formats.source import SourceFile
from komad.model import MovieHeader


class MovieReader(ABC):
    """An open movie. Frames are (ny, nx) in MRC row order and native byte order; threads may read at the same time."""

    def __init__(self, source: SourceFile, header: MovieHeader) -> None:
        if header.n_frames > MOST_FRAMES:
            raise MovieError(
                f"{source.path} announces {header.n_frames} frames, which no movie has; the header is damaged"
            )
        self.header = header
        self._source = source

    @property
    def path(self) -> Path:
        """The file."""
        return self._source.path

    def frame_name(self, index: int) -> str:
        """A frame as messages call it."""
        return f"frame {index + 1} of {self.header.n_frames} (counted from 1)"

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame in memory."""
        return self.header.ny * self.header.nx * np.dtype(self.header.dtype).itemsize

    @property
    def max_parts(self) -> int:
        """Number of pieces into which one frame can be cut for decoding in parallel."""
        return 1

    @abstractmethod
    def check_complete(self) -> None:
        """Look, cheaply, whether everything that the header promises is in the file.

        Raises
        ------
        MovieTruncatedError
            Something is missing; the message says what.
        MovieError
            The structure is damaged.
        """

    @abstractmethod
    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:
        """Decode piece `part` of `n_parts` of frame `index` into `out`, the array (ny, nx) of the whole frame.

        Raises
        ------
        MovieTruncatedError, MovieError
            The frame ends early or cannot be decoded; the message names it.
        """

    def read_frame(self, index: int) -> npt.NDArray[Any]:
        """Frame `index` (0-based) as a new array (ny, nx).

        Raises
        ------
        IndexError
            There is no such frame.
        MovieTruncatedError, MovieError
            The frame ends early or cannot be decoded.
        """
        if not 0 <= index < self.header.n_frames:
            raise IndexError(f"{self.path} has frames 0 to {self.header.n_frames - 1}, not {index}")
        refuse_too_large(self.path, self.frame_bytes)
        frame = np.empty((self.header.ny, self.header.nx), dtype=self.header.dtype)
        self.read_part(index, 0, 1, frame)
        return frame

    @property
    def bytes_behind(self) -> int:
        """Bytes behind the last frame, which no frame holds."""
        return 0

    def status(self) -> os.stat_result:
        """What the open file is now, whatever has become of its name."""
        return self._source.status()

    def forget_cached(self) -> None:
        """Have what is read from now on come from the disk and not from memory."""
        self._source.forget_cached()

    def xxh3(self) -> str:
        """XXH3 of the whole file, 128 bits in hex."""
        return self._source.xxh3()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
