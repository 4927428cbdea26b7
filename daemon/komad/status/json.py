"""The status as JSON for scripts: stable keys, documented here.

`schema_version` is raised when a key changes its meaning or goes away; new keys may appear at any time. Times are UTC
in ISO 8601, ages and spans in seconds (`_s`), sizes in bytes, rates in movies per hour; null means not known.

- `taken_at`, `running` (some worker beats), `paused` (why no job is claimed, or null)
- `last_movie`: `stem`, `age_s`
- `counts`: `found`, `archived`, `corrected`, `failed`, `held`, `backlog`
- `rates`: `found_last_hour`, `corrected_last_hour` (numbers of movies), `found_per_hour`, `corrected_per_hour` (from
  the last ten minutes); `clears_in_s`: null while the backlog does not shrink
- `workers`: `worker_id`, `device`, `pid`, `activity`, `beat_age_s`, `alive`
- `disks`: `paths`, `free_bytes`, `bytes_per_hour`, `hours_left`
- `folders`: `path`, `reachable`
- `held`: `kind`, `held_by`, `reason`, `n_jobs`
- `errors`, the newest first: `age_s`, `stem`, `kind`, `state` (of the job then), `code`, `message`
"""

from __future__ import annotations

from dataclasses import asdict

from komad.status.view import StatusView

SCHEMA_VERSION = 1


def to_json(view: StatusView) -> dict[str, object]:
    """Plain values for `json.dumps`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "taken_at": view.taken_at.isoformat(timespec="milliseconds"),
        "running": view.running,
        "paused": view.paused or None,
        "last_movie": None
        if view.last_movie_age_s is None
        else {"stem": view.last_movie, "age_s": view.last_movie_age_s},
        "counts": asdict(view.counts),
        "rates": asdict(view.rates),
        "clears_in_s": view.clears_in_s,
        "workers": [asdict(worker) for worker in view.workers],
        "disks": [{**asdict(disk), "paths": [str(path) for path in disk.paths]} for disk in view.disks],
        "folders": [{"path": str(folder.path), "reachable": folder.reachable} for folder in view.folders],
        "held": [asdict(group) for group in view.held],
        "errors": [asdict(error) for error in view.errors],
    }
