"""What a finished movie costs the indices of a session, at any length of the session."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from komad.output.session import SessionIndex
from tests.output.test_session import summary

LENGTHS = (100, 5_000, 50_000)
N_MEASURED = 50


def main() -> None:
    """Print wall and CPU time of publishing one movie, and of one that is done again."""
    print("processed.jsonl, corrected_micrographs.star and session.json, one movie more, made durable")
    with tempfile.TemporaryDirectory(prefix="komad-bench-", dir=Path.cwd()) as place:
        index, done = SessionIndex(Path(place)), 0
        for length in LENGTHS:
            index.publish([movie(number) for number in range(done + 1, length - N_MEASURED + 1)])
            times = [timed(index, movie(number)) for number in range(length - N_MEASURED + 1, length + 1)]
            done = length
            wall, cpu = (statistics.median(some) * 1e3 for some in zip(*times, strict=True))
            again = timed(index, movie(length) | {"written_at": f"again {length}"})
            print(
                f"{length:6} movies: {wall:.1f} ms wall, {cpu:.2f} ms CPU; "
                f"done again: {again[0] * 1e3:.0f} ms wall, {again[1] * 1e3:.0f} ms CPU",
                flush=True,
            )


def movie(number: int) -> dict[str, Any]:
    """A summary as long as real ones, with names as a camera gives them."""
    stem = f"FoilHole_{number:06d}_Data_20260304_120000"
    made = summary(number, stem=stem, exposure_before=0.0, timings_s={"x": "x" * 1500})
    made["files"] |= {"even": f"{stem}_EVN.mrc", "odd": f"{stem}_ODD.mrc"}
    return made


def timed(index: SessionIndex, one: dict[str, Any]) -> tuple[float, float]:
    """Seconds of wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    index.publish([one])
    return time.perf_counter() - wall, time.process_time() - cpu
