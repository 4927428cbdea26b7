"""What an operator wants to know, worked out from facts. Pure: no clock, no database, no disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from komad.status.detector import DetectorView, view_detector
from komad.status.places import Place
from komad.store.detector import DetectorFacts
from komad.store.growth import Growth, Role
from komad.store.overview import (
    BadDevice,
    CleanupState,
    FolderState,
    GpuState,
    HeldGroup,
    JobError,
    Overview,
    WarningGroup,
    WorkerState,
)

MIN_SPAN = timedelta(minutes=1)
"""Rates are not told from less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Movies by how far they came."""

    found: int
    archived: int
    corrected: int
    failed: int
    held: int
    """Held until a person or a disk does something; not those that only wait for their archive or neighbours."""
    backlog: int
    """Jobs that can be done now or are being done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Movies per hour."""

    found_last_hour: int
    corrected_last_hour: int
    found_per_hour: float
    """Over the last ten minutes."""
    corrected_per_hour: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerView:
    """A worker and what it does."""

    worker_id: str
    device: str
    pid: int
    activity: str
    beat_age_s: float
    alive: bool
    gpu: GpuState | None
    """None for a CPU, and when the driver tells nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadDeviceView:
    """A device that is set aside."""

    device: str
    reason: str
    age_s: float
    tried_again_in_s: float | None
    """None while that is not settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskView:
    """A file system that results go to."""

    paths: tuple[Path, ...]
    free_bytes: int
    bytes_per_hour: float
    hours_left: float | None
    """Until no movie is begun any more, because `output.min_free_gb` is reached; None when no movies come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderView:
    """A watched folder."""

    path: Path
    reachable: bool
    state: FolderState | None
    """As the daemon sees it; None while none runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorView:
    """An error, with its age."""

    age_s: float
    stem: str
    kind: str
    state: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WarningView:
    """A warning of the last hour, with its newest movie."""

    age_s: float
    stem: str
    n_movies: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusView:
    """Everything that a renderer shows."""

    taken_at: datetime
    running: bool
    """Some worker beats, or a device that is set aside will be tried again."""
    paused: str
    """Why no job is started, by all who pause; '' when jobs are."""
    paused_by: tuple[str, ...]
    """disk, person."""
    last_movie: str
    last_movie_age_s: float | None
    counts: Counts
    rates: Rates
    clears_in_s: float | None
    """When the backlog is gone at the rates of the last ten minutes; None when it does not shrink."""
    workers: tuple[WorkerView, ...]
    bad_devices: tuple[BadDeviceView, ...]
    disks: tuple[DiskView, ...]
    cleanup: CleanupState | None
    """None when movies stay."""
    folders: tuple[FolderView, ...]
    detector: DetectorView
    held: tuple[HeldGroup, ...]
    errors: tuple[ErrorView, ...]
    warnings: tuple[WarningView, ...]


def build_view(
    overview: Overview,
    places: Sequence[Place],
    *,
    detector: DetectorFacts,
    now: datetime,
    lease_timeout_s: float = 15.0,
    min_free_gb: float = 0.0,
) -> StatusView:
    """Work out the view at `now` (with time zone); a worker whose beat is older than its lease counts as silent."""
    counts, rates = _counts(overview), _rates(overview, now)
    workers = tuple(_worker(worker, now, lease_timeout_s) for worker in overview.workers)
    tried_again = any(bad.try_at is not None and bad.try_at > now for bad in overview.bad_devices)
    running = tried_again or any(worker.alive for worker in workers)
    pauses = _pauses(overview)
    return StatusView(
        taken_at=now,
        running=running,
        paused="; ".join(pauses.values()),
        paused_by=tuple(pauses),
        last_movie=overview.last_found,
        last_movie_age_s=_age_s(overview.last_found_at, now),
        counts=counts,
        rates=rates,
        clears_in_s=_clears_in_s(counts.backlog, rates),
        workers=workers,
        bad_devices=tuple(_bad_device(bad, now) for bad in overview.bad_devices),
        disks=_disks(overview, places, min_free_gb),
        cleanup=overview.cleanup,
        folders=_folders(overview, places, running=running),
        detector=view_detector(detector),
        held=overview.held,
        errors=tuple(_error(error, now) for error in overview.errors),
        warnings=tuple(_warning(group, now) for group in overview.warnings),
    )


def _pauses(overview: Overview) -> dict[str, str]:
    """Who pauses and why; a person first, whom nothing but a person can help."""
    by_person = overview.paused_by_person
    said = {
        "person": f"by a person ({by_person}); `komad resume` lets jobs go on" if by_person else "",
        "disk": overview.paused_by_disk,
    }
    return {by: why for by, why in said.items() if why}


def _bad_device(bad: BadDevice, now: datetime) -> BadDeviceView:
    tried_again_in_s = None if bad.try_at is None else max(0.0, (bad.try_at - now).total_seconds())
    return BadDeviceView(
        device=bad.device,
        reason=bad.reason,
        age_s=max(0.0, (now - bad.since).total_seconds()),
        tried_again_in_s=tried_again_in_s,
    )


def _counts(overview: Overview) -> Counts:
    def jobs(*states: str) -> int:
        return sum(overview.jobs.get((kind, state), 0) for kind in ("archive", "correct") for state in states)

    return Counts(
        found=overview.n_movies,
        archived=overview.jobs.get(("archive", "done"), 0),
        corrected=overview.jobs.get(("correct", "done"), 0),
        failed=jobs("failed"),
        held=sum(group.n_jobs for group in overview.held),
        backlog=jobs("queued", "running"),
    )


def _rates(overview: Overview, now: datetime) -> Rates:
    per_hour = _per_hour(timedelta(minutes=10), overview, now)
    return Rates(
        found_last_hour=overview.last_hour.found,
        corrected_last_hour=overview.last_hour.corrected,
        found_per_hour=overview.last_ten_minutes.found * per_hour,
        corrected_per_hour=overview.last_ten_minutes.corrected * per_hour,
    )


def _per_hour(window: timedelta, overview: Overview, now: datetime) -> float:
    """Turn a number counted in the last `window` into one per hour; a young session has not filled it yet."""
    session = now - overview.first_found_at if overview.first_found_at else timedelta()
    return timedelta(hours=1) / min(window, max(MIN_SPAN, session))


def _clears_in_s(backlog: int, rates: Rates) -> float | None:
    if not backlog:
        return 0.0
    gain_per_hour = rates.corrected_per_hour - rates.found_per_hour
    return 3600.0 * backlog / gain_per_hour if gain_per_hour > 0 else None


def _worker(worker: WorkerState, now: datetime, lease_timeout_s: float) -> WorkerView:
    age_s = max(0.0, (now - worker.beat_at).total_seconds())
    return WorkerView(
        worker_id=worker.worker_id,
        device=worker.device,
        pid=worker.pid,
        activity=worker.activity,
        beat_age_s=age_s,
        alive=age_s <= lease_timeout_s,
        gpu=worker.gpu,
    )


def _disks(overview: Overview, places: Sequence[Place], min_free_gb: float) -> tuple[DiskView, ...]:
    """Folders on the same file system share its space, so they are one line."""
    by_device: dict[int | None, list[Place]] = {}
    for place in places:
        if place.role != "watch" and place.free_bytes is not None:
            by_device.setdefault(place.device, []).append(place)
    return tuple(_disk(group, overview.growth, min_free_gb) for group in by_device.values())


def _disk(group: Sequence[Place], growth: Growth, min_free_gb: float) -> DiskView:
    free_bytes = min(place.free_bytes or 0 for place in group)
    bytes_per_hour = growth.per_hour([cast("Role", place.role) for place in group])
    usable_bytes = max(0.0, free_bytes - 1e9 * min_free_gb)
    return DiskView(
        paths=tuple(dict.fromkeys(place.path for place in group)),
        free_bytes=free_bytes,
        bytes_per_hour=bytes_per_hour,
        hours_left=usable_bytes / bytes_per_hour if bytes_per_hour > 0 else None,
    )


def _folders(overview: Overview, places: Sequence[Place], *, running: bool) -> tuple[FolderView, ...]:
    states = {state.path: state for state in overview.folders} if running else {}
    return tuple(
        FolderView(path=place.path, reachable=place.reachable, state=states.get(str(place.path)))
        for place in places
        if place.role == "watch"
    )


def _error(error: JobError, now: datetime) -> ErrorView:
    return ErrorView(
        age_s=max(0.0, (now - error.at).total_seconds()),
        stem=error.stem,
        kind=error.kind,
        state=error.state,
        code=error.code,
        message=error.message,
    )


def _warning(group: WarningGroup, now: datetime) -> WarningView:
    return WarningView(
        age_s=max(0.0, (now - group.at).total_seconds()),
        stem=group.stem,
        n_movies=group.n_movies,
        text=group.text,
    )


def _age_s(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())
