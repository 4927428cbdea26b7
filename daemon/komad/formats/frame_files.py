"""Movies of one file for each frame, seen as one; how they are named, `model.frame_names` says."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, MovieMissingError, MovieTruncatedError
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile, explained
from komad.model import MovieFormat, MovieHeader
from komad.model.frame_names import FRAME, is_frames

END_BYTES = 1 << 16
"""Of each file that counts for a fingerprint, at its start and at its end."""
N_TOLD = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStatus:
    """How a movie's file looks, or all of its files together."""

    size_bytes: int
    """Of all."""
    mtime_ns: int
    """Of several: the newest, but what is below a millisecond is a checksum over names, sizes and times of all."""
    ctime_ns: int
    """The newest."""


def list_frames(path: Path) -> list[tuple[int, Path]]:
    """Numbers and files of a movie, in their order, whatever is missing.

    Raises
    ------
    MovieMissingError, MovieError
        The folder cannot be read.
    """
    before, _, after = path.name.partition(FRAME)
    pattern = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    with explained(path.parent), os.scandir(path.parent) as entries:
        found = [(pattern.fullmatch(entry.name), entry.name) for entry in entries]
    return sorted((int(match[1]), path.with_name(name)) for match, name in found if match)


def frame_paths(path: Path) -> list[Path]:
    """Files of a movie in the order of their numbers, which begin at 0 or 1 and have no gap.

    Raises
    ------
    MovieMissingError
        There is none.
    MovieTruncatedError
        A number is missing; it may still come.
    MovieError
        A number is there twice.
    """
    frames = list_frames(path)
    if not frames:
        raise MovieMissingError(f"{path}: none of its files is there")
    numbers = [number for number, _ in frames]
    for (number, one), (following, other) in pairwise(frames):
        if number == following:
            raise MovieError(
                f"{path}: frame {number} is there twice, as {one.name} and {other.name}; remove one of them"
            )
    first, there = min(numbers[0], 1), set(numbers)
    # Not all of them: what is taken for a number may be a date and time, and any number of digits.
    missing = [*islice((number for number in range(first, numbers[-1]) if number not in there), N_TOLD + 1)]
    if missing:
        told = ", ".join(map(str, missing[:N_TOLD])) + (", ..." if len(missing) > N_TOLD else "")
        raise MovieTruncatedError(
            f"{path} has {len(frames)} files, and number {told} is missing between {first} and {numbers[-1]}: it is "
            "still being written, or its copy is not complete; copy what is missing (numbers begin at 0 or 1)"
        )
    return [file for _, file in frames]


def check_count(path: Path, wanted: int | None) -> None:
    """Compare the number of a movie's files with that of its frames, where that is known.

    Raises
    ------
    MovieTruncatedError
        There are fewer.
    MovieError
        There are more. Or as `list_frames`.
    """
    if wanted is None or not is_frames(path):
        return
    found = len(list_frames(path))
    if found < wanted:
        raise MovieTruncatedError(
            f"{path} has {found} of {wanted} frames (frames_per_movie): it is still being written, or its copy is not "
            "complete"
        )
    if found > wanted:
        raise MovieError(
            f"{path} has {found} frames, and frames_per_movie is {wanted}: correct it, or move the others away"
        )


def joined(files: Iterable[tuple[str, os.stat_result]]) -> FileStatus:
    """What the files of a movie look like together; one file is as it is."""
    files = list(files)
    if len(files) == 1:
        ((_, status),) = files
        return FileStatus(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)
    facts = sorted((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in files)
    digest = hashlib.sha256(repr([fact[:3] for fact in facts]).encode("utf-8", "surrogateescape")).digest()
    newest = max(fact[2] for fact in facts)
    return FileStatus(
        size_bytes=sum(fact[1] for fact in facts),
        mtime_ns=newest // 1_000_000 * 1_000_000 + int.from_bytes(digest[:8], "big") % 1_000_000,
        ctime_ns=max(fact[3] for fact in facts),
    )


def status_of(path: Path) -> FileStatus:
    """Look at a movie, of one file or of several; links show what they lead to. Raises OSError."""
    if is_frames(path):
        try:
            files = list_frames(path)
        except MovieError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from error
        if not files:
            raise FileNotFoundError(2, os.strerror(2), str(path))
        return joined((file.name, file.stat()) for _, file in files)
    return joined([(path.name, path.stat())])


def open_source(path: Path) -> SourceFile:
    """Open the bytes of a movie, of one file or of several. Errors as `SourceFile` and `frame_paths`."""
    return FrameFiles(path) if is_frames(path) else SourceFile(path)


class FrameFiles(SourceFile):
    """The files of a movie, one behind the other. Each is open only while it is read: there may be thousands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = frame_paths(path)
        with explained(path):
            self._sizes = [file.stat().st_size for file in self.files]
        self.size_bytes = sum(self._sizes)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def status(self) -> os.stat_result:
        """Size and times of all; the rest is that of the folder."""
        with explained(self.path):
            whole = status_of(self.path)
            folder = list(self.path.parent.stat())
        folder[6] = whole.size_bytes
        times = {"st_mtime_ns": whole.mtime_ns, "st_ctime_ns": whole.ctime_ns}
        return os.stat_result(folder, times)

    def forget_cached(self) -> None:
        """Have what is read from now on come from the disk and not from memory."""
        for file in self.files:
            with SourceFile(file) as source:
                source.forget_cached()

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Bytes at `offset` of all files together; fewer at the end only."""
        parts = []
        for file, size in zip(self.files, self._sizes, strict=True):
            if offset < size and n_bytes > 0:
                with SourceFile(file) as source:
                    part = source.read(offset, min(n_bytes, size - offset))
                if len(part) < min(n_bytes, size - offset):
                    break  # it has become shorter
                parts.append(part)
                n_bytes -= len(part)
                offset = size
            offset -= size
        return b"".join(parts)

    def read_into(self, array: npt.NDArray[Any], offset: int) -> int:
        """Fill an array from the bytes at `offset`; the count is smaller at the end only."""
        view = array.reshape(-1).view(np.uint8).data
        data = self.read(offset, len(view))
        view[: len(data)] = data
        return len(data)

    def fingerprint(self) -> str:
        """SHA-256 in hex over the name, the size, the first and the last bytes of each file."""
        digest = hashlib.sha256()
        for file in self.files:
            with SourceFile(file) as source:
                digest.update(f"{file.name}\0{source.size_bytes}\0".encode("utf-8", "surrogateescape"))
                digest.update(source.read(0, END_BYTES))
                digest.update(source.read(max(0, source.size_bytes - END_BYTES), END_BYTES))
        return digest.hexdigest()


class FrameFilesReader(MovieReader):
    """A movie of one file for each frame.

    Parameters
    ----------
    path
        Path of the movie, with `{frame}`.
    open_file
        Opens one of its files as a movie.

    Raises
    ------
    MovieTruncatedError
        A frame is missing, or not complete.
    MovieError
        A number is there twice; a file holds several frames, or another size or type than the first.
    """

    def __init__(self, path: Path, open_file: Callable[[Path], MovieReader]) -> None:
        self._open_file = open_file
        files = FrameFiles(path)
        self._files = files.files
        header = self._header_of(self._files[0])
        for file in self._files[1:]:
            self._check_same(header, self._header_of(file), file)
        self._first = header
        super().__init__(files, replace(header, format=MovieFormat.FILES, n_frames=len(self._files)))

    def _header_of(self, file: Path) -> MovieHeader:
        with self._open_file(file) as reader:
            if reader.header.n_frames != 1:
                raise MovieError(
                    f"{file} holds {reader.header.n_frames} frames: where each frame is a file (frame_files), a file "
                    "holds one; leave frame_files out where movies are stacks"
                )
            return reader.header

    def _check_same(self, first: MovieHeader, header: MovieHeader, file: Path) -> None:
        if (header.ny, header.nx, header.dtype) != (first.ny, first.nx, first.dtype):
            raise MovieError(
                f"{file} is a frame of {header.nx} x {header.ny} pixels of type {header.dtype}, the first of its "
                f"movie, {self._files[0].name}, of {first.nx} x {first.ny} and {first.dtype}: it is not of this movie"
            )

    def frame_name(self, index: int) -> str:
        """A frame as messages call it: its file."""
        return f"frame {index + 1} of {self.header.n_frames}, {self._files[index].name},"

    def check_complete(self) -> None:
        """Look at each file as at a movie of its own."""
        for file in self._files:
            with self._open_file(file) as reader:
                reader.check_complete()

    @property
    def bytes_behind(self) -> int:
        """Of all files."""
        n_bytes = 0
        for file in self._files:
            with self._open_file(file) as reader:
                n_bytes += reader.bytes_behind
        return n_bytes

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002 - whole
        """Read one file."""
        with self._open_file(self._files[index]) as reader:
            self._check_same(self._first, reader.header, self._files[index])
            reader.read_part(0, 0, 1, out)
