"""Whether archives still are what they were: each against the manifest beside it and against its own checksums."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from komad.errors import KomadError, ParameterError
from komad.formats.copies import ARCHIVE_SUFFIXES, checksum_archive
from komad.formats.mrcz import FileChecksum
from komad.output.manifest import ArchiveLine, Manifest


class Trouble(StrEnum):
    """What is the matter with an archive."""

    MISSING = "missing"
    """The manifest has it, the directory has not."""
    DAMAGED = "damaged"
    """It cannot be read, or is not what it was when it was made."""
    UNLISTED = "unlisted"
    """The manifest has no line of it; it is sound in itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An archive that is not as it should be."""

    archive: str
    """Its name in the directory."""
    trouble: Trouble
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found in a directory."""

    n_archives: int
    """Looked at, the missing ones too."""
    n_bytes: int
    """Read."""
    n_unreadable_lines: int
    """Of the manifest."""
    findings: tuple[Finding, ...]
    """In the order of their names."""

    @property
    def is_sound(self) -> bool:
        """Whether no archive is missing or damaged."""
        return all(finding.trouble is Trouble.UNLISTED for finding in self.findings)


def verify(
    directory: Path,
    *,
    jobs: int,
    since: datetime | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_archive: Callable[[], None] = lambda: None,
) -> Report:
    """Read every archive of a directory from the disk, as its manifest lists them.

    Nothing is written, and no path outside of the directory is looked at, so a copy of it can be checked anywhere. An
    archive that is made anew meanwhile is looked at again.

    Parameters
    ----------
    directory
        The archives and their manifest.
    jobs
        Archives that are read at the same time.
    since
        Only archives made at or after this time (with time zone); those that the manifest lacks are left out then.
    on_start, on_archive
        Called with the number of archives, and after each of them.

    Raises
    ------
    ParameterError
        The directory cannot be read, or no archive was ever in it.
    OutputError
        The manifest cannot be read.
    """
    manifest = Manifest(directory)
    manifest.refresh()
    there = _archives_in(directory)
    if not there and not manifest.lines:
        raise ParameterError(f"{directory} holds no archives (*.mrcz, *.eer) and no {manifest.path.name}")
    listed = {name for name, line in manifest.lines.items() if since is None or line.at >= since}
    names = sorted(listed | (there - manifest.lines.keys() if since is None else set()))
    on_start(len(names))
    findings, n_bytes = [], 0
    pool = ThreadPoolExecutor(jobs, "komad-verify")
    try:
        for future in as_completed([pool.submit(_check, directory, name, manifest) for name in names]):
            finding, size_bytes = future.result()
            n_bytes += size_bytes
            if finding is not None:
                findings.append(finding)
            on_archive()
    finally:
        pool.shutdown(cancel_futures=True)
    return Report(
        n_archives=len(names),
        n_bytes=n_bytes,
        n_unreadable_lines=manifest.n_unreadable,
        findings=tuple(sorted(findings, key=lambda finding: finding.archive)),
    )


def _archives_in(directory: Path) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {
                entry.name
                for entry in entries
                if entry.name.endswith(ARCHIVE_SUFFIXES) and not entry.name.startswith(".")
            }
    except OSError as error:
        raise ParameterError(f"{directory} cannot be read: {error.strerror}") from error


def _check(directory: Path, name: str, manifest: Manifest) -> tuple[Finding | None, int]:
    """Look at one archive; gives what is the matter with it, and its size in bytes."""
    line = manifest.lines.get(name)
    trouble, size_bytes = _compare(directory / name, line)
    if trouble is not None:
        again = Manifest(directory)
        again.refresh()
        now = again.lines.get(name)
        if now is not None and now != line:  # it was being made while we read
            trouble, size_bytes = _compare(directory / name, now)
    return None if trouble is None else Finding(archive=name, trouble=trouble[0], text=trouble[1]), size_bytes


def _compare(path: Path, line: ArchiveLine | None) -> tuple[tuple[Trouble, str] | None, int]:
    size_bytes = 0
    try:
        size_bytes = path.stat().st_size
        found = checksum_archive(path)
    except FileNotFoundError:
        return (Trouble.MISSING, "it is not there"), 0
    except OSError as error:
        return (Trouble.DAMAGED, f"{path} cannot be read: {error.strerror}"), 0
    except KomadError as error:
        return (Trouble.DAMAGED, str(error)), size_bytes
    return _difference(found, line), size_bytes


def _difference(found: FileChecksum, line: ArchiveLine | None) -> tuple[Trouble, str] | None:
    """Say how an archive whose frames are sound differs from the one that was made."""
    if line is None:
        return Trouble.UNLISTED, "the manifest does not have it; it is sound in itself"
    entry = line.entry
    if found.n_bytes != entry.archive_bytes:
        return Trouble.DAMAGED, f"it has {found.n_bytes} bytes and had {entry.archive_bytes} when it was made"
    if found.xxh3 != entry.archive_xxh3:
        return (
            Trouble.DAMAGED,
            "it is sound in itself, but not what it was when it was made: its checksum differs",
        )
    return None
