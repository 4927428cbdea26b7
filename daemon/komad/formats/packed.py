"""MRC movies in compressed files (`.mrc.bz2`, `.mrc.xz`, `.mrc.zst`, `.mrc.gz`), unpacked as they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.limits import refuse_impossible
from komad.formats.mrc import HEADER_BYTES, PACKED, parse_header
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile
from komad.formats.unpacking import Packing
from komad.model import MovieFormat


class PackedReader(MovieReader):
    """An MRC movie in a compressed file.

    Frames lie behind one another in one stream. Who reads them in their order unpacks it once; for a frame before the
    last one that was read it is unpacked from its start again.
    """

    in_order = True

    def __init__(self, source: SourceFile, packing: Packing) -> None:
        self._packing = packing
        self._layout = parse_header(packing.start(HEADER_BYTES), source.path)
        header = self._layout.header(MovieFormat.MRC)
        super().__init__(source, replace(header, facts={**header.facts, PACKED: packing.name}))
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._n_unpacked: int | None = None

    @property
    def _end(self) -> int:
        """Where the last frame ends, unpacked."""
        return self._layout.data_offset + self._layout.n_frames * self._layout.frame_bytes

    def check_complete(self) -> None:
        """Look at the end of the file, and at the length that it tells.

        xz and zstd tell it, and where all of it ends; gzip its last 32 bits; bzip2, and zstd that was fed by a pipe,
        nothing: there a file that was cut where a stream ends is found when it is read.
        """
        refuse_impossible(str(self.path), self._end, self._source.size_bytes)
        told = self._packing.unpacked_bytes()
        if told is None:
            return
        if self._packing.name == "gzip":
            if told != self._end % (1 << 32):
                raise MovieTruncatedError(
                    f"{self.path} does not end with the length of its {self._layout.n_frames} frames: it is still "
                    "being written, its copy was cut off, or something follows its frames; then unpack it"
                )
            return
        self._check_length(told)

    def _check_length(self, n_bytes: int) -> None:
        layout = self._layout
        held = max(0, n_bytes - layout.data_offset) // layout.frame_bytes
        if held < layout.n_frames:
            raise MovieTruncatedError(
                f"{self.path} unpacks to {n_bytes} bytes and {held} of {layout.n_frames} frames: "
                f"{self._end - n_bytes} bytes are missing; it was cut off before it was compressed, or its copy was"
            )
        if held > layout.n_frames:
            raise self._too_long()

    def _too_long(self) -> MovieError:
        return MovieError(
            f"{self.path} unpacks to more than the {self._layout.n_frames} frames that its header announces: unpack "
            "it, and see what it holds"
        )

    def gain(self) -> npt.NDArray[np.float32] | None:
        """That of MotionCor2's archives; errors as every `MovieReader.gain`."""
        layout = self._layout
        if layout.gain_offset is None:
            return None
        gain = layout.empty_gain()
        with self._lock:
            stream = self._stream_at(layout.gain_offset)
            stream.fill(gain.reshape(-1).view(np.uint8).data)
            if stream.at < layout.gain_offset + gain.nbytes:
                raise MovieTruncatedError(
                    f"{self.path} ends inside of the gain reference of its extended header"
                )
        return gain.astype(np.float32)

    @property
    def bytes_behind(self) -> int:
        """Less than a frame; to know it, all is unpacked once."""
        if self._n_unpacked is None:
            with self._lock:
                stream = self._stream_at(self._end)
                self._finish(stream)
        assert self._n_unpacked is not None
        return max(0, self._n_unpacked - self._end)

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002 - whole
        """Unpack as far as the frame, and fill `out`."""
        with self._lock:
            self._fill(
                self._stream_at(self._layout.data_offset + index * self._layout.frame_bytes), index, out
            )

    def read_all(self, frames: npt.NDArray[Any], on_frame: Callable[[int], None] | None = None) -> None:
        """Unpack all of it, once, and see that nothing follows."""
        with self._lock:
            self._stop()
            stream = self._stream_at(self._layout.data_offset)
            for index, frame in enumerate(frames):
                self._fill(stream, index, frame)
                if on_frame is not None:
                    on_frame(index)
            self._finish(stream)

    def _stream_at(self, offset: int) -> _Stream:
        """The stream, brought to where byte `offset` is the next one."""
        if self._stream is None or self._stream.at > offset:
            self._stop()
            self._stream = _Stream(self._packing.chunks())
        self._stream.skip(offset - self._stream.at)
        return self._stream

    def _fill(self, stream: _Stream, index: int, out: npt.NDArray[Any]) -> None:
        layout = self._layout
        target = out if layout.is_direct else np.empty(layout.frame_bytes, dtype=np.uint8)
        stream.fill(target.reshape(-1).view(np.uint8).data)
        missing = layout.data_offset + (index + 1) * layout.frame_bytes - stream.at
        if missing:
            raise MovieTruncatedError(
                f"{self.path}: {self.frame_name(index)} ends {missing} bytes early, and with it all that the file "
                "unpacks to"
            )
        if layout.is_direct:
            layout.restore_order(out)
        else:
            layout.unpack(target, out)

    def _finish(self, stream: _Stream) -> None:
        """Read what is behind the frames, and all checksums with it."""
        stream.skip(self._layout.frame_bytes)
        self._n_unpacked = stream.at
        self._stop()
        self._check_length(self._n_unpacked)

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """Close the file; what is being unpacked is waited for."""
        self._stop()
        super().close()


class _Stream:
    """Chunks of any size, read as one."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self.at = 0

    def fill(self, view: memoryview) -> None:
        """Copy the next bytes into `view`; fewer when there are no more."""
        done = 0
        while done < len(view) and self._refill():
            n_bytes = min(len(self._left), len(view) - done)
            view[done : done + n_bytes] = self._left[:n_bytes]
            self._take(n_bytes)
            done += n_bytes

    def skip(self, n_bytes: int) -> None:
        """Pass over the next bytes, as far as there are any."""
        end = self.at + n_bytes
        while self.at < end and self._refill():
            self._take(min(len(self._left), end - self.at))

    def _refill(self) -> bool:
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        return bool(self._left)

    def _take(self, n_bytes: int) -> None:
        self._left = self._left[n_bytes:]
        self.at += n_bytes

    def close(self) -> None:
        self._chunks.close()
