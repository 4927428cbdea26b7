"""The worker and the daemon killed before and after each of their points."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.kills import Kills, kill_daemons, kill_workers

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


def check(kills: Kills, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the figures; nearly every point must have been reached again."""
    with capsys.disabled():
        print(f"\n{kills}")  # noqa: T201 - the figures
    assert kills.faults == []
    assert kills.n_kills > 10 * len(kills.missed)


def test_workers(tmp_path: Path, numba_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a killed worker left half done, the next one ends it, and every file is as it would have been."""
    check(kill_workers(tmp_path, numba_cache), capsys)


def test_daemons(tmp_path: Path, numba_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a killed daemon left half done, the next one ends it, and every file is as it would have been."""
    check(kill_daemons(tmp_path, numba_cache), capsys)
