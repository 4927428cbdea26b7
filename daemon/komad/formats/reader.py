"""What every movie reader offers."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_count
from komad.errors import MovieError
from komad.formats.limits import MOST_FRAMES, refuse_too_large
from komad.formats.source import SourceFile, each_in_order, map_in_order
from komad.model import MovieHeader

Result = TypeVar("Result")


class MovieReader(ABC):
    """An open movie. Frames are (ny, nx) in MRC row order and native byte order; threads may read at the same time."""

    in_order: ClassVar[bool] = False
    """Frames are best read one after the other, and not by threads of the process's pool."""

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

    def check_finished(self) -> None:  # noqa: B027 - most formats announce nothing beyond their frames
        """Look whether a movie that is whole has all the frames that it announces.

        Raises
        ------
        MovieShortError
            It has fewer: it is still being written, or the exposure was stopped.
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

    def read_all(self, frames: npt.NDArray[Any], on_frame: Callable[[int], None] | None = None) -> None:
        """Decode all frames into an array (n_frames, ny, nx), in parallel on the process's thread pool.

        `on_frame` is called in the calling thread with the index of each frame that is in place, in order. Errors as
        `read_frame`.
        """
        n_frames = self.header.n_frames
        n_parts = min(self.max_parts, math.ceil(thread_count() / n_frames))

        def decode(task: int) -> None:
            index, part = divmod(task, n_parts)
            self.read_part(index, part, n_parts, frames[index])

        with closing(map_in_order(decode, n_frames * n_parts)) as done:
            for task, _ in enumerate(done):
                if on_frame is not None and (task + 1) % n_parts == 0:
                    on_frame(task // n_parts)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The JSON object that an archive (MRCZ) holds beside its frames; empty for other files.

        Raises
        ------
        MovieError
            It is damaged.
        """
        return {}

    @property
    def optics(self) -> tuple[float | None, float | None]:
        """Voltage in kV and spherical aberration in mm that the header tells; None when not said."""
        return None, None

    def gain(self) -> npt.NDArray[np.float32] | None:
        """Gain reference (ny, nx) in the movie's own header, which lies as the frames do; None when there is none.

        Raises
        ------
        MovieTruncatedError, MovieError
            The file ends before it does, or cannot be unpacked.
        """
        return None

    def check_frame(self, index: int) -> None:
        """Look whether a frame can be read; errors as `read_frame`."""
        self.read_frame(index)

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


class Frames(Protocol):
    """Frames (n_frames, ny, nx) that any thread asks for one at a time: an array, or those of an open movie."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_frames, ny, nx)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every frame."""

    def __len__(self) -> int:
        """Give the number of frames."""

    def __getitem__(self, index: int, /) -> npt.NDArray[Any]:
        """Give a frame (ny, nx)."""


class LazyFrames:
    """The frames of an open movie, each decoded when it is asked for and not kept."""

    def __init__(self, reader: MovieReader) -> None:
        self._reader = reader
        self.shape: tuple[int, ...] = reader.header.shape
        self.dtype = np.dtype(reader.header.dtype)
        self.in_order = reader.in_order

    def __len__(self) -> int:
        """Give the number of frames."""
        return self.shape[0]

    def __getitem__(self, index: int, /) -> npt.NDArray[Any]:
        """Give a frame (ny, nx); errors as `MovieReader.read_frame`."""
        return self._reader.read_frame(index)


def map_frames(
    work: Callable[[int, npt.NDArray[Any]], Result], frames: Frames
) -> Generator[Result, None, None]:
    """Give `work(index, frame)` for each frame in order, computed on the process's thread pool, as `map_in_order`.

    Each frame is asked for once, by the thread that works on it, or, where a file must be read in order, by that of the
    consumer.
    """
    if isinstance(frames, LazyFrames) and frames.in_order:
        given = ((index, frames[index]) for index in range(len(frames)))
        return each_in_order(lambda item: work(*item), given, ahead=thread_count() + 1)
    return map_in_order(lambda index: work(index, frames[index]), len(frames))
