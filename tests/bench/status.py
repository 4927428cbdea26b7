"""How long `komad status` takes with 50,000 movies."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from komad.model import DetectorReport
from komad.output.detector import detector_summary
from komad.store import Store
from komad.store.detector import read_detector
from komad.store.overview import read_overview
from tests.bench.queue import fill

N_REPEATS = 7


def run(n_movies: int) -> dict[str, float]:
    """Median seconds of the whole command, of the empty command, and of the queries alone."""
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        config, state = base / "komad.toml", base / "komad-state"
        config.write_text('[[watch]]\ndirectory = "."\n')
        with Store(state).open() as store:
            fill(store, n_movies)
            _spread(store, n_movies)
            return {
                "komad status": _median_s("status", "--config", str(config)),
                "komad --version": _median_s("--version"),
                "queries": _queries_s(state),
            }


def _spread(store: Store, n_movies: int) -> None:
    """Let the session have lasted, a movie every six seconds."""
    ago = f"strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', printf('-%d seconds', ({n_movies} - movie_id) * 6))"
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE movies SET found_at = {ago}, series = 'k3'")
        connection.exec_driver_sql(
            f"UPDATE jobs SET ended_at = {ago}, summary = json_object('output_bytes', 1, 'archive_bytes', 1,"
            " 'detector', json(?)) WHERE state = 'done'",
            (json.dumps(detector_summary(DetectorReport())),),
        )


def _median_s(*arguments: str) -> float:
    times = []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "komad", *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _queries_s(state: Path) -> float:
    start = time.perf_counter()
    read_overview(state, now=datetime.now(UTC))
    read_detector(state)
    return time.perf_counter() - start


def main(n_movies: int = 50_000) -> None:
    """Print the figures."""
    print(f"{n_movies} movies; median of {N_REPEATS}")
    for name, seconds in run(n_movies).items():
        print(f"{name:16s} {seconds:6.3f} s")
