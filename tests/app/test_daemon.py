"""The daemon as a whole: real processes, real movies, stopped, killed and started again."""

import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.app.conftest import RunningDaemon
from tests.work.conftest import wait_until, write_movie

Run = Callable[[], RunningDaemon]


def published(config: Path) -> list[str]:
    """Stems in `processed.jsonl`, in order."""
    path = config.parent / "output" / "processed.jsonl"
    return [json.loads(line)["stem"] for line in path.read_text().splitlines()] if path.exists() else []


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
