"""How fast the queue is with 50,000 movies."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert

from komad.model import JobKind, JobState
from komad.store import HeldBy, Store
from komad.store.changes import WAITING_FOR_ARCHIVE
from komad.store.rows import movie_values, now
from komad.store.tables import jobs, movies
from tests.store.conftest import movie_at

N_REPEATS = 200


def fill(store: Store, n_movies: int) -> None:
    """Fill the tables as after a long session: all but the last fifth are done, the others wait."""
    n_done = n_movies * 4 // 5
    with store.write() as connection:
        rows = (movie_values(movie_at(f"/data/m{n}.mrc")) | {"stem": f"m{n}"} for n in range(n_movies))
        connection.execute(insert(movies), list(rows))
        for kind, waiting, reason, held_by in (
            (JobKind.ARCHIVE, JobState.QUEUED, "", ""),
            (JobKind.CORRECT, JobState.HELD, WAITING_FOR_ARCHIVE, HeldBy.ARCHIVE),
        ):
            connection.execute(
                insert(jobs),
                [
                    {
                        "movie_id": n + 1,
                        "kind": kind,
                        "state": JobState.DONE if n < n_done else waiting,
                        "reason": "" if n < n_done else reason,
                        "held_by": "" if n < n_done else held_by,
                        "created_at": now(),
                        "ended_at": now() if n < n_done else None,
                        "sequence": n + 1 if n < n_done and kind is JobKind.CORRECT else None,
                        "summary": {"stem": f"m{n}"} if n < n_done else None,
                    }
                    for n in range(n_movies)
                ],
            )


def median_ms(action: Callable[[], object]) -> tuple[float, float]:
    """Return median and largest time of an action, in milliseconds."""
    times = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    times.sort()
    return times[len(times) // 2] * 1e3, times[-1] * 1e3


def run(n_movies: int) -> dict[str, tuple[float, float]]:
    """Return median and largest time of each operation, in milliseconds."""
    with tempfile.TemporaryDirectory() as directory, Store(Path(directory)).open() as store:
        fill(store, n_movies)
        store.register_worker("w", boot_id="boot", pid=1, device="cpu")
        new = iter(range(n_movies, n_movies + N_REPEATS))

        def claim_begin_finish() -> None:
            job = store.claim("w")
            assert job is not None
            store.finish(store.begin(job), {}, 1.0)

        def claim_finish() -> None:
            job = store.claim("w")
            assert job is not None
            store.finish(job, {}, 1.0)

        return {
            "claim + finish": median_ms(claim_finish),
            "claim + begin + finish": median_ms(claim_begin_finish),
            "add_movie": median_ms(lambda: store.add_movie(movie_at(f"/data/m{next(new)}.mrc"))),
            "beat": median_ms(lambda: store.beat("w", "archiving")),
            "finished_since (nothing new)": median_ms(lambda: store.finished_since(n_movies * 4 // 5)),
        }


def main(n_movies: int = 50_000) -> None:
    """Print the figures."""
    print(f"{n_movies} movies; median and largest of {N_REPEATS}, ms")
    for name, (median, largest) in run(n_movies).items():
        print(f"{name:32s} {median:8.2f} {largest:8.2f}")
