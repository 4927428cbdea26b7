"""The status as JSON for scripts. The keys are stable; docs/operation.md lists them."""

from __future__ import annotations

from dataclasses import asdict

from komad.status.detector import DetectorView
from komad.status.view import FolderView, StatusView

SCHEMA_VERSION = 1


def to_json(view: StatusView) -> dict[str, object]:
    """Plain values for `json.dumps`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "taken_at": view.taken_at.isoformat(timespec="milliseconds"),
        "running": view.running,
        "paused": view.paused or None,
        "paused_by": list(view.paused_by),
        "last_movie": None
        if view.last_movie_age_s is None
        else {"stem": view.last_movie, "age_s": view.last_movie_age_s},
        "counts": asdict(view.counts),
        "rates": asdict(view.rates),
        "clears_in_s": view.clears_in_s,
        "workers": [asdict(worker) for worker in view.workers],
        "bad_devices": [asdict(bad) for bad in view.bad_devices],
        "disks": [{**asdict(disk), "paths": [str(path) for path in disk.paths]} for disk in view.disks],
        "cleanup": None if view.cleanup is None else asdict(view.cleanup),
        "folders": [_folder(folder) for folder in view.folders],
        "detector": _detector(view.detector),
        "held": [asdict(group) for group in view.held],
        "errors": [asdict(error) for error in view.errors],
        "warnings": [asdict(warning) for warning in view.warnings],
    }


def _folder(view: FolderView) -> dict[str, object]:
    names = ("waiting", "unreadable", "error", "no_events", "sweep_s", "pause_s")
    known = {name: None if view.state is None else getattr(view.state, name) for name in names}
    return {"path": str(view.path), "reachable": view.reachable, **known}


def _detector(view: DetectorView) -> dict[str, object]:
    last = None
    if view.last is not None:
        last = {**asdict(view.last), "found_at": view.last.found_at.isoformat(timespec="milliseconds")}
    return {**asdict(view), "last": last, "alarm": view.alarm or None}
