"""The folder of an EPU session, in which a movie's `.xml` is found by name wherever the movie lies.

EPU writes `Images-Disc1/GridSquare_8999138/Data/FoilHole_..._Data_..._20250108_154915.xml`; the movie of that name
often goes to another disk (`..._Fractions.tiff`, `..._EER.eer`). Folders on a network are slow, and there may be
hundreds of grid squares: an index of names is kept, and brought up to date by listing folders that are new or changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

REFRESH_S = 5.0
"""A name that is not known is looked for again after so long."""
N_SESSIONS = 20
"""Sessions whose index is kept."""


@dataclass(slots=True)
class EpuSession:
    """An index of the `.xml` files of images below one folder. Not for several threads."""

    folder: Path
    """The session's folder, or one of its `Images-Disc`."""
    clock: Callable[[], float] = time.monotonic
    _paths: dict[str, Path] = field(default_factory=dict)
    """Stem in lower case -> path."""
    _changed_ns: dict[Path, int] = field(default_factory=dict)
    """Folder that was listed -> its time then."""
    _refreshed_s: float = -float("inf")

    def find(self, stem: str) -> Path | None:
        """Return the `.xml` of an image, or None when it is not there (yet).

        Raises
        ------
        OSError
            The session's folder cannot be read.
        """
        name = stem.casefold()
        if name not in self._paths and self.clock() - self._refreshed_s >= REFRESH_S:
            self._refresh()
        return self._paths.get(name)

    def _refresh(self) -> None:
        folders = dict(_data_folders(self.folder))
        newest = max(folders, key=folders.__getitem__, default=None)
        for folder, changed_ns in folders.items():
            # The time of a folder is coarse: in the newest, files may have come since without changing it.
            if folder == newest or self._changed_ns.get(folder) != changed_ns:
                self._list(folder)
                self._changed_ns[folder] = changed_ns
        self._refreshed_s = self.clock()

    def _list(self, folder: Path) -> None:
        with suppress(OSError):  # it went since
            for path in folder.iterdir():
                if path.suffix.lower() == ".xml":
                    self._paths[path.stem.casefold()] = path


def _data_folders(folder: Path) -> Iterator[tuple[Path, int]]:
    """(path, its time) of each `GridSquare_*/Data`, in the folder or in its `Images-Disc*`."""
    entries = list(folder.iterdir())
    squares = list(entries)
    for disc in entries:
        if disc.name.lower().startswith("images-disc"):
            with suppress(OSError):
                squares += disc.iterdir()
    for square in squares:
        if square.name.lower().startswith("gridsquare_"):
            with suppress(OSError):  # the grid square has no images yet
                yield square / "Data", (square / "Data").stat().st_mtime_ns


_sessions: dict[Path, EpuSession] = {}


def session_at(folder: Path) -> EpuSession:
    """Return the index of a session's folder, the same one each time."""
    if folder not in _sessions:
        if len(_sessions) >= N_SESSIONS:
            _sessions.clear()
        _sessions[folder] = EpuSession(folder)
    return _sessions[folder]
