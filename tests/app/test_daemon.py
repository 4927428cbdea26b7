"""The daemon as a whole: real processes, real movies, stopped, killed and started again."""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.app.conftest import RunningDaemon
from tests.work.conftest import wait_until, write_movie

Run = Callable[[], RunningDaemon]


def said(config: Path, event: str) -> list[dict[str, Any]]:
    """Lines of the log with this event."""
    lines = [
        json.loads(line) for line in (config.parent / "komad.log").read_text().splitlines() if line[:1] == "{"
    ]
    return [line for line in lines if line["event"] == event]


def states(config: Path) -> set[tuple[str, int]]:
    """States of all jobs, with their attempts."""
    connection = sqlite3.connect(config.parent / "state" / "komad.sqlite")
    found = set(connection.execute("SELECT state, attempt FROM jobs"))
    connection.close()
    return found


def running(config: Path) -> int:
    """How many jobs run."""
    connection = sqlite3.connect(config.parent / "state" / "komad.sqlite")
    (number,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()
    connection.close()
    return int(number)


def published(config: Path) -> list[str]:
    """Stems in `processed.jsonl`, in order."""
    path = config.parent / "output" / "processed.jsonl"
    return [json.loads(line)["stem"] for line in path.read_text().splitlines()] if path.exists() else []


def state(config: Path) -> str:
    """What `session.json` says of the session."""
    return str(json.loads((config.parent / "output" / "session.json").read_text())["state"])


def test_movies_in_micrographs_out(run_daemon: Run, config: Path) -> None:
    """Movies renamed into the folder become files and lines; what a crash kept from the index comes at the restart."""
    camera, output = config.parent / "camera", config.parent / "output"
    daemon = run_daemon()
    for number in range(3):
        write_movie(camera / f"m{number}.mrc", seed=number)
    (camera / "bad.mrc").write_bytes(b"no movie" * 1000)
    wait_until(lambda: len(published(config)) == 3)
    wait_until(lambda: "WATCHDOG=1" in daemon.told() and "STATUS=" in daemon.told())
    assert daemon.stop() == 0
    assert "STOPPING=1" in daemon.told()
    assert sorted(published(config)) == ["m0", "m1", "m2"]
    assert state(config) == "complete", "the bad movie has failed for good"
    expected = {
        f"m{n}{end}" for n in range(3) for end in (".mrc", "_noDW.mrc", ".star", ".json", ".mrcz", ".png")
    }
    assert expected <= {path.name for path in output.iterdir()}
    assert (output / "corrected_micrographs.star").is_file()
    detectors = [json.loads((output / f"m{n}.json").read_text())["detector"] for n in range(3)]
    assert sorted(each["n_stacks"] for each in detectors) == [0, 1, 2], "each has the movies before it"
    lines = [json.loads(line) for line in (config.parent / "komad.log").read_text().splitlines()]
    one = next(line for line in lines if line["event"] == "corrected" and line["movie"] == "m0")
    assert {
        "movie_id",
        "job_id",
        "timings_s",
        "motion_total_angstrom",
        "warnings",
        "code",
        "worker",
    } <= one.keys()
    assert any(line["event"] == "failed" and line["code"] == "movie_unreadable" for line in lines)

    index = output / "processed.jsonl"
    index.write_text(index.read_text()[:-20])  # as after a crash in the middle of the last line
    daemon = run_daemon()
    wait_until(lambda: len(published(config)) == 3)
    assert daemon.stop(signal.SIGINT) == 0
    assert Counter(published(config)) == {"m0": 1, "m1": 1, "m2": 1}


def test_killed_daemon(run_daemon: Run, config: Path) -> None:
    """After kill -9 the workers go away by themselves, and the next start finishes everything, each movie once."""
    for number in range(4):
        write_movie(config.parent / "camera" / f"m{number}.mrc", seed=number)
    daemon = run_daemon()
    wait_until(lambda: len(published(config)) > 0)
    workers = psutil.Process(daemon.process.pid).children()
    assert workers
    daemon.stop(signal.SIGKILL)
    assert state(config) == "running"
    wait_until(lambda: not any(worker.is_running() for worker in workers), limit_s=20)
    again = run_daemon()
    wait_until(lambda: len(published(config)) == 4)
    assert again.stop() == 0
    assert Counter(published(config)) == {f"m{number}": 1 for number in range(4)}
    connection = sqlite3.connect(config.parent / "state" / "komad.sqlite")
    assert connection.execute("SELECT DISTINCT state FROM jobs").fetchall() == [("done",)]
    connection.close()


def test_second_run(run_daemon: Run, config: Path) -> None:
    """A second daemon on the same state directory says who holds it and what to do, and the first goes on."""
    first = run_daemon()
    second = run_daemon()
    assert second.process.wait(30) == 4
    said = (config.parent / "komad.log").read_text()
    assert f"another komad (pid {first.process.pid})" in said
    assert "stop it first" in said
    assert first.process.poll() is None


def test_hangup_reads_the_configuration_again(run_daemon: Run, config: Path) -> None:
    """What may change holds for movies found from then on; the rest is named; nonsense changes nothing and is told."""
    camera, output = config.parent / "camera", config.parent / "output"
    write_movie(camera / "before.mrc")
    daemon = run_daemon()
    wait_until(lambda: published(config) == ["before"])
    text = config.read_text()

    config.write_text(text.replace("voltage_kv = 300", "voltage_kv = 3000"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "not taken over" in daemon.told())
    (refused,) = said(config, "configuration not taken over, all stays as it was")
    assert "voltage_kv" in refused["error"]

    changed = text.replace("voltage_kv = 300", "voltage_kv = 200").replace('"cpu"', '["cpu", "cpu"]')
    config.write_text(changed.replace("[output]", "[output]\neven_odd = false"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: said(config, "configuration read again") != [])
    (taken,) = said(config, "configuration read again")
    assert taken["changed"] == ["output.even_odd", f"watch {camera}"]
    assert said(config, "these settings need a restart")[0]["settings"] == ["workers.devices"]
    wait_until(lambda: len(said(config, "worker started")) == 2)
    write_movie(camera / "after.mrc", seed=1)
    wait_until(lambda: len(published(config)) == 2)
    assert daemon.stop() == 0
    voltages = [
        json.loads((output / f"{stem}.json").read_text())["acquisition"]["voltage_kv"]
        for stem in ("before", "after")
    ]
    assert voltages == [300, 200]
    assert [(output / f"{stem}_EVN.mrc").exists() for stem in ("before", "after")] == [True, False]
    assert said(config, "worker ended") == [], "asked to end, not killed"
    assert states(config) == {("done", 1)}


def test_stop_finishes_what_is_in_hand(run_daemon: Run, config: Path) -> None:
    """SIGTERM ends within seconds; no job is left running or has used a try in vain, and no half file is there."""
    for number in range(6):
        write_movie(config.parent / "camera" / f"m{number}.mrc", seed=number)
    daemon = run_daemon()
    wait_until(lambda: running(config) > 0 and published(config) != [])
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 20
    assert states(config) <= {("done", 1), ("queued", 0), ("held", 0)}
    assert list((config.parent / "output").glob(".komad-*")) == []
    assert set(published(config)) == {path.stem for path in (config.parent / "output").glob("*.star")} - {
        "corrected_micrographs"
    }


def test_everything_is_killed_at_once(run_daemon: Run, config: Path) -> None:
    """After kill -9 of daemon and workers amid their work, the next job runs within 30 s, and each movie ends once."""
    for number in range(6):
        write_movie(config.parent / "camera" / f"m{number}.mrc", seed=number)
    first = run_daemon()
    wait_until(lambda: running(config) > 0 and published(config) != [])
    first.kill_all()
    assert running(config) > 0, "killed with jobs in hand"
    n_before = len(published(config))
    started = time.monotonic()
    again = run_daemon()
    wait_until(lambda: len(published(config)) > n_before, limit_s=30 - (time.monotonic() - started))
    wait_until(lambda: len(published(config)) == 6)
    assert again.stop() == 0
    assert Counter(published(config)) == {f"m{number}": 1 for number in range(6)}
    assert {state for state, _ in states(config)} == {"done"}


def test_mount_that_comes_late(config: Path, run_daemon_now: Run) -> None:
    """While results cannot be written komad is not ready, says why and asks for time; then it goes on by itself."""
    output = config.parent / "output"
    (config.parent / "away").mkdir()
    output.symlink_to(
        config.parent / "away" / "mount" / "point"
    )  # makes no folder: what it names has no parent
    write_movie(config.parent / "camera" / "m.mrc")
    daemon = run_daemon_now()
    wait_until(lambda: "STATUS=waiting to start: " in daemon.told())
    wait_until(lambda: "EXTEND_TIMEOUT_USEC=60000000" in daemon.told())
    assert "READY=1" not in daemon.told()
    assert daemon.process.poll() is None
    (config.parent / "away" / "mount" / "point").mkdir(parents=True)
    wait_until(lambda: "READY=1" in daemon.told())
    wait_until(lambda: published(config) == ["m"])
    assert daemon.stop() == 0


def test_stop_while_it_waits(config: Path, run_daemon_now: Run) -> None:
    """A daemon that waits for a mount ends at once when it is told to."""
    (config.parent / "output").symlink_to(config.parent / "away" / "mount")
    daemon = run_daemon_now()
    wait_until(lambda: "STATUS=waiting to start: " in daemon.told())
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 5


def test_output_that_can_never_be_written(config: Path, run_daemon_now: Run) -> None:
    """A file in the place of the output folder ends the start with the exit code for results."""
    (config.parent / "output").write_text("not a folder")
    daemon = run_daemon_now()
    assert daemon.process.wait(60) == 6
    assert "READY=1" not in daemon.told()


def test_two_daemons_with_one_output(run_daemon: Run, config: Path) -> None:
    """A second daemon with a state directory of its own is refused at the output of the first, which is named."""
    first = run_daemon()
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace('"state"', '"other-state"'))
    second = RunningDaemon(other)
    try:
        assert second.process.wait(60) == 4
    finally:
        second.close()
    assert (
        f"pid {first.process.pid}, state directory {config.parent / 'state'}"
        in other.with_suffix(".log").read_text()
    )
    assert first.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given away")
def test_whose_files_are(run_daemon: Run, config: Path) -> None:
    """Results have the group and permissions of the configuration; what is ours alone is closed to others."""
    before = os.umask(0o022)
    config.write_text(
        config.read_text().replace(
            "[output]", '[output]\ngroup = "games"\nfile_mode = "0640"\ndirectory_mode = "2750"'
        )
    )
    state, output = config.parent / "state", config.parent / "output"
    try:
        daemon = run_daemon()
        write_movie(config.parent / "camera" / "m.mrc")
        wait_until(lambda: published(config) == ["m"])
        assert daemon.stop() == 0
    finally:
        os.umask(before)
    found = {path: path.stat() for path in (output, *output.iterdir())}
    games = output.stat().st_gid
    assert games != os.getgid()
    assert {
        (status.st_gid, oct(status.st_mode & 0o7777)) for path, status in found.items() if path != output
    } == {(games, "0o640")}
    assert oct(found[output].st_mode & 0o7777) == "0o2750"
    assert oct(state.stat().st_mode & 0o777) == "0o750"
    assert {oct(path.stat().st_mode & 0o777) for path in state.glob("komad.sqlite*")} == {"0o640"}
