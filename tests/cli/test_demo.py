"""The demo, small, with the real daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from komad.cli.demo_report import compare
from komad.simulate import MovieSpec, write_truth
from komad.simulate.truth import draw_motion
from tests.cli.conftest import Komad

SMALL = ("--size", "1024", "--frames", "10", "--movies", "1")


def test_compare_ignores_the_mean_and_nothing_else(tmp_path: Path) -> None:
    """Shifts that are the truth plus a constant differ by zero; an error in y of one frame shows as its RMS."""
    spec = MovieSpec(n_frames=8, ny=64, nx=64)
    truth = draw_motion(spec)
    write_truth(tmp_path / "truth.json", truth, spec)
    shifts = truth.global_shifts_px() + np.array([3.0, -5.0])

    def rms(measured: np.ndarray) -> float:
        details = {
            "stem": "a",
            "movie_pixel_size_angstrom": 0.83,
            "motion": {"shifts_yx_px": measured.tolist()},
        }
        (tmp_path / "a.json").write_text(json.dumps(details))
        return compare(tmp_path / "a.json", tmp_path / "truth.json").rms_px

    assert rms(shifts) == pytest.approx(0, abs=1e-9)
    wrong = shifts.copy()
    wrong[2, 0] += 1.0
    assert rms(wrong) == pytest.approx(np.std([1, 0, 0, 0, 0, 0, 0, 0]) / 2**0.5)
    assert rms(-shifts) > 0.5


def test_a_folder_with_other_files_is_refused(komad: Komad, tmp_path: Path) -> None:
    """Nothing of anybody else's is removed."""
    (tmp_path / "thesis.tex").write_text("x")
    outcome = komad("demo", "-o", tmp_path, *SMALL)
    assert outcome.code == 2
    assert "thesis.tex" in {path.name for path in tmp_path.iterdir()}


def test_demo_runs_the_daemon_and_compares(komad: Komad, tmp_path: Path) -> None:
    """From simulation to picture; the numbers are printed and the exit code follows from them; a second run works."""
    out = tmp_path / "demo"
    outcome = komad("demo", "-o", out, *SMALL)
    (rms,) = re.findall(r"movie_0001: (\d\.\d+) px", outcome.out)
    assert float(rms) < 0.5
    assert ("too far off" in outcome.out) == (outcome.code == 1)
    assert (out / "demo.png").stat().st_size > 100_000
    assert (out / "output" / "movie_0001.star").exists()
    assert len((out / "output" / "processed.jsonl").read_text().splitlines()) == 1
    log = [json.loads(line)["event"] for line in (out / "komad.log").read_text().splitlines()]
    assert log[-1] == "komad ended"


def test_demo_that_is_interrupted_leaves_no_daemon(tmp_path: Path) -> None:
    """Ctrl-C while the daemon runs: it is stopped, and the exit code is not 0."""
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "komad", "demo", "-o", str(out), *SMALL, "--movies", "9"]
    # A shell's background jobs ignore SIGINT, and so would the demo that these tests start there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, before)
    lock = out / "state" / "komad.lock"
    deadline = time.monotonic() + 60
    while not (lock.exists() and lock.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.1)
    pid = int(lock.read_text())
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
