"""Counts in host memory that are computed on a GPU: they cross the bus as they are, a few frames at a time."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Uploader(Protocol):
    """Copies from host to device, beside what is computed."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """New memory on the device."""

    def asarray(self, array: npt.NDArray[Any]) -> Any:
        """A copy on the device."""

    def mark(self) -> Any:
        """Stands for all that has been launched until now."""

    def copy(self, source: npt.NDArray[Any], target: Any, *, after: Any) -> None:
        """Queue a copy, both C-contiguous, that waits for a mark; what is launched from now on waits for it."""


class DeviceFrames:
    """Frames (n_frames, ny, nx) that stand in the host's memory and are computed on a device.

    Successive frames, `frames[first:last]`, are given as an object of this class; a part of each, `frames[:, y, x]`, as
    an array on the device. `on_device` brings some at a time. They cross the bus once if `resident`, so that the whole
    movie is on the device in the end, else as often as they are asked for, through two buffers by turns.

    Parameters
    ----------
    host : (n_frames, ny, nx) as the camera wrote them.
    uploader : brings them to the device.
    at_a_time : frames that a caller should ask for together.
    resident : whether what was brought stays.
    """

    def __init__(self, host: npt.NDArray[Any], uploader: Uploader, *, at_a_time: int, resident: bool) -> None:
        self._host = host
        self._whole: _Movie = _Movie(host, uploader, at_a_time, resident=resident)
        self._first = 0
        self.at_a_time = at_a_time

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_frames, ny, nx)."""
        return self._host.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        return self._host.dtype

    @property
    def ndim(self) -> int:
        """3."""
        return self._host.ndim

    def __len__(self) -> int:
        """Frames."""
        return len(self._host)

    def __getitem__(self, key: Any) -> Any:
        """Successive frames, or a part of each."""
        if not isinstance(key, slice):
            here = self._whole.if_here(self._first, self._first + len(self))
            if here is not None:
                return here[key]
            return self._whole.uploader.asarray(np.ascontiguousarray(self._host[key]))
        first, _, step = key.indices(len(self))
        if step != 1:
            raise IndexError("frames on a device are taken successively")
        some = object.__new__(DeviceFrames)
        some._host = self._host[key]
        some._whole = self._whole
        some._first = self._first + first
        some.at_a_time = self.at_a_time
        return some

    def on_device(self, first: int, last: int) -> Any:
        """(last - first, ny, nx) on the device; unless resident, for what is launched before the next call."""
        if not 0 <= first < last <= len(self):
            raise IndexError(f"frames {first} to {last} of {len(self)}")
        return self._whole.on_device(self._first + first, self._first + last)


class _Movie:
    """What all views of a movie share: where its frames are on the device."""

    def __init__(self, host: npt.NDArray[Any], uploader: Uploader, at_a_time: int, *, resident: bool) -> None:
        self._host = host
        self.uploader = uploader
        self._resident = resident
        self._here = np.zeros(len(host), bool)
        self._buffers = [None] if resident else [None, None]
        self._free: list[Any] = [None] * len(self._buffers)
        """Marks: what was launched before may use the memory of a buffer."""
        self._length = len(host) if resident else at_a_time
        self._turn = 0

    def if_here(self, first: int, last: int) -> Any:
        """Frames on the device if they have been brought there to stay, else None."""
        buffer: Any = self._buffers[0]
        return buffer[first:last] if self._resident and self._here[first:last].all() else None

    def on_device(self, first: int, last: int) -> Any:
        if self._resident:
            target = self._buffer(0, self._length)[first:last]
            if not self._here[first:last].all():
                self._copy(first, last, target, 0)
                self._here[first:last] = True
            return target
        # The buffer of the call before is read by what has been launched until now; the other one was, up to that call.
        # So one is filled while the other is still read.
        self._free[self._turn] = self.uploader.mark()
        self._turn = 1 - self._turn
        target = self._buffer(self._turn, last - first)[: last - first]
        self._copy(first, last, target, self._turn)
        return target

    def _copy(self, first: int, last: int, target: Any, index: int) -> None:
        self.uploader.copy(np.ascontiguousarray(self._host[first:last]), target, after=self._free[index])

    def _buffer(self, index: int, length: int) -> Any:
        buffer: Any = self._buffers[index]
        if buffer is None or len(buffer) < length:
            buffer = self.uploader.empty((max(length, self._length), *self._host.shape[1:]), self._host.dtype)
            self._buffers[index] = buffer
            # Memory that is new here was another's, whose readers may not be done yet.
            self._free[index] = self.uploader.mark()
        return buffer
