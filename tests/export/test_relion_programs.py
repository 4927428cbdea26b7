"""RELION's own programs go on from an exported session, in the folder of the project as its users do."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from komad.config import Output
from komad.export.relion import RelionExport
from komad.formats.movies import read_header
from komad.formats.mrc_writer import write_mrc_movie
from komad.formats.star import Table, dumps, read_star
from komad.model import MotionModel, outliers_at
from komad.output.micrograph import write_micrograph
from komad.output.session import SessionIndex
from tests.export.conftest import Made
from tests.output.conftest import MOVIE, RESULT
from tests.output.test_polishing import (
    BOX,
    N_FRAMES,
    NX,
    NY,
    PIXEL_SIZE,
    write_particles,
    write_picture,
    write_reference,
)

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_motion_refine") is None, reason="RELION is not installed"),
]
JOB = "MotionCorr/job002"
MICROGRAPH = f"{JOB}/Movies/komad/FoilHole_1.mrc"
X, Y = [float(x) for x in (80, 160, 240, 300)], [100.0, 200.0, 120.0, 240.0]


def run(project: Path, *command: str) -> str:
    """What a program of RELION prints; it must end well."""
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture
def project(made: Made, tmp_path: Path) -> Path:
    """A project with one exported movie of 320 x 384 pixels and a gain that was turned."""
    rng = np.random.default_rng(7)
    references = made.gain()
    gain = rng.uniform(0.9, 1.1, (NY, NX)).astype(np.float32)
    path = made.camera / "gain.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(np.rot90(gain, 1)))
    assert references.gain is not None
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    references = replace(references, gain=replace(references.gain, sha256=sha256))
    write_picture(made.camera / "movie.mrc", rng.poisson(2.0, (N_FRAMES, NY, NX)).astype(np.int16))
    movie = replace(
        MOVIE,
        path=made.camera / "movie.mrc",
        size_bytes=(made.camera / "movie.mrc").stat().st_size,
        header=replace(MOVIE.header, n_frames=N_FRAMES, ny=NY, nx=NX, dtype="int16", format="mrc"),
        references=references,
    )
    sums = {
        name: rng.normal(5, 1, (NY, NX)).astype(np.float32)
        for name in ("sum_unweighted", "sum_dose_weighted", "sum_even", "sum_odd")
    }
    motion = MotionModel(
        shifts_px=rng.normal(size=(N_FRAMES, 2)) * np.arange(N_FRAMES)[:, None] / 4,
        shift_error_px=0.1,
        n_iterations=1,
        kind="global",
        reason="",
    )
    summary = write_micrograph(
        replace(RESULT, motion=motion, **sums),
        movie,
        directory=made.output,
        archive_path=None,
        output=Output(thumbnail=False),
        outliers=outliers_at([[3, 4]]),
    )
    with SessionIndex(made.output) as index:
        index.publish([{**summary, "movie_id": 1, "sequence": 1}])
    RelionExport(tmp_path / "project", made.output).update()
    return tmp_path / "project"


def test_the_list_of_jobs(project: Path) -> None:
    """relion_pipeliner reads the project, adds a job that takes our micrographs, and keeps ours."""
    options = f"fn_input_autopick == {JOB}/corrected_micrographs.star;do_log == Yes"
    run(project, "relion_pipeliner", "--addJob", "AutoPick", "--addJobOptions", options)
    tables = read_star(project / "default_pipeline.star")
    edges = tables["pipeline_input_edges"].columns
    pairs = zip(edges["rlnPipeLineEdgeFromNode"], edges["rlnPipeLineEdgeProcess"], strict=True)
    assert (f"{JOB}/corrected_micrographs.star", "AutoPick/job003/") in set(pairs)
    processes = tables["pipeline_processes"].columns
    assert processes["rlnPipeLineProcessAlias"] == ["Import/komad/", "MotionCorr/komad/", "None"]
    assert processes["rlnPipeLineProcessStatus"][:2] == [2, 2]


def test_particles_are_extracted(project: Path) -> None:
    """Coordinates on our micrographs become particles of the right pixel size, number, place and optics group."""
    folder = project / "Pick" / "Movies" / "komad"
    folder.mkdir(parents=True)
    coordinates = {"rlnCoordinateX": X, "rlnCoordinateY": Y}
    (folder / "FoilHole_1_pick.star").write_text(dumps([Table("", coordinates, loop=True)]))
    micrographs = f"{JOB}/corrected_micrographs.star"
    run(
        project, "relion_preprocess", "--i", micrographs, "--coord_dir", "Pick/", "--coord_suffix", "_pick.star",
        "--part_star", "Extract/particles.star", "--part_dir", "Extract/", "--extract", "--extract_size", "32",
    )  # fmt: skip
    tables = read_star(project / "Extract" / "particles.star")
    assert tables["optics"].columns["rlnImagePixelSize"] == [PIXEL_SIZE]
    assert tables["optics"].columns["rlnOpticsGroupName"] == ["opticsGroup1"]
    assert tables["particles"].columns["rlnMicrographName"] == [MICROGRAPH] * 4
    picture = mrcfile.read(project / MICROGRAPH)
    particle = mrcfile.read(project / "Extract/Movies/komad/FoilHole_1.mrcs")[0]
    np.testing.assert_allclose(particle, picture[84:116, 64:96], rtol=1e-5)


def test_the_spectrum_is_found(project: Path) -> None:
    """relion_run_ctffind hands our power spectrum with its own pixel size to CTFFIND."""
    ctffind = project / "ctffind"
    ctffind.write_text("#!/bin/sh\ncat > told.txt\n")
    ctffind.chmod(0o755)
    run(
        project, "relion_run_ctffind", "--i", f"{JOB}/corrected_micrographs.star", "--o", "CtfFind/", "--is_ctffind4",
        "--ctffind_exe", str(ctffind), "--use_given_ps", "--Box", "32", "--ResMin", "30", "--ResMax", "5",
    )  # fmt: skip
    (script,) = (project / "CtfFind" / "Movies" / "komad").glob("*.com")
    lines = script.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.endswith("_PS.mrc"))
    assert float(lines[place + 2]) == pytest.approx(RESULT.power_spectrum_pixel_size_angstrom)
    assert (project / lines[place]).samefile(project / JOB / "Movies/komad/FoilHole_1_PS.mrc")


@pytest.mark.parametrize(("dtype", "largest"), [("uint8", 200), ("uint16", 60000)])
def test_large_counts_are_read_right(made: Made, tmp_path: Path, dtype: str, largest: int) -> None:
    """What RELION would take for negative counts is not given to it; unpacked it has the right mean."""
    counts = np.full((5, 48, 64), largest, dtype)
    path = made.camera / "raw.mrc"
    write_mrc_movie(path, counts, 0 if dtype == "uint8" else 6, pixel_size_angstrom=PIXEL_SIZE)
    result = {"largest_count": float(largest)}
    made.add("a", path=path, size_bytes=path.stat().st_size, header=read_header(path), result=result)
    folder = tmp_path / "project"
    RelionExport(folder, made.output, unpack=True).update()
    told = [
        run(folder, "relion_image_handler", "--i", movie, "--stats")
        for movie in (str(path), "Movies/komad/a.mrc")
    ]
    as_it_lies, unpacked = (float(text.split("avg= ")[1].split()[0]) for text in told)
    assert as_it_lies < 0
    assert unpacked == largest


@pytest.mark.parametrize("has_gain", [True, False])
def test_polishing_finds_movie_and_gain(project: Path, has_gain: bool) -> None:
    """It reads both by our names and starts from our motion; without the gain it leaves the movie out and says why."""
    rng = np.random.default_rng(8)
    write_particles(project / "particles.star", np.array(X), np.array(Y), rng)
    text = (project / "particles.star").read_text().replace(" FoilHole_1.mrc", f" {MICROGRAPH}")
    (project / "particles.star").write_text(text)
    write_reference(project, rng)
    if not has_gain:
        (project / JOB / "gain.mrc").unlink()
    command = [
        "relion_motion_refine", "--i", "particles.star", "--o", "Polish/", "--f", "postprocess.star",
        "--m1", "half1.mrc", "--m2", "half2.mrc", "--mask", "mask.mrc",
        "--corr_mic", f"{JOB}/corrected_micrographs.star",
        "--first_frame", "1", "--last_frame", str(N_FRAMES), "--max_iters", "0", "--diag",
    ]  # fmt: skip
    if not has_gain:
        assert f"Cannot read file {JOB}/gain.mrc" in run(project, *command)
        assert not list((project / "Polish").rglob("FoilHole_1_tracks.star"))
        return
    run(project, *command)
    (tracks,) = (project / "Polish").rglob("FoilHole_1_tracks.star")
    first = [
        float(line.split()[0])
        for line in tracks.read_text().splitlines()
        if line.lstrip()[:1] in set("-0123456789")
    ]
    whole = read_star(project / JOB / "Movies/komad/FoilHole_1.star")["global_shift"].columns
    expected = -np.array(whole["rlnMicrographShiftX"]) * PIXEL_SIZE
    np.testing.assert_allclose(np.reshape(first, (-1, N_FRAMES))[0], expected, atol=1e-3)
    assert BOX < NY
