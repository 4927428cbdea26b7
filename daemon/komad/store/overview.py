"""What the status shows, read from the database without touching it.

Plain SQL through the standard library: `komad status` may take 0.3 s as a whole, and importing SQLAlchemy alone takes
0.2 s. Every query goes by an index or stops early, so that 50,000 movies cost milliseconds.
"""

from __future__ import annotations

import grp
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from komad.errors import StoreError
from komad.store.growth import Growth, growth

DATABASE = "komad.sqlite"
BUSY_TIMEOUT_S = 2.0
N_LAST_ERRORS = 5
N_LAST_WARNINGS = 5
FOLDERS = "folders"
"""Key of `meta`: a list of `FolderState`, as JSON."""
CLEANUP = "cleanup"
"""Key of `meta`: a `CleanupState`, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldGroup:
    """Jobs that are held for the same reason."""

    kind: str
    held_by: str
    """archive, parameters, disk, folder or person."""
    reason: str
    n_jobs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuState:
    """How a GPU is doing, as its driver says; None is what it does not tell."""

    name: str
    uuid: str
    memory_used_bytes: int
    """By all programs together."""
    memory_total_bytes: int
    utilisation: float | None
    """The part of the last moments in which it computed, 0 to 1."""
    temperature_celsius: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """A worker as it last beat."""

    worker_id: str
    device: str
    pid: int
    activity: str
    started_at: datetime
    beat_at: datetime
    gpu: GpuState | None = None
    """None for a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadDevice:
    """A device that is set aside because it fails."""

    device: str
    reason: str
    since: datetime
    try_at: datetime | None
    """When it is tried again; None while that is not settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderState:
    """A watched folder as the daemon last saw it."""

    path: str
    waiting: int
    """Files that are not finished yet."""
    unreadable: int
    """Files that are no movies, or stayed unfinished, and have not changed since."""
    error: str
    """What in it cannot be looked at; '' when all can."""
    no_events: str
    """Why only sweeps find its files; '' when events announce them."""
    sweep_s: float
    """How long a sweep takes."""
    pause_s: float
    """Between two of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanupState:
    """Movies that are removed once their archives are proven, as the daemon last saw them."""

    n_removed: int
    removed_bytes: int
    """Of all movies whose archives are in the archive directory."""
    n_due: int
    due_bytes: int
    """To be removed next."""
    n_kept: int
    """Old enough, and kept all the same."""
    kept: Mapping[str, str]
    """Stem -> why, of some of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """An error that a job had, cured since or not."""

    at: datetime
    stem: str
    kind: str
    state: str
    """What became of the job by this error: queued (a retry), failed or held."""
    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WarningGroup:
    """Movies of the last hour that were corrected with the same warning."""

    at: datetime
    """When the newest of them was done."""
    stem: str
    """The newest of them."""
    n_movies: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What happened since some time."""

    found: int
    archived: int
    corrected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The facts behind a status, at one moment."""

    n_movies: int
    first_found_at: datetime | None
    last_found_at: datetime | None
    last_found: str
    """Stem of the newest movie; '' when there is none."""
    jobs: Mapping[tuple[str, str], int]
    """(kind, state) -> number of jobs."""
    last_hour: Window
    last_ten_minutes: Window
    growth: Growth
    """How fast the disks fill."""
    held: tuple[HeldGroup, ...]
    """Without those that only wait for an archive or for neighbouring movies; the largest group first."""
    workers: tuple[WorkerState, ...]
    errors: tuple[JobError, ...]
    """The newest first."""
    warnings: tuple[WarningGroup, ...]
    """The newest first."""
    paused_by_disk: str = ""
    """Why no job is claimed until there is room; '' when the disk pauses nothing."""
    paused_by_person: str = ""
    """Why no job is claimed until a person resumes; '' when nobody paused."""
    bad_devices: tuple[BadDevice, ...] = ()
    """Devices that are set aside."""
    folders: tuple[FolderState, ...] = ()
    """The watched ones."""
    cleanup: CleanupState | None = None
    """None when movies stay."""


def read_overview(state_directory: Path, *, now: datetime) -> Overview:
    """Read the facts at `now` (with time zone).

    Raises
    ------
    StoreError
        There is no database in `state_directory`, or it cannot be read.
    """
    hour_ago, ten_minutes_ago = (text_of(now - timedelta(minutes=minutes)) for minutes in (60, 10))
    with open_read_only(state_directory) as connection:
        n_movies = _one(connection, "SELECT count(*) FROM movies")
        last = connection.execute(
            "SELECT found_at, stem FROM movies ORDER BY movie_id DESC LIMIT 1"
        ).fetchone()
        first = connection.execute("SELECT found_at FROM movies ORDER BY movie_id LIMIT 1").fetchone()
        return Overview(
            n_movies=n_movies,
            first_found_at=_time(first[0]) if first else None,
            last_found_at=_time(last[0]) if last else None,
            last_found=last[1] if last else "",
            jobs=_job_counts(connection),
            last_hour=_window(connection, hour_ago),
            last_ten_minutes=_window(connection, ten_minutes_ago),
            growth=growth(connection, now),
            held=_held(connection),
            workers=_workers(connection),
            errors=_errors(connection),
            warnings=_warnings(connection, hour_ago),
            paused_by_disk=_meta(connection, "pause:disk"),
            paused_by_person=_meta(connection, "pause:person"),
            bad_devices=_bad_devices(connection),
            folders=tuple(FolderState(**state) for state in json.loads(_meta(connection, FOLDERS) or "[]")),
            cleanup=_cleanup(connection),
        )


def read_bad_devices(state_directory: Path) -> tuple[BadDevice, ...]:
    """Devices that are set aside. Raises as `read_overview`."""
    with open_read_only(state_directory) as connection:
        return _bad_devices(connection)


@contextmanager
def open_read_only(state_directory: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection whose transaction sees one state of the database and can change nothing.

    Raises
    ------
    StoreError
        There is no database, it is of another komad, or it cannot be read; this user may not look into the directory.
    """
    path = state_directory / DATABASE
    refuse_strangers(state_directory)
    if not path.is_file():
        raise StoreError(
            f"there is no komad database in {state_directory} yet: `komad run` makes it; "
            "if the daemon runs with another configuration, name it with --config"
        )
    try:
        with closing(_connected(path)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot read the database {path}: {error}; it belongs to another version of komad, is damaged, "
            "or this user may not read it"
        ) from error


def refuse_strangers(state_directory: Path) -> None:
    """Raise when this user may not look into the state directory.

    Raises
    ------
    StoreError
        The message names the group whose members may.
    """
    try:
        with suppress(FileNotFoundError):
            (state_directory / DATABASE).stat()
    except PermissionError as error:
        with suppress(OSError, KeyError):
            group = grp.getgrgid(state_directory.stat().st_gid).gr_name
            raise StoreError(
                f"this user may not look into {state_directory}: members of the group {group} may "
                f"(usermod -a -G {group} USER, then log in anew)"
            ) from error
        raise StoreError(f"this user may not look into {state_directory}: {error.strerror}") from error


def _connected(path: Path) -> sqlite3.Connection:
    """Connect and begin to read.

    Write-ahead logging needs shared memory beside the database, which a user who may only read cannot make. While the
    daemon runs it is there; when it does not, the file alone is whole and nobody changes it.
    """
    try:
        return _begun(path, "mode=ro")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        return _begun(path, "mode=ro&immutable=1")


def _begun(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _job_counts(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    rows = connection.execute("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state")
    return {(kind, state): count for kind, state, count in rows}


def _held(connection: sqlite3.Connection) -> tuple[HeldGroup, ...]:
    rows = connection.execute(
        "SELECT kind, held_by, reason, count(*) FROM jobs"
        " WHERE state = 'held' AND held_by NOT IN ('archive', 'koma')"
        " GROUP BY kind, held_by, reason ORDER BY count(*) DESC"
    )
    return tuple(HeldGroup(kind=k, held_by=by, reason=reason, n_jobs=n) for k, by, reason, n in rows)


def _workers(connection: sqlite3.Connection) -> tuple[WorkerState, ...]:
    rows = connection.execute(
        "SELECT worker_id, device, pid, activity, started_at, beat_at, gpu FROM workers ORDER BY worker_id"
    )
    return tuple(
        WorkerState(
            worker_id=worker_id,
            device=device,
            pid=pid,
            activity=activity,
            started_at=_time(started_at),
            beat_at=_time(beat_at),
            gpu=None if gpu is None else GpuState(**json.loads(gpu)),
        )
        for worker_id, device, pid, activity, started_at, beat_at, gpu in rows
    )


def _bad_devices(connection: sqlite3.Connection) -> tuple[BadDevice, ...]:
    rows = connection.execute(
        "SELECT device, reason, since, try_at FROM devices WHERE reason != '' ORDER BY device"
    )
    return tuple(
        BadDevice(device=device, reason=reason, since=_time(since), try_at=_time(try_at) if try_at else None)
        for device, reason, since, try_at in rows
    )


def _errors(connection: sqlite3.Connection) -> tuple[JobError, ...]:
    rows = connection.execute(
        "SELECT event.at, movies.stem, jobs.kind, event.state, event.error_code, event.detail"
        " FROM job_events AS event JOIN jobs USING (job_id) JOIN movies USING (movie_id)"
        " WHERE event.error_code != '' ORDER BY event.event_id DESC LIMIT ?",
        (N_LAST_ERRORS,),
    )
    return tuple(
        JobError(at=_time(at), stem=stem, kind=kind, state=state, code=code, message=message)
        for at, stem, kind, state, code, message in rows
    )


def _warnings(connection: sqlite3.Connection, since: str) -> tuple[WarningGroup, ...]:
    rows = connection.execute(
        "SELECT jobs.ended_at, movies.stem, json_extract(jobs.summary, '$.warnings')"
        " FROM jobs JOIN movies USING (movie_id)"
        " WHERE jobs.state = 'done' AND jobs.kind = 'correct' AND jobs.ended_at >= ?"
        " AND json_array_length(jobs.summary, '$.warnings') > 0 ORDER BY jobs.ended_at DESC",
        (since,),
    )
    movies: dict[str, list[tuple[str, str]]] = {}
    for ended_at, stem, texts in rows:
        for text in json.loads(texts):
            movies.setdefault(text, []).append((ended_at, stem))
    groups = [
        WarningGroup(at=_time(found[0][0]), stem=found[0][1], n_movies=len(found), text=text)
        for text, found in movies.items()
    ]
    return tuple(groups[:N_LAST_WARNINGS])


def _window(connection: sqlite3.Connection, since: str) -> Window:
    found = 0
    for (found_at,) in connection.execute("SELECT found_at FROM movies ORDER BY movie_id DESC"):
        if found_at < since:
            break  # ids grow with time: the whole table is never read
        found += 1
    ended = "SELECT count(*) FROM jobs WHERE state = 'done' AND kind = ? AND ended_at >= ?"
    archived, corrected = (_one(connection, ended, kind, since) for kind in ("archive", "correct"))
    return Window(found=found, archived=archived, corrected=corrected)


def _cleanup(connection: sqlite3.Connection) -> CleanupState | None:
    text = _meta(connection, CLEANUP)
    return CleanupState(**json.loads(text)) if text else None


def _meta(connection: sqlite3.Connection, key: str) -> str:
    rows = connection.execute("SELECT value FROM meta WHERE key = ?", (key,))
    return next((value for (value,) in rows), "")


def _one(connection: sqlite3.Connection, query: str, *values: str) -> int:
    return int(connection.execute(query, values).fetchone()[0])


def text_of(moment: datetime) -> str:
    """A time as the tables hold it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
