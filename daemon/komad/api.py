"""What other programs import of komad: movies and archives as arrays, and the finished movies of a session.

All of it reads files only; the database stays the daemon's.
"""

from __future__ import annotations

import errno
import json
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from komad.errors import KomadError, MovieError, OutputError
from komad.formats import movies
from komad.formats.mrcz import read_metadata
from komad.model import EerRendering, MovieFormat, MovieHeader
from komad.output.micrograph import SCHEMA_VERSION
from komad.output.schema import MovieDetails, ProcessedMovie, Record, Session
from komad.output.session import PROCESSED, SESSION, SessionState

__all__ = [
    "EerRendering",
    "FinishedMovie",
    "KomadError",
    "MovieError",
    "OpenMovie",
    "OutputError",
    "open_movie",
    "read_mrcz",
    "session",
]

BATCH_BYTES = 4 << 20
"""Of `processed.jsonl` that is read in one go; a line has some kilobytes."""
NOT_THERE = frozenset({errno.ENOENT, errno.ESTALE})
"""It has not been made yet, or another file takes its place."""

R = TypeVar("R", bound=Record)


class FinishedMovie(ProcessedMovie):
    """A movie whose files are all there: its line of `processed.jsonl`, and where its files are.

    Paths are absolute; those of files that were not made are None.
    """

    directory: Path
    """The output folder."""

    def file(self, kind: str) -> Path | None:
        """Where a file of this kind (a key of `files`) is; None where there is none."""
        name = self.files.get(kind)
        return None if name is None else self.directory / name

    @property
    def micrograph(self) -> Path:
        """The best sum there is: dose-weighted where the dose is known."""
        return self.directory / self.files["micrograph"]

    @property
    def micrograph_no_dw(self) -> Path:
        """The sum that is not dose-weighted, for CTF estimation; `micrograph` itself where none is weighted."""
        return self.file("micrograph_no_dw") or self.micrograph

    @property
    def even(self) -> Path | None:
        """Sum of frames 2, 4, ... counted from 1."""
        return self.file("even")

    @property
    def odd(self) -> Path | None:
        """Sum of frames 1, 3, ... counted from 1."""
        return self.file("odd")

    @property
    def power_spectrum(self) -> Path | None:
        """For CTF estimation in RELION."""
        return self.file("power_spectrum")

    @property
    def thumbnail(self) -> Path | None:
        """PNG with the tracks of the motion."""
        return self.file("thumbnail")

    @property
    def motion_star(self) -> Path:
        """The motion, for RELION."""
        return self.directory / self.files["motion"]

    def details(self) -> MovieDetails:
        """Read `<stem>.json`; that of the last time when the movie was made again meanwhile.

        Raises
        ------
        OutputError
            It cannot be read, or was written by a newer komad.
        """
        path = self.directory / self.files["details"]
        try:
            text = path.read_bytes()
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}") from error
        return _read(MovieDetails, text, str(path))


def session(
    directory: str | Path,
    *,
    follow: bool = False,
    poll_s: float = 2.0,
    after: int = 0,
    latest: bool = False,
    until_complete: bool = True,
) -> Iterator[FinishedMovie]:
    """Give the finished movies of an output folder, in the order in which they were finished.

    Each (stem, written_at) comes once: a movie that is made again comes again. That holds also when `processed.jsonl`
    is put back, replaced or made anew while it is followed. A last line that is not whole yet is waited for.

    Parameters
    ----------
    directory
        The output folder of `komad run` or `komad process`.
    follow
        Wait for more, also for the folder itself; otherwise give what is there and end.
    poll_s
        Seconds between two looks.
    after
        Leave out movies up to this `sequence`: to go on where an earlier run ended.
    latest
        Of a movie that was made several times until a look give the last time only.
    until_complete
        When following, end after the last movie when `session.json` says that the session is complete: komad has ended
        and nothing is left to do. With False it never ends.

    Yields
    ------
    FinishedMovie
        All files of it are complete.

    Raises
    ------
    OutputError
        There is no `processed.jsonl` (not when following), it cannot be read, has a line that komad did not write, or
        was written by a newer komad.
    ValueError
        `poll_s` is not positive.

    Examples
    --------
    >>> import komad
    >>> for movie in komad.session("corrected", follow=True):  # doctest: +SKIP
    ...     print(movie.sequence, movie.stem, movie.motion_angstrom.total, movie.micrograph)
    """
    if poll_s <= 0:
        raise ValueError(f"poll_s is {poll_s}; it must be positive")
    folder = Path(directory).absolute()
    if not follow and not (folder / PROCESSED).exists():
        raise OutputError(
            f"{folder} has no {PROCESSED}: it is no output folder of komad, or nothing is finished yet; "
            "follow=True waits for it"
        )
    return _finished(folder, follow, poll_s, after, latest, until_complete)


def _finished(
    folder: Path, follow: bool, poll_s: float, after: int, latest: bool, until_complete: bool
) -> Iterator[FinishedMovie]:
    lines, seen = _Lines(folder / PROCESSED), set[tuple[str, datetime]]()
    while True:
        # Asked before the lines are read: when it is so, all of them are there.
        is_last_look = not follow or (until_complete and _is_complete(folder))
        for line in _last_of_each(lines.new()) if latest else lines.new():
            movie = line.movie()
            if movie.sequence > after and (movie.stem, movie.written_at) not in seen:
                seen.add((movie.stem, movie.written_at))
                yield movie
        if is_last_look:
            return
        time.sleep(poll_s)


def _last_of_each(lines: Iterator[_Line]) -> Iterator[_Line]:
    """The last line of each stem, in their order."""
    last: dict[str, _Line] = {}  # not movies, which take more memory
    for line in lines:
        stem = line.movie().stem
        last.pop(stem, None)
        last[stem] = line
    yield from last.values()


def _is_complete(folder: Path) -> bool:
    path = folder / SESSION
    try:
        return _read(Session, path.read_bytes(), str(path)).state is SessionState.COMPLETE
    except OSError as error:
        if error.errno in NOT_THERE:
            return False
        raise OutputError(f"cannot read {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of `processed.jsonl`."""

    path: Path
    number: int
    text: bytes

    def movie(self) -> FinishedMovie:
        where = f"{self.path}, line {self.number}"
        return _read(FinishedMovie, self.text, where, directory=self.path.parent)


class _Lines:
    """The lines of `processed.jsonl`, each once for as long as it is the same file that only grows.

    It is another file when the line that was read last does not stand where it was read: all is read again then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0  # of what comes next
        self._last = b""
        self._number = 0

    def new(self) -> Iterator[_Line]:
        """Those that have come since; without a file there are none. A line that is not whole comes later."""
        while batch := self._batch():
            for text in batch:
                self._offset += len(text)
                self._last = text
                self._number += 1
                yield _Line(self._path, self._number, text)

    def _batch(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._offset, self._last, self._number = 0, b"", 0
                    file.seek(0)
                return [text for text in file.readlines(BATCH_BYTES) if text.endswith(b"\n")]
        except OSError as error:
            if error.errno in NOT_THERE:
                return []
            raise OutputError(f"cannot read {self._path}: {error.strerror}") from error


def _read(kind: type[R], text: bytes, where: str, **more: object) -> R:
    """Turn JSON into a model; what a newer komad means otherwise is refused."""
    try:
        values = json.loads(text)
        if (version := int(values["schema_version"])) > SCHEMA_VERSION:
            raise OutputError(
                f"{where} has schema_version {version}, this komad knows {SCHEMA_VERSION}: install a newer komad"
            )
        return kind.model_validate(values | more)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OutputError(f"{where} was not written by komad ({place}: {first['msg']})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{where} was not written by komad ({error!r})") from error


class OpenMovie:
    """A movie that is open for reading, a sequence of frames; close it, or use it in a `with` statement.

    Frames are arrays (ny, nx) of the type that the file has, rows in the order of MRC: row 0 is the bottom of the
    picture. Several threads may read at the same time.
    """

    def __init__(self, reader: movies.MovieReader, metadata: dict[str, Any]) -> None:
        self._reader = reader
        self.metadata = metadata
        """What komad wrote into an archive (MRCZ); empty for other files."""

    @property
    def path(self) -> Path:
        """The file."""
        return self._reader.path

    @property
    def header(self) -> MovieHeader:
        """What the file says of itself: format, sizes, dtype, pixel size and more."""
        return self._reader.header

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_frames, ny, nx)."""
        return self.header.shape

    def __len__(self) -> int:
        return self.header.n_frames

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> npt.NDArray[Any]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[Any]:
        """One frame (ny, nx), from the end with a negative index, or several as (n, ny, nx).

        Raises
        ------
        IndexError
            There is no such frame.
        MovieError
            A frame is damaged, or the file ends before it.
        """
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            frames = np.empty((len(places), *self.shape[1:]), self.header.dtype)
            for place, number in enumerate(places):
                frames[place] = self._reader.read_frame(number)
            return frames
        number = operator.index(index)
        return self._reader.read_frame(number + len(self) if number < 0 else number)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return (self._reader.read_frame(number) for number in range(len(self)))

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_movie(path: str | Path, rendering: EerRendering | None = None) -> OpenMovie:
    """Open a movie of any format that komad reads: MRC, MRCZ, TIFF, EER and others; told by content, not by name.

    Parameters
    ----------
    path
        The file.
    rendering
        Of an EER movie: which raw frames are added into a frame, and how fine its pixels are; left out, frames are the
        raw frames. `MovieDetails.header.eer` has what komad used.

    Raises
    ------
    MovieError
        It is missing, damaged, or no movie; the message says what to do.

    Examples
    --------
    >>> import komad
    >>> with komad.open_movie("movie.mrcz") as movie:  # doctest: +SKIP
    ...     total = sum(frame.astype("float32") for frame in movie)
    ...     first = movie[0]
    """
    reader = movies.open_movie(Path(path), rendering)
    try:
        return OpenMovie(reader, dict(reader.metadata))
    except BaseException:
        reader.close()
        raise


def read_mrcz(path: str | Path) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Read an archive: all frames (n_frames, ny, nx), and its metadata. Frames are decoded in parallel and checked.

    Raises
    ------
    MovieError
        It is missing, damaged, or no MRCZ.

    Examples
    --------
    >>> import komad
    >>> frames, metadata = komad.read_mrcz("movie.mrcz")  # doctest: +SKIP
    >>> metadata["acquisition"]["voltage_kv"]  # doctest: +SKIP
    300.0
    """
    path = Path(path)
    if (kind := movies.identify(path)) is not MovieFormat.MRCZ:
        raise MovieError(f"{path} is no MRCZ but {kind}; open it with komad.open_movie")
    return movies.read_frames(path), read_metadata(path)
