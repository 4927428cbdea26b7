"""The manifest of an archive directory."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from komad.errors import DiskFullError, OutputError
from komad.output.manifest import MANIFEST, ArchiveEntry, Event, Manifest, record_archive, record_removal

ENTRY = ArchiveEntry(
    stem="a",
    fingerprint_sha256="f" * 64,
    archive="a.mrcz",
    archive_bytes=70,
    archive_xxh3="ab" * 16,
    source="/camera/a.mrc",
    source_bytes=100,
    source_mtime_ns=1_700_000_000_123_456_789,
    source_xxh3="cd" * 16,
    source_sha256="ef" * 32,
)


def read(directory: Path) -> Manifest:
    """All of it."""
    manifest = Manifest(directory)
    manifest.refresh()
    return manifest


def test_the_last_line_counts(tmp_path: Path) -> None:
    """What is written is read; an archive that is made again replaces what was said of it."""
    record_archive(tmp_path, ENTRY)
    record_archive(tmp_path, replace(ENTRY, archive_bytes=71))
    lines = read(tmp_path).lines
    assert {name: line.entry.archive_bytes for name, line in lines.items()} == {"a.mrcz": 71}
    assert (lines["a.mrcz"].entry.source_mtime_ns, lines["a.mrcz"].last) == (
        ENTRY.source_mtime_ns,
        Event.ARCHIVED,
    )
    assert len((tmp_path / MANIFEST).read_text().splitlines()) == 2


def test_removal_and_what_it_freed(tmp_path: Path) -> None:
    """Removed bytes count once the movie is gone; an archive that is made again after that is not removed."""
    record_archive(tmp_path, ENTRY)
    record_removal(tmp_path, ENTRY, Event.REMOVING)
    manifest = read(tmp_path)
    assert (manifest.lines["a.mrcz"].last, manifest.removed_bytes) == (Event.REMOVING, 0)
    record_removal(tmp_path, ENTRY, Event.REMOVED)
    manifest.refresh()
    assert (manifest.lines["a.mrcz"].last, manifest.n_removed, manifest.removed_bytes) == (
        Event.REMOVED,
        1,
        100,
    )
    record_archive(tmp_path, ENTRY)
    manifest.refresh()
    assert (manifest.lines["a.mrcz"].last, manifest.removed_bytes) == (Event.ARCHIVED, 100)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_that_was_cut_off(tmp_path: Path, cut: int) -> None:
    """It is not read, the next one begins after it, and all others are whole."""
    record_archive(tmp_path, ENTRY)
    whole = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(whole + whole[:cut])
    manifest = read(tmp_path)
    record_archive(tmp_path, replace(ENTRY, archive="b.mrcz"))
    manifest.refresh()
    assert set(manifest.lines) == {"a.mrcz", "b.mrcz"}
    assert manifest.n_unreadable == (cut != -1)


def test_another_file_in_its_place(tmp_path: Path) -> None:
    """A manifest that was exchanged, or is gone, is read anew."""
    record_archive(tmp_path, ENTRY)
    manifest = read(tmp_path)
    (tmp_path / MANIFEST).unlink()
    manifest.refresh()
    assert manifest.lines == {}
    record_archive(tmp_path, replace(ENTRY, archive="b.mrcz"))
    manifest.refresh()
    assert set(manifest.lines) == {"b.mrcz"}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"event": "archived"}',
        '{"event": "removed", "archive": "unknown.mrcz", "source_bytes": 1}',
        "[" * 5000,
        '{"event": "burnt", "archive": "a.mrcz"}',
    ],
)
def test_lines_that_say_nothing(tmp_path: Path, line: str) -> None:
    """They are counted and change nothing."""
    record_archive(tmp_path, ENTRY)
    with (tmp_path / MANIFEST).open("a") as file:
        file.write(line + "\n")
    manifest = read(tmp_path)
    assert (set(manifest.lines), manifest.n_unreadable, manifest.n_removed) == ({"a.mrcz"}, 1, 0)


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    """A manifest speaks of files beside it only."""
    record_archive(tmp_path, replace(ENTRY, archive="../a.mrcz"))
    assert (read(tmp_path).lines, read(tmp_path).n_unreadable) == ({}, 1)


def test_many_writers(tmp_path: Path) -> None:
    """Lines of several writers do not mix."""

    def write(number: int) -> None:
        for index in range(10):
            record_archive(tmp_path, replace(ENTRY, archive=f"{number}-{index}.mrcz"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(read(tmp_path).lines), read(tmp_path).n_unreadable) == (40, 0)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that cannot be written is an error of the disk; a folder that cannot be written, of the output."""

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=MANIFEST):
        record_archive(tmp_path, ENTRY)
    with pytest.raises(OutputError, match=MANIFEST):
        record_archive(tmp_path / "gone", ENTRY)
