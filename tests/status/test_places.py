"""Looking at folders."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from komad.status import places


def test_look_tells_free_space_and_device(tmp_path: Path) -> None:
    """An existing folder is reachable, with the free bytes of its file system."""
    (place,) = places.look([("output", tmp_path)])
    usage = os.statvfs(tmp_path)
    assert place.reachable
    assert place.device == tmp_path.stat().st_dev
    assert place.free_bytes == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.05)


def test_missing_watch_folder_is_unreachable_but_a_new_output_folder_is_not(tmp_path: Path) -> None:
    """The camera's folder must be there; komad makes its own."""
    missing = tmp_path / "missing"
    watch, output = places.look([("watch", missing), ("output", missing)])
    assert not watch.reachable
    assert output.reachable


def test_a_file_system_that_does_not_answer_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hanging statvfs costs the time limit, no more."""
    release = threading.Event()

    def hang(_: Path) -> None:
        release.wait(20)
        raise OSError

    monkeypatch.setattr(places.os, "statvfs", hang)
    started = time.monotonic()
    (place,) = places.look([("watch", tmp_path)], timeout_s=0.1)
    release.set()
    assert not place.reachable
    assert time.monotonic() - started < 5
