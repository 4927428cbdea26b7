"""Thousands of movies that lie in a folder when the daemon starts."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import structlog

from komad.app import Intake
from komad.config import Settings
from komad.formats.movies import check_complete
from komad.model import Candidate
from komad.store import Store
from komad.watch import Watcher
from tests.work.conftest import numba_cache, settings, store, write_movie

__all__ = ["numba_cache", "settings", "store"]


def fill(camera: Path, n_files: int) -> list[int]:
    """Make that many names of one movie, with times in no order of names; gives the numbers, the oldest first."""
    template = write_movie(camera.parent / "template.mrc")
    times = np.random.default_rng(1).permutation(n_files)
    content = template.read_bytes()
    for number, seconds in enumerate(times):
        path = camera / f"{number}.mrc"
        path.write_bytes(content)
        os.utime(path, (seconds, seconds))
    return [int(number) for number in np.argsort(times)]


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("n_files", [5_000, 20_000])
def test_thousands_at_start(
    settings: Settings, store: Store, n_files: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are taken, the oldest first; others get at the database meanwhile; memory stays; each costs the same."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    order = fill(settings.watch[0].directory, n_files)
    intake, taken = Intake(settings, store), []

    def take(candidate: Candidate) -> None:
        intake.take(candidate)
        taken.append((time.monotonic(), int(candidate.path.stem)))

    watcher = Watcher(
        settings.watch,
        settings.watching,
        known=(),
        check_finished=check_complete,
        on_candidate=take,
        on_unreadable=intake.report,
    )
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu_s, waits = time.monotonic(), time.process_time(), []
    watcher.start()
    while len(taken) < n_files and watcher.last_sweep > time.monotonic() - 60:
        time.sleep(0.2)
        asked = time.monotonic()
        if store.claim("w") is not None:
            waits.append((time.monotonic(), time.monotonic() - asked))
    watcher.stop()
    structlog.reset_defaults()
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib) / 1024
    moments = np.array([moment for moment, _ in taken])
    quarter = n_files // 4
    first, last = np.median(np.diff(moments[:quarter])), np.median(np.diff(moments[-quarter:]))
    with capsys.disabled():
        print(  # noqa: T201 - the figure that is wanted
            f"\n{n_files} movies: first claim after {waits[0][0] - started:.1f} s, all rows after "
            f"{moments[-1] - started:.0f} s ({1e3 * (time.process_time() - cpu_s) / n_files:.1f} ms of processor time "
            f"each), longest wait for a claim {max(wait for _, wait in waits):.2f} s, {grown_mb:.0f} MiB more memory, "
            f"median of a movie {1e3 * first:.1f} ms in the first quarter, {1e3 * last:.1f} ms in the last"
        )
    assert [number for _, number in taken] == order
    assert [store.movie(number).path.stem for number in (1, n_files)] == [str(order[0]), str(order[-1])]
    assert max(wait for _, wait in waits) < settings.queue.lease_timeout_s
    assert grown_mb < 100
    assert last < 3 * first
