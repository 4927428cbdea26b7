"""Facts of a session at a fixed moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from komad.status.places import Place
from komad.store.detector import DetectorFacts, GainCheck, History, MovieHealth, Series
from komad.store.growth import Growth
from komad.store.overview import (
    BadDevice,
    FolderState,
    GpuState,
    HeldGroup,
    JobError,
    Overview,
    WarningGroup,
    Window,
    WorkerState,
)

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
    growth=Growth(
        bytes_per_movie={"output": 250e6, "archive": 1e9 / 6, "state": 0.0}, movies_per_hour=240, n_in_hand=1
    ),
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
)


SET_ASIDE = BadDevice(
    device="cuda:1",
    reason="cuda:1 is lost: unspecified launch failure",
    since=NOW - timedelta(minutes=2),
    try_at=NOW + timedelta(seconds=40),
)
"""A device that fails."""

GPU = WorkerState(
    worker_id="cuda1-1a2b3c4d",
    device="cuda:1",
    pid=4713,
    activity="correcting FoilHole_6",
    started_at=NOW - timedelta(hours=5),
    beat_at=NOW - timedelta(seconds=1),
    gpu=GpuState(
        name="NVIDIA H200",
        uuid="GPU-5a1c",
        memory_used_bytes=12_300_000_000,
        memory_total_bytes=150_800_000_000,
        utilisation=0.87,
        temperature_celsius=61,
    ),
)
"""A worker with a GPU."""


SLOW = FolderState(
    path="/mnt/eer",
    waiting=3,
    unreadable=1,
    error="/mnt/eer/old: Permission denied",
    no_events="/mnt is a network file system (nfs4)",
    sweep_s=21.0,
    pause_s=84.0,
)
"""A large folder on a network file system."""


def health(number: int, **changes: Any) -> MovieHealth:
    """What movie `number` shows: a detector that is well, unless changed."""
    return replace(
        MovieHealth(
            movie_id=number,
            stem=f"FoilHole_{number}",
            found_at=NOW - timedelta(minutes=1000 - number),
            series="k3",
            correlation_raw=4e-3,
            correlation_outliers=8e-4,
            correlation_koma=3e-6,
            n_hot=1200,
            n_dead=30,
            n_defects=10,
            n_xrays=14,
            pattern_spread=0.006,
            pattern_correlation=0.8,
            koma_mode="trailing",
            n_stacks=24,
            n_wanted=24,
            n_left_out=0,
        ),
        **changes,
    )


DETECTOR = DetectorFacts(
    first=tuple(health(number) for number in range(1, 21)),
    last=tuple(health(number) for number in range(951, 971)),
    has_gain=True,
    gain_check=GainCheck(
        verdict="ok", best=(0, 0), confidence=31.2, sentence="the gain lies right", accepted=False
    ),
    n_waiting=2,
    waiting_reason="KOMA waits for the archive of FoilHole_970 (for 600 s at most)",
    n_stack_sums=123,
    stack_sum_bytes=1_400_000_000,
)

SERIES = Series(ny=4092, nx=5760, gain="ab" * 32, gain_rot=0, gain_flip=0)


def history(*movies: MovieHealth, **series: Series) -> History:
    """Movies, and their series in the order of their first ones; those not given are SERIES."""
    return History(
        movies=movies,
        series={name: series.get(name, SERIES) for name in dict.fromkeys(m.series for m in movies)},
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
