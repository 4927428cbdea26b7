"""A session in which everything goes wrong at once, and the account of its movies.

A microscope writes in several manners into sub-folders, with the same names in each; files come truncated, are renamed
and rewritten; workers are killed, and stopped for longer than their lease; the daemon is killed with its workers left
behind. The same seed decides the same acts, not their moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from komad.config import Settings
from komad.formats.movies import read_frames
from komad.simulate.microscope import TEMPORARY_SUFFIX, Mode, run_session
from komad.simulate.spec import MovieSpec
from komad.store import Store
from tests.crash import installation

Attack = Literal["kill worker", "stop worker", "kill daemon"]

SPEC = MovieSpec(
    n_frames=4,
    ny=96,
    nx=96,
    pixel_size_angstrom=1.5,
    dose_per_frame=1.0,
    n_orientations=2,
    response_spread=0.01,
)
PARTS: dict[Mode, float] = {"rename": 0.7, "burst": 0.15, "grow": 0.1, "slow-copy": 0.05}
"""Of the movies, how many come in which manner."""
TRUNCATED, RENAMED, REWRITTEN = 0.05, 0.05, 0.05
ATTACKS: dict[Attack, int] = {"kill worker": 4, "stop worker": 5, "kill daemon": 1}
"""How often each, in proportion."""
LIMIT_S = 120.0
"""So long without any progress is stuck."""


@dataclass(kw_only=True, slots=True)
class Account:
    """What was done, and what came of it."""

    n_files: int = 0
    n_done: int = 0
    n_failed: Counter[str] = field(default_factory=Counter)
    n_kills: int = 0
    n_stops: int = 0
    n_restarts: int = 0
    n_returned: int = 0
    n_left: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {code}" for code, count in sorted(self.n_failed.items()))
        return (
            f"{self.n_files} files, {self.n_done} done, failed: {failed or 'none'}; {self.n_kills} workers killed, "
            f"{self.n_stops} stopped, {self.n_restarts} daemons killed, {self.n_returned} jobs returned, "
            f"{self.n_left} temporary files swept; {self.seconds:.0f} s, {self.n_done / self.seconds:.1f} movies/s, "
            f"{len(self.faults)} faults"
        )


class Camera:
    """The microscope and those who meddle with its files; remembers what every file was."""

    def __init__(self, directory: Path, n_movies: int, per_s: float, seed: int) -> None:
        self.directory = directory
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.frames: dict[tuple[str, str], str] = {}
        """(path, SHA-256 of the file) -> SHA-256 of its frames; '' for one that is truncated."""
        self.disturbed: set[str] = set()
        """Paths whose file was taken away or replaced at some time."""
        self._threads = [
            threading.Thread(target=self._session, args=(mode, n_movies, per_s, seed), daemon=True)
            for mode in PARTS
        ]
        self._timers: list[threading.Timer] = []

    def start(self) -> None:
        """Start writing."""
        for thread in self._threads:
            thread.start()

    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return any(thread.is_alive() for thread in (*self._threads, *self._timers))

    def _session(self, mode: Mode, n_movies: int, per_s: float, seed: int) -> None:
        n_here = round(PARTS[mode] * n_movies)
        run_session(
            self.directory / mode,
            SPEC,
            n_here,
            n_movies / per_s / max(1, n_here),
            mode=mode,
            on_movie=lambda path, _: self._written(path, mode),
        )

    def _written(self, path: Path, mode: Mode) -> None:
        with self._lock:
            self._remember(path, path)
            fate, delay_s = self._random.random(), self._random.uniform(0, 2)
            if mode != "rename" or fate > TRUNCATED + RENAMED + REWRITTEN:
                return
            if fate < TRUNCATED:
                self._truncate(path)
                return
            what = self._rename if fate < TRUNCATED + RENAMED else self._rewrite
            timer = threading.Timer(delay_s, what, [path])
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _truncate(self, path: Path) -> None:
        """Put half of a movie beside it, as a copy that broke off."""
        half = path.read_bytes()[: path.stat().st_size // 2]
        place = self.directory / "truncated"
        place.mkdir(exist_ok=True)
        temporary = place / (path.name + TEMPORARY_SUFFIX)
        temporary.write_bytes(half)
        self.frames[str(place / path.name), hashlib.sha256(half).hexdigest()] = ""
        temporary.rename(place / path.name)

    def _rename(self, path: Path) -> None:
        with self._lock:
            self.disturbed.add(str(path))
            self._remember(path, path.with_name(f"renamed_{path.name}"))
            path.rename(path.with_name(f"renamed_{path.name}"))

    def _rewrite(self, path: Path) -> None:
        """Write other counts into the same file: the same header, the frames in the opposite order."""
        with self._lock:
            self.disturbed.add(str(path))
            data = path.read_bytes()
            head = len(data) - SPEC.n_frames * SPEC.ny * SPEC.nx
            path.write_bytes(data[:head] + data[: head - 1 : -1])
            self._remember(path, path)

    def _remember(self, file: Path, path: Path) -> None:
        self.frames[str(path), _sha256(file)] = _frames(file)


class Attacker:
    """Kills and stops workers, and the daemon."""

    def __init__(self, seed: int, account: Account) -> None:
        self._random = random.Random(seed)
        self._account = account
        self._asleep: list[tuple[float, psutil.Process]] = []

    def act(self, attack: Attack, daemon: psutil.Process) -> bool:
        """Do one bad thing to a worker, or to the daemon; tells whether there was a worker."""
        workers = [it for it in daemon.children() if "tests.crash.worker" in it.cmdline()]
        if not workers:
            return False
        victim = self._random.choice(workers)
        if attack == "kill daemon":
            self._account.n_restarts += 1
            daemon.kill()
        elif attack == "kill worker":
            self._account.n_kills += 1
            victim.kill()
        else:
            self._account.n_stops += 1
            victim.suspend()
            self._asleep.append((time.monotonic() + self._random.uniform(0.5, 8), victim))
        return True

    def wake(self, *, all_of_them: bool = False) -> None:
        """Let those go on that have slept long enough."""
        due = [it for it in self._asleep if all_of_them or it[0] <= time.monotonic()]
        for entry in due:
            self._asleep.remove(entry)
            with suppress(psutil.NoSuchProcess):
                entry[1].resume()


def run(settings: Settings, *, n_movies: int, per_s: float, seed: int, attacks: Sequence[Attack]) -> Account:
    """Run such a session; attacks come when equal parts of the jobs are done, so that there is progress between."""
    started = time.monotonic()
    account, to_come = Account(), list(attacks)
    camera = Camera(settings.watch[0].directory, n_movies, per_s, seed)
    attacker = Attacker(seed, account)
    configuration = _configuration(settings)
    daemon = _start(configuration)
    camera.start()
    progress: tuple[Any, ...] = ()
    progressed_at, part = started, 2 * n_movies / (len(attacks) + 1)
    try:
        while not _all_ended(settings, camera):
            now = time.monotonic()
            if daemon.poll() is not None:
                daemon = _start(configuration)
            attacker.wake()
            n_ended = sum(count for _, state, count in progress if state in {"done", "failed"})
            if to_come and n_ended > part * (len(attacks) - len(to_come) + 1):
                with suppress(psutil.NoSuchProcess):
                    if attacker.act(to_come[0], psutil.Process(daemon.pid)):
                        del to_come[0]
            reached = _counts(settings)
            if reached != progress:
                progress, progressed_at = reached, now
            if now > progressed_at + LIMIT_S:
                account.faults.append(f"stuck: {progress}")
                break
            time.sleep(0.2)
        attacker.wake(all_of_them=True)
        account.seconds = time.monotonic() - started
        _stop(daemon)
        account.n_left = len(installation.temporaries(settings.state_directory.parent))
        _stop(daemon := _start(configuration))
    finally:
        attacker.wake(all_of_them=True)
        daemon.kill()
        daemon.wait()
    _account_for(settings, camera, account)
    return account


def random_attacks(n: int, seed: int) -> list[Attack]:
    """Draw attacks by `ATTACKS`."""
    return random.Random(seed).choices(list(ATTACKS), list(ATTACKS.values()), k=n)


def _configuration(settings: Settings) -> Path:
    path = installation.configuration(settings)
    text = (
        path.read_text()
        .replace('gain = "', '# gain = "')
        .replace("aligned_stack = true", "")
        .replace("radius = 1", "radius = 1\nmax_wait_s = 2")
    )
    folder = f'[[watch]]\ndirectory = "{settings.watch[0].directory}"\n'
    assert folder in text
    text = text.replace(folder, folder + 'ignore = [".*", "*.tmp", "gain.mrc"]\n')
    text = text.replace("sweep_interval_s = 0.3", "sweep_interval_s = 0.5\ngive_up_s = 3")
    text = text.replace("lease_timeout_s = 5", "lease_timeout_s = 3\nmax_attempts = 8")
    text = text.replace('devices = "cpu"', 'devices = ["cpu", "cpu"]')
    path.write_text(text)
    return path


def _start(configuration: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.crash.daemon", "run", "--config", str(configuration)]
    with configuration.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, "CRASH_HASTE": "1"}, stdout=log, stderr=log)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """Tell it to end in order, once it can hear."""
    deadline = time.monotonic() + 90
    while daemon.poll() is None:
        assert time.monotonic() < deadline, "the daemon does not end"
        if signal.SIGTERM in _caught(daemon.pid):
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(90) == 0
        time.sleep(0.1)


def _caught(pid: int) -> set[int]:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                mask = int(line.split()[1], 16)
                return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    return set()


def _counts(settings: Settings) -> tuple[Any, ...]:
    with (
        suppress(Exception),
        Store(settings.state_directory).open(create=False) as store,
        store.read() as connection,
    ):
        return tuple(connection.exec_driver_sql("SELECT kind, state, count(*) FROM jobs GROUP BY 1, 2").all())
    return ()


def _all_ended(settings: Settings, camera: Camera) -> bool:
    """Whether all files are known and no job is left to do."""
    if camera.is_busy() or not _counts(settings):
        return False
    with Store(settings.state_directory).open(create=False) as store, store.read() as connection:
        to_do = connection.exec_driver_sql(
            "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') "
            "OR (state = 'held' AND reason NOT LIKE 'its archive failed%')"
        ).scalar()
        known = {(row[0], row[1]) for row in connection.exec_driver_sql("SELECT path, mtime_ns FROM movies")}
    there = {(str(path), path.stat().st_mtime_ns) for path in _files(camera)}
    listed = settings.output.directory / "processed.jsonl"
    n_done = sum(count for kind, state, count in _counts(settings) if (kind, state) == ("correct", "done"))
    return not to_do and there <= known and listed.exists() and listed.read_bytes().count(b"\n") >= n_done


def _files(camera: Camera) -> list[Path]:
    return [path for path in camera.directory.rglob("*.mrc") if path.name != "gain.mrc"]


def _account_for(settings: Settings, camera: Camera, account: Account) -> None:
    """Hold every row against what the camera wrote, and every file against the rows."""
    with Store(settings.state_directory).open(create=False) as store, store.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT movies.path, movies.stem, a.state AS archived, a.error_code AS a_code, a.summary AS archive, "
            "c.state AS corrected, c.error_code AS c_code, c.summary AS micrograph FROM movies "
            "JOIN jobs AS a ON a.movie_id = movies.movie_id AND a.kind = 'archive' "
            "JOIN jobs AS c ON c.movie_id = movies.movie_id AND c.kind = 'correct'"
        ).all()
        account.n_returned = connection.exec_driver_sql(
            "SELECT count(*) FROM job_events WHERE event = 'return'"
        ).scalar_one()
    done: Counter[tuple[str, str]] = Counter()
    failed: Counter[str] = Counter()
    stems: Counter[str] = Counter()
    for row in rows:
        if row.archived == row.corrected == "done":
            sha256 = json.loads(row.archive)["sha256"]
            done[row.path, sha256] += 1
            stems[row.stem] += 1
            account.faults += _wrong_results(settings, camera, row, sha256)
        else:
            code = row.a_code or row.c_code
            failed[row.path] += 1
            account.n_failed[code] += 1
            fits = {"movie_truncated"} if "/truncated/" in row.path else {"movie_missing", "movie_changed"}
            if code not in fits or not (row.path in camera.disturbed or "/truncated/" in row.path):
                account.faults.append(f"{row.path}: {row.archived} {row.corrected} {code}")
    files = _files(camera)
    account.n_files, account.n_done = len(files), done.total()
    for path in files:
        key = str(path), _sha256(path)
        n_expected, n_found = 1, failed[key[0]] if "/truncated/" in key[0] else done[key]
        if n_found != n_expected:
            account.faults.append(f"{path}: accounted for {n_found} times")
    account.faults += [f"{key}: done {count} times" for key, count in done.items() if count != 1]
    account.faults += installation.index_faults(settings, stems)
    account.faults += installation.database_faults(settings.state_directory, ended=("done", "failed", "held"))
    place = settings.state_directory.parent
    account.faults += [f"{name} is left" for name in installation.temporaries(place)]


def _wrong_results(settings: Settings, camera: Camera, row: Any, sha256: str) -> list[str]:
    written = camera.frames.get((row.path, sha256))
    if written is None:
        return [f"{row.path}: an archive of what no camera wrote"]
    found = []
    if _frames(settings.archive_directory / f"{row.stem}.mrcz") != written:
        found.append(f"{row.path}: the archive differs")
    files = json.loads(row.micrograph)["files"].values()
    missing = [name for name in files if not (settings.output.directory / name).is_file()]
    return found + [f"{row.path}: {name} is missing" for name in missing]


def _frames(file: Path) -> str:
    """SHA-256 of the frames of a movie."""
    return hashlib.sha256(read_frames(file).tobytes()).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
