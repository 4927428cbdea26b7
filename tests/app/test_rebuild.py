"""A database that is damaged or lost, and made anew from results and archives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from komad.config import Settings, load_settings
from komad.errors import DamagedError
from komad.rebuild import rebuild
from komad.store import Store
from komad.store.health import refuse_damage
from komad.store.listing import list_jobs
from komad.store.overview import read_overview
from tests.app.conftest import RunningDaemon
from tests.work.conftest import wait_until, write_movie

RunDaemon = Callable[[], RunningDaemon]


def komad(*arguments: object) -> tuple[int, str]:
    """Run a command; gives its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "komad", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def lines(settings: Settings) -> list[dict[str, Any]]:
    """Of processed.jsonl."""
    path = settings.output.directory / "processed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def facts(state: Path) -> tuple[object, ...]:
    """What a status shows that does not change with time."""
    from datetime import UTC, datetime

    overview = read_overview(state, now=datetime.now(UTC))
    written = {role: overview.growth.bytes_per_movie[role] for role in ("output", "archive")}
    return overview.n_movies, overview.last_found, dict(overview.jobs), written


def overwrite_pages(path: Path) -> None:
    """Random bytes in pages in the middle."""
    rng = random.Random(1)
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096, 3):
            file.seek(4096 * page)
            file.write(rng.randbytes(4096))


def cut(path: Path) -> None:
    """Half of the file."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """A file of no bytes."""
    path.write_bytes(b"")


def nonsense(path: Path) -> None:
    """Another file."""
    path.write_bytes(b"x" * 8192)


def test_damage_rebuild_and_go_on(config: Path, run_daemon: RunDaemon, tmp_path: Path) -> None:
    """A damaged database is refused with what to do; made anew it knows what was done, and the session goes on."""
    settings = load_settings(config)
    camera = settings.watch[0].directory
    for number in range(3):
        write_movie(camera / f"m{number}.mrc", seed=number)
    daemon = run_daemon()
    wait_until(lambda: len(lines(settings)) == 3)
    assert daemon.stop() == 0
    before, published = facts(settings.state_directory), lines(settings)
    micrographs = {path: path.stat().st_mtime_ns for path in settings.output.directory.glob("*.mrc")}
    (settings.output.directory / "m2.star").unlink()  # not complete: the archive is there
    overwrite_pages(settings.state_directory / "komad.sqlite")

    code, text = komad("run", "--config", config)
    assert code == 5
    assert "komad rebuild" in text
    assert komad("rebuild", "--config", config, "--dry-run")[1].startswith("corrected     2 movies")
    code, text = komad("rebuild", "--config", config)
    assert code == 0, text
    assert "2 kept, 1 made again" in text
    assert list(settings.state_directory.glob("komad.sqlite.damaged-*"))

    write_movie(camera / "m3.mrc", seed=3)
    daemon = run_daemon()
    wait_until(lambda: len(lines(settings)) == 5)
    assert daemon.stop(signal.SIGTERM) == 0
    after = lines(settings)
    assert after[:3] == published
    assert [(line["stem"], line["sequence"], line["movie_id"]) for line in after[3:]] == [
        ("m2", 4, 3),
        ("m3", 5, 4),
    ]
    assert facts(settings.state_directory)[2] == {("archive", "done"): 4, ("correct", "done"): 4}
    assert before[0] == 3
    for path, mtime_ns in micrographs.items():
        assert (path.stat().st_mtime_ns == mtime_ns) == ("m2" not in path.name), path


@pytest.mark.soak
def test_same_status(config: Path, run_daemon: RunDaemon) -> None:
    """A database that is made anew gives the same counts, bytes and jobs as the old one, and nothing is published."""
    settings = load_settings(config)
    for number in range(2):
        write_movie(settings.watch[0].directory / f"m{number}.mrc", seed=number)
    daemon = run_daemon()
    wait_until(lambda: len(lines(settings)) == 2)
    daemon.stop()
    before, published = facts(settings.state_directory), lines(settings)
    with Store(settings.state_directory).open() as store:
        movies = [store.movie(number) for number in (1, 2)]
        windows = [store.koma_window(number) for number in (1, 2)]
        sums = [store.stack_sum(number) for number in (1, 2)]
    nonsense(settings.state_directory / "komad.sqlite")
    report = rebuild(settings)
    assert (report.n_corrected, report.n_archived, report.n_sums_kept, report.unknown) == (2, 0, 2, [])
    assert facts(settings.state_directory) == before
    with Store(settings.state_directory).open() as store:
        assert [store.movie(number) for number in (1, 2)] == movies
        assert [store.koma_window(number) for number in (1, 2)] == windows
        assert [store.stack_sum(number) for number in (1, 2)] == sums
    daemon = run_daemon()
    daemon.stop()
    assert lines(settings) == published
    assert {job.state for job in list_jobs(settings.state_directory)} == {"done"}


@pytest.mark.soak
def test_older_database(config: Path, run_daemon: RunDaemon) -> None:
    """A database that does not know what was published (its log is lost, an old copy is back) is refused."""
    settings = load_settings(config)
    database = settings.state_directory / "komad.sqlite"
    write_movie(settings.watch[0].directory / "m0.mrc")
    daemon = run_daemon()
    wait_until(lambda: len(lines(settings)) == 1)
    daemon.stop()
    copy = database.read_bytes()
    write_movie(settings.watch[0].directory / "m1.mrc", seed=1)
    daemon = run_daemon()
    wait_until(lambda: len(lines(settings)) == 2)
    daemon.stop()
    database.write_bytes(copy)
    code, text = komad("run", "--config", config)
    assert code == 5
    assert "knows 1 results, processed.jsonl has 2" in text
    assert rebuild(settings).n_corrected == 2


@pytest.mark.made_up_database
@pytest.mark.parametrize("damage", [overwrite_pages, cut, empty, nonsense])
def test_damage_is_seen(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """However the file is damaged, it is seen before anything is written; a whole one is not refused."""
    with Store(tmp_path).open() as store:
        path = store.path
    refuse_damage(tmp_path, used=True)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(DamagedError, match=r"damaged \(.*komad rebuild"):
        refuse_damage(tmp_path, used=True)
    assert path.read_bytes() == content
