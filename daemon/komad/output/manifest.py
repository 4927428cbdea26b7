"""The manifest of an archive directory: `archives.jsonl`, append only, one line for each archive that was finished.

An archive that is made again has another line, and the last one counts. When its movie is removed, a line before it
(`removing`) and one after it (`removed`) say so. Archives are named by their file names, so that the directory can be
copied and checked elsewhere. Several processes may append: each line is one write.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from komad.errors import OutputError
from komad.formats.atomic import apply_sharing, explained, sync_folder

MANIFEST = "archives.jsonl"
SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or goes away."""


class Event(StrEnum):
    """What a line says."""

    ARCHIVED = "archived"
    REMOVING = "removing"
    """The archive is proven, and the movie is about to be removed."""
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A time that the wall clock cannot spoil: seconds since a boot of a computer."""

    boot_id: str
    boottime_s: float

    @classmethod
    def now(cls) -> Moment:
        """What it is now, on this computer."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return cls(boot_id=boot_id, boottime_s=round(time.clock_gettime(time.CLOCK_BOOTTIME), 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveEntry:
    """An archive, and the movie it was made of."""

    stem: str
    fingerprint_sha256: str
    """`Movie.fingerprint`."""
    archive: str
    """Name of the file beside the manifest."""
    archive_bytes: int
    archive_xxh3: str
    """XXH3, 128 bits in hex, of the whole file as it was read back from the disk."""
    source: str
    """Path of the movie on the computer that archived it."""
    source_bytes: int
    source_mtime_ns: int
    source_xxh3: str
    source_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveLine:
    """What the manifest says of an archive in the end."""

    entry: ArchiveEntry
    at: datetime
    """When it was made, by the wall clock; UTC."""
    moment: Moment
    last: Event
    """What was done last."""


class Manifest:
    """Reads the manifest of a directory, and what was added to it since."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / MANIFEST
        self._forget()

    def _forget(self) -> None:
        self.lines: dict[str, ArchiveLine] = {}
        """Name of the archive -> what is said of it."""
        self.n_unreadable = 0
        """Lines that say nothing: cut off by a crash, or damaged."""
        self.n_removed = 0
        self.removed_bytes = 0
        """Movies that were removed."""
        self._file: tuple[int, int] | None = None
        self._read_bytes = 0

    def refresh(self) -> None:
        """Read what is new, or all of it when it is another file than before. Without a file there are no lines.

        Raises
        ------
        OutputError
            It cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._read_bytes:
                    self._forget()
                    self._file = (status.st_dev, status.st_ino)
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # being written, or cut off: what is appended next ends it
                    self._read_bytes += len(line)
                    self._add(line)
        except FileNotFoundError:
            self._forget()
        except OSError as error:
            raise OutputError(f"cannot read {self.path}: {error.strerror}") from error

    def _add(self, text: bytes) -> None:
        if not text.strip():
            return
        try:
            self._take(json.loads(text))
        except (ValueError, KeyError, TypeError, RecursionError):
            self.n_unreadable += 1

    def _take(self, line: Mapping[str, Any]) -> None:
        event, name = Event(line["event"]), str(line["archive"])
        if event is Event.ARCHIVED:
            if Path(name).name != name:
                raise ValueError(f"{name} lies elsewhere")
            entry = ArchiveEntry(**{key: line[key] for key in ArchiveEntry.__dataclass_fields__})
            at = datetime.fromisoformat(line["at"]).astimezone(UTC)
            moment = Moment(boot_id=str(line["boot_id"]), boottime_s=float(line["boottime_s"]))
            self.lines[name] = ArchiveLine(entry=entry, at=at, moment=moment, last=event)
            return
        self.lines[name] = replace(self.lines[name], last=event)
        if event is Event.REMOVED:
            self.n_removed += 1
            self.removed_bytes += int(line["source_bytes"])


def record_archive(
    directory: Path, entry: ArchiveEntry, *, metadata: Mapping[str, object] | None = None
) -> None:
    """Say that an archive is finished, with what is bound to its movie where the archive itself has no place for it.

    Errors as `_append`.
    """
    bound = {} if metadata is None else {"metadata": metadata}
    _append(directory, Event.ARCHIVED, asdict(entry) | asdict(Moment.now()) | bound)


def archived_metadata(directory: Path) -> dict[str, dict[str, Any]]:
    """Name of the archive -> what `record_archive` was given to keep with it. Without a manifest there is none.

    Raises
    ------
    OutputError
        The manifest cannot be read.
    """
    path, found = directory / MANIFEST, {}
    try:
        with path.open("rb") as file:
            for text in file:
                with suppress(ValueError, KeyError, TypeError, RecursionError):
                    line = json.loads(text)
                    if line["event"] == Event.ARCHIVED and isinstance(line.get("metadata"), dict):
                        found[str(line["archive"])] = line["metadata"]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    return found


def record_removal(directory: Path, entry: ArchiveEntry, event: Event) -> None:
    """Say that a movie is about to be removed, or is. With it all lines before are on the disk. Errors as `_append`."""
    names = ("stem", "archive", "source", "source_bytes")
    _append(directory, event, {name: getattr(entry, name) for name in names})


def _append(directory: Path, event: Event, values: Mapping[str, object]) -> None:
    """Add a line and make it durable.

    Raises
    ------
    DiskFullError, OutputError
        It cannot be written. What is there of it is ended by the next line, and not read.
    """
    path = directory / MANIFEST
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"schema_version": SCHEMA_VERSION, "event": event, "at": at, **values}
    data = json.dumps(line, allow_nan=False).encode() + b"\n"
    try:
        with path.open("a+b", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if not size_bytes:
                apply_sharing(file.fileno(), path)
            else:
                with suppress(IndexError):  # somebody made it shorter meanwhile
                    data = (
                        data if os.pread(file.fileno(), 1, size_bytes - 1)[0] == ord("\n") else b"\n" + data
                    )
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        if not size_bytes:
            sync_folder(directory)
    except OSError as error:
        raise explained(path, error) from error
