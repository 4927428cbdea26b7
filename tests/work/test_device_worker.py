"""A whole worker on a GPU that the host plays: from files to files, as on the CPU."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from structlog.testing import capture_logs

from komad.config import Koma, Settings
from komad.model import Movie, series_of
from komad.store import Store
from komad.store.listing import list_jobs
from komad.work.assembly_line import AssemblyLine
from komad.work.device import CPU, Device, open_device
from komad.work.exits import Exit
from tests.device import MEMORY, CUDARuntimeError, device_on_the_host
from tests.work.conftest import SHAPE, MakeMovie, wait_until

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

KOMA = Koma(radius=2)
Files = dict[str, Any]


@pytest.fixture
def movies(make_movie: MakeMovie, tmp_path: Path) -> list[Movie]:
    """Four movies of one series, with a gain that is not the camera's: a pattern that all of them have."""
    gain = np.random.default_rng(3).normal(1, 0.1, SHAPE[1:]).astype(np.float32)
    with mrcfile.new(tmp_path / "gain.mrc", gain) as file:
        file.flush()
    made = [make_movie(f"m{n}", seed=n, gain=tmp_path / "gain.mrc") for n in range(4)]
    return [replace(it, koma=KOMA.model_dump(), series=series_of(it, it.path.parent)) for it in made]


def run(settings: Settings, movies: list[Movie], device: Device, place: Path) -> tuple[Files, Exit | None]:
    """Do all jobs, or as many as the worker lives for; gives every file, and how the worker ended."""
    place.mkdir()
    output = settings.output.model_copy(
        update={"directory": place / "output", "even_odd_weighted": True, "aligned_stack": True}
    )
    settings = settings.model_copy(update={"state_directory": place, "output": output})
    with Store(place).open() as store, capture_logs():
        for movie in movies:
            store.add_movie(movie)
        line = AssemblyLine(settings, store, "w", device)
        line.start()

        def done() -> bool:
            store.release_koma_held()
            return line.status() is not None or {job.state for job in list_jobs(place)} <= {"done", "failed"}

        wait_until(done)
        line.stop()
        wait_until(lambda: line.status() is not None)
        ended = line.status()
        states = {(job.stem, job.kind): (job.state, job.error_code) for job in list_jobs(place)}
    return {path.name: path for path in sorted((place / "output").iterdir())} | {"jobs": states}, ended


def test_the_same_files(settings: Settings, movies: list[Movie], tmp_path: Path) -> None:
    """All pictures of all movies are those of the CPU to 1e-4 of their spread, the pattern of KOMA taken off."""
    expected, _ = run(settings, movies, CPU, tmp_path / "cpu")
    with device_on_the_host():
        found, ended = run(settings, movies, open_device("cuda:0", 0.5), tmp_path / "gpu")
    assert ended is Exit.STOPPED
    assert found.keys() == expected.keys()
    assert found["jobs"] == expected["jobs"]
    assert set(found["jobs"].values()) == {("done", "")}
    pictures = [name for name in found if name.endswith((".mrc", ".mrcs"))]
    assert len(pictures) >= 4 * 6
    for name in pictures:
        with mrcfile.open(found[name]) as ours, mrcfile.open(expected[name]) as theirs:
            assert np.sqrt(np.square(ours.data - theirs.data).mean()) < 1e-4 * theirs.data.std(), name
    told = [json.loads(files["m3.json"].read_text())["detector"] for files in (found, expected)]
    assert told[0]["window"] == told[1]["window"]
    assert told[0]["n_stacks"] == 3
    assert told[0]["pattern_correlation"] > 0.5
    assert told[0]["pattern_correlation"] == pytest.approx(told[1]["pattern_correlation"], rel=1e-4)
    assert told[0]["scale"] == pytest.approx(told[1]["scale"], rel=1e-4)


def test_memory_that_is_short(settings: Settings, movies: list[Movie], tmp_path: Path) -> None:
    """A worker whose GPU has no room fails its correct jobs with the reason, archives everything, and lives."""
    with device_on_the_host():
        device = open_device("cuda:0", 0.5)
        MEMORY.limit = MEMORY.used + 1_000_000
        found, ended = run(settings, movies[:1], device, tmp_path / "gpu")
    assert ended is Exit.STOPPED
    assert found["jobs"] == {("m0", "archive"): ("done", ""), ("m0", "correct"): ("failed", "device_memory")}


def test_a_gpu_that_is_lost(
    settings: Settings, movies: list[Movie], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends; its jobs go back without blame, to be done by the next one."""

    def lost(*_: object, **__: object) -> None:
        raise CUDARuntimeError(700)

    monkeypatch.setattr("komad.work.correct.correct_movie", lost)
    with device_on_the_host():
        found, ended = run(settings, movies[:2], open_device("cuda:0", 0.5), tmp_path / "gpu")
    assert ended is Exit.BAD_DEVICE
    assert found["jobs"]["m0", "correct"] == ("queued", "device")
    with Store(tmp_path / "gpu").open() as store:
        assert {job.attempt for job in store.jobs_of(1).values()} <= {0, 1}
