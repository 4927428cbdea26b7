"""One look at everything in a watched folder: the truth, where events are only hints."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from komad.config import WatchFolder
from komad.formats.frame_files import FileStatus, joined, status_of
from komad.model.frame_names import FrameNames
from komad.watch.settle import Observation

RECHECK_EVERY = 8
"""A file that was taken is compared again in every eighth sweep: it may be overwritten under its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What one sweep over a folder found."""

    files: dict[str, Observation] = field(default_factory=dict)
    """Path -> how it looks, for movies that are not known."""
    errors: dict[str, str] = field(default_factory=dict)
    """Directory or file -> why it could not be looked at."""


class KnownFiles:
    """The files that were taken already, as (path, size, mtime in ns)."""

    def __init__(self, files: Iterable[tuple[str, int, int]]) -> None:
        self._versions: dict[str, set[tuple[int, int]]] = {}
        for path, size_bytes, mtime_ns in files:
            self.add(path, size_bytes, mtime_ns)

    def add(self, path: str, size_bytes: int, mtime_ns: int) -> None:
        """Remember a file as it was when it was taken."""
        self._versions.setdefault(path, set()).add((size_bytes, mtime_ns))

    def has(self, path: str, seen: Observation) -> bool:
        """Tell whether exactly this file was taken: a new one under an old name was not."""
        return (seen.size_bytes, seen.mtime_ns) in self._versions.get(path, ())

    def may_skip(self, path: str, turn: int) -> bool:
        """Tell whether a file of this name was taken and it is not its turn to be compared again.

        Comparing costs a `stat` per file, which over a network and fifty thousand files is most of a sweep.
        """
        return path in self._versions and (hash(path) + turn) % RECHECK_EVERY != 0


class Selection:
    """Which names in a watched folder are movies.

    Parameters
    ----------
    folder
        Its patterns and names to ignore; both match without regard to case.
    leave_out
        Files (references) and directories (other watched folders, which look after themselves) to pass over.
    """

    def __init__(self, folder: WatchFolder, leave_out: Iterable[Path] = ()) -> None:
        self.root = str(folder.directory)
        self.recursive = folder.recursive
        self._movie = _compile(folder.patterns)
        self._ignored = _compile(folder.ignore)
        self.frames = FrameNames(folder.frame_files) if folder.frame_files else None
        self._leave_out = {str(path) for path in leave_out} - {self.root}

    def is_movie(self, name: str, path: str) -> bool:
        """Tell whether a file is a movie, or a frame of one, by its name."""
        if self.frames is not None and self.movie_of(path) is None and self.frames.name_of(path) is None:
            return False
        return (
            (self.frames is not None or bool(self._movie(name)))
            and not self._ignored(name)
            and path not in self._leave_out
        )

    def movie_of(self, path: str) -> str | None:
        """Path of the movie that a file is, or is a frame of; None for other files where frames are files."""
        return path if self.frames is None else self.frames.movie_of(path)

    def enters(self, name: str, path: str) -> bool:
        """Tell whether a sub-folder is looked into."""
        return self.recursive and not self._ignored(name) and path not in self._leave_out

    def covers(self, path: str) -> bool:
        """Tell whether a sweep over the folder would come across this path as a movie."""
        *parents, name = Path(path).relative_to(self.root).parts
        at = self.root
        for parent in parents:
            at = os.path.join(at, parent)  # noqa: PTH118 - the same strings that os.scandir makes
            if not self.enters(parent, at):
                return False
        return self.is_movie(name, path)


def _compile(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None]:
    return re.compile(
        "|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)", re.IGNORECASE
    ).match


def look(path: str) -> Observation:
    """Look at a movie, of one file or of several; a link shows the file it leads to. Raises OSError."""
    return _observation(status_of(Path(path)))


def _observation(status: FileStatus) -> Observation:
    return Observation(size_bytes=status.size_bytes, mtime_ns=status.mtime_ns, ctime_ns=status.ctime_ns)


def sweep(
    selection: Selection,
    known: KnownFiles,
    *,
    turn: int,
    waiting: Container[str] = frozenset(),
    on_look: Callable[[], None] = lambda: None,
) -> Sweep:
    """Look at all files of a folder that are not known, and at those that are waiting to settle.

    `on_look` is called before each look: over a slow network a sweep takes minutes and gets on all the same.

    Links to files are followed. Links to folders are not: a loop would never end, and a movie must have one path
    only. What cannot be looked at is written down and the rest goes on.
    """
    found = Sweep()
    directories = [selection.root]
    while directories:
        directory = directories.pop()
        on_look()
        frames: dict[str, list[os.DirEntry[str]]] = {}
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if selection.enters(entry.name, entry.path):
                            directories.append(entry.path)
                    elif (
                        (movie := selection.movie_of(entry.path)) is not None
                        and (movie in waiting or not known.may_skip(movie, turn))
                        and selection.is_movie(entry.name, entry.path)
                    ):
                        if selection.frames is None:
                            on_look()
                            _look_at(movie, [entry], known, found)
                        else:
                            frames.setdefault(movie, []).append(entry)
            for movie, files in frames.items():
                on_look()
                _look_at(movie, files, known, found)
        except FileNotFoundError as error:
            if directory == selection.root:
                found.errors[directory] = _reason(error)
            # A sub-folder that was removed meanwhile is no error.
        except OSError as error:
            found.errors[directory] = _reason(error)
    return found


def is_text(path: str) -> bool:
    """Tell whether a path can be written down: names that are not UTF-8 cannot, in any database, STAR or JSON file."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _look_at(path: str, files: Sequence[os.DirEntry[str]], known: KnownFiles, found: Sweep) -> None:
    """Look at a movie, of one file or of several."""
    if not is_text(path):
        found.errors[ascii(path)] = "the name is not valid UTF-8, rename it"
        return
    try:
        statuses = [(file.name, file.stat()) for file in files if file.is_file()]
        if statuses:
            seen = _observation(joined(statuses))
            if not known.has(path, seen):
                found.files[path] = seen
    except FileNotFoundError:
        pass  # Renamed or removed between listing and looking.
    except OSError as error:
        found.errors[path] = _reason(error)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
