"""A long session: what the daemon holds and does for each movie does not grow with the number of those before it."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime

import psutil
import pytest

from komad.app import Daemon
from komad.config import Settings
from komad.model import JobKind
from komad.output.session import PROCESSED
from komad.store import Store
from tests.output.test_session import summary
from tests.store.conftest import movie_at
from tests.work.conftest import numba_cache, settings, store

__all__ = ["numba_cache", "settings", "store"]

N_MOVIES = 5_000
BATCH = 250


def go_through(store: Store, settings: Settings, number: int) -> None:
    """Do what a watcher and a worker do with the database for one movie."""
    store.add_movie(movie_at(f"/data/movie_{number}.mrc"))
    for _ in JobKind:
        job = store.claim("w")
        assert job is not None
        text = {name: it for name, it in summary(number).items() if name not in {"movie_id", "sequence"}}
        text |= {
            "written_at": datetime.now(UTC).isoformat(),
            "output_directory": str(settings.output.directory),
        }
        store.finish(store.begin(job), text, 1.0)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_long_session(settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Over 5,000 movies the daemon's memory stays, and publishing one costs at the end what it cost at first."""
    daemon = Daemon(settings, store)
    store.register_worker("w", boot_id="boot", pid=1, device="cpu")
    process = psutil.Process()
    seconds, mib = [], []
    for first in range(0, N_MOVIES, BATCH):
        for number in range(first, first + BATCH):
            go_through(store, settings, number + 1)
        start = time.process_time()
        daemon._publish()
        daemon._tick(starting=False)
        seconds.append(time.process_time() - start)
        gc.collect()
        mib.append(process.memory_info().rss / 2**20)
    daemon._end()
    lines = (settings.output.directory / PROCESSED).read_text().splitlines()
    early, late = (1e3 * sum(some) / len(some) / BATCH for some in (seconds[1:6], seconds[-5:]))
    more = mib[-1] - mib[1]
    with capsys.disabled():
        print(  # noqa: T201 - the figures
            f"\n{N_MOVIES} movies: published in {early:.2f} ms each at first, {late:.2f} ms at last; "
            f"{more:.1f} MiB more"
        )
    assert len(lines) == N_MOVIES
    assert len(set(lines)) == N_MOVIES
    # The row of each movie in the STAR is kept: 1 to 2 kB; and the STAR, written every 250 movies here, grows.
    assert more < 0.004 * N_MOVIES
    assert late < early + 1.0
