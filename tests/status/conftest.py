"""Facts of a session at a fixed moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from komad.status.places import Place
from komad.store.overview import HeldGroup, JobError, Overview, WarningGroup, Window, WorkerState

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)

BUSY = Overview(
    n_movies=1000,
    first_found_at=NOW - timedelta(hours=5),
    last_found_at=NOW - timedelta(seconds=12),
    last_found="FoilHole_7_Data_8",
    jobs={
        ("archive", "done"): 980,
        ("archive", "queued"): 17,
        ("archive", "running"): 1,
        ("archive", "failed"): 2,
        ("correct", "done"): 970,
        ("correct", "queued"): 2,
        ("correct", "held"): 27,
        ("correct", "failed"): 1,
    },
    last_hour=Window(found=240, archived=230, corrected=228),
    last_ten_minutes=Window(found=30, archived=50, corrected=50),
    output_bytes=60_000_000_000,
    archive_bytes=40_000_000_000,
    held=(HeldGroup(kind="correct", held_by="parameters", reason="the pixel size is unknown", n_jobs=7),),
    workers=(
        WorkerState(
            worker_id="cpu-0",
            device="cpu",
            pid=4711,
            activity="correct FoilHole_6",
            started_at=NOW - timedelta(hours=5),
            beat_at=NOW - timedelta(seconds=1),
        ),
        WorkerState(
            worker_id="cpu-1",
            device="cpu",
            pid=4712,
            activity="archive FoilHole_5",
            started_at=NOW - timedelta(hours=5),
            beat_at=NOW - timedelta(seconds=90),
        ),
    ),
    errors=(
        JobError(
            at=NOW - timedelta(minutes=3),
            stem="FoilHole_3",
            kind="archive",
            state="failed",
            code="movie_truncated",
            message="/data/FoilHole_3.tiff ends after frame 12 of 40",
        ),
    ),
    warnings=(
        WarningGroup(
            at=NOW - timedelta(minutes=2),
            stem="FoilHole_4",
            n_movies=12,
            text="2.1 % of the pixels are outliers",
        ),
    ),
    paused="",
)

PLACES = (
    Place(role="watch", path=Path("/mnt/camera"), reachable=True, free_bytes=1, device=7),
    Place(role="output", path=Path("/data/out"), reachable=True, free_bytes=500_000_000_000, device=9),
    Place(role="archive", path=Path("/data/archive"), reachable=True, free_bytes=500_000_000_000, device=9),
)


@pytest.fixture
def overview() -> Callable[..., Overview]:
    """Give the busy session with some facts replaced."""
    return lambda **changes: replace(BUSY, **changes)
