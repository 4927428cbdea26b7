"""RELION's Bayesian polishing starts from our motion: it reads the STAR as we mean it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from komad.config import Output
from komad.formats import star
from komad.formats.movies import open_movie
from komad.formats.star import Table, read_star
from komad.model import EerRendering, MotionModel, Movie, MovieHeader, References, outliers_at
from komad.model.motion import SplineField
from komad.output.micrograph import write_micrograph
from komad.output.polynomial import polynomial_terms
from komad.output.session import SessionIndex
from komad.simulate.eer import write_eer
from tests.output.conftest import MOVIE, RESULT

NY, NX, N_FRAMES, BOX = 320, 384, 8, 64
PIXEL_SIZE = 0.83


def write_picture(path: Path, data: np.ndarray) -> None:
    """An MRC with a pixel size."""
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.voxel_size = PIXEL_SIZE


def strong_motion(rng: np.random.Generator, header: MovieHeader, skipped: int = 0) -> MotionModel:
    """A walk of the whole, and a local field of some pixels."""
    shifts = np.cumsum(rng.normal(size=(header.n_frames, 2)), axis=0)
    shifts[:skipped] = np.nan
    return MotionModel(
        shifts_px=shifts - shifts[skipped],
        shift_error_px=0.1,
        n_iterations=1,
        kind="local",
        reason="",
        local=SplineField(
            shape=(header.ny, header.nx),
            knots=np.array([0.5, 3.0, 7.5]),
            moments=np.arange(header.n_frames) + 0.5,
            coefficients_px=rng.normal(0, 2, (3, 4, 5, 2)),
        ),
    )


def write_particles(path: Path, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> None:
    """Particles that somebody picked and refined."""
    n = len(x)
    optics: dict[str, object] = {
        "rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1],
        "rlnMicrographOriginalPixelSize": [PIXEL_SIZE], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [PIXEL_SIZE], "rlnImageSize": [BOX],
        "rlnImageDimensionality": [2],
    }  # fmt: skip
    particles: dict[str, object] = {
        "rlnCoordinateX": x, "rlnCoordinateY": y, "rlnMicrographName": ["FoilHole_1.mrc"] * n,
        "rlnImageName": [f"{number:06}@Extract/all.mrcs" for number in range(1, n + 1)],
        "rlnOpticsGroup": [1] * n, "rlnDefocusU": [15000.0] * n, "rlnDefocusV": [15000.0] * n,
        "rlnDefocusAngle": [0.0] * n, "rlnAngleRot": rng.uniform(0, 360, n), "rlnAngleTilt": rng.uniform(0, 180, n),
        "rlnAnglePsi": rng.uniform(0, 360, n), "rlnOriginXAngst": [0.0] * n, "rlnOriginYAngst": [0.0] * n,
        "rlnRandomSubset": [1 + number % 2 for number in range(n)], "rlnClassNumber": [1] * n,
    }  # fmt: skip
    path.write_text(
        star.dumps([Table("optics", optics, loop=True), Table("particles", particles, loop=True)])
    )


def write_reference(folder: Path, rng: np.random.Generator) -> None:
    """Two half maps, a mask, and how well the halves agree."""
    radius = np.sqrt(np.square(np.indices((BOX, BOX, BOX)) - BOX // 2).sum(axis=0))
    mask = (radius < 0.4 * BOX).astype(np.float32)
    density = (gaussian_filter(rng.normal(size=mask.shape), 2) * mask).astype(np.float32)
    for name, volume in (("half1", density), ("half2", density), ("mask", mask)):
        write_picture(folder / f"{name}.mrc", volume)
    shell = np.arange(BOX // 2 + 1)
    fsc = np.clip(1.2 - 1.6 * shell / shell[-1], 0.01, 1)
    columns = {"rlnSpectralIndex": shell, "rlnFourierShellCorrelationCorrected": fsc}
    general = {"rlnFinalResolution": 3.5, "rlnBfactorUsedForSharpening": -50.0}
    tables = [Table("general", general, loop=False), Table("fsc", columns, loop=True)]
    (folder / "postprocess.star").write_text(star.dumps(tables))


def polishing_tracks(folder: Path, first_frame: int, last_frame: int) -> np.ndarray:
    """(n_particles, n_frames, 2) as (x, y): where RELION begins, in pixels; no step of its own fit is made."""
    command = [
        "relion_motion_refine", "--i", "particles.star", "--o", "Polish/", "--f", "postprocess.star",
        "--m1", "half1.mrc", "--m2", "half2.mrc", "--mask", "mask.mrc", "--corr_mic", "corrected_micrographs.star",
        "--first_frame", str(first_frame), "--last_frame", str(last_frame), "--max_iters", "0", "--diag",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    text = (folder / "Polish" / "FoilHole_1_tracks.star").read_text()
    blocks = re.split(r"\ndata_\d+\n", text)[1:]
    rows = [[line.split() for line in block.splitlines() if re.match(r"\s*-?\d", line)] for block in blocks]
    return np.array(rows, float) / PIXEL_SIZE


def check_polishing(
    folder: Path, movie: Movie, rng: np.random.Generator, *, skipped: int, n_frames: int
) -> None:
    """Write what komad writes, and compare the tracks over `n_frames` frames that RELION begins with."""
    ny, nx = movie.header.ny, movie.header.nx
    x, y = (
        axis.ravel() for axis in np.meshgrid(np.linspace(60, nx - 64, 4).round(), np.linspace(60, ny - 70, 3))
    )
    write_particles(folder / "particles.star", x, y, rng)
    write_reference(folder, rng)
    motion = strong_motion(rng, movie.header, skipped)
    summary = write_micrograph(
        replace(RESULT, motion=motion, warnings=("see /data_2/x", "# version 2 is out")),
        movie,
        directory=folder,
        archive_path=None,
        output=Output(thumbnail=False),
        outliers=outliers_at([[3, 4]]),
    )
    SessionIndex(folder).publish([{**summary, "movie_id": 1, "sequence": 1}])

    tables = read_star(folder / "FoilHole_1.star")
    coefficients = np.array(tables["local_motion_model"].columns["rlnMotionModelCoeff"]).reshape(2, 18)
    whole = tables["global_shift"].columns
    shifts = np.stack([whole["rlnMicrographShiftX"], whole["rlnMicrographShiftY"]], axis=-1)[skipped:]
    z = np.arange(n_frames - skipped)
    local = polynomial_terms(z, (y / ny - 0.5)[:, None], (x / nx - 0.5)[:, None]) @ coefficients.T
    assert np.abs(local).max() > 1
    np.testing.assert_allclose(polishing_tracks(folder, skipped + 1, n_frames), -(shifts + local), atol=1e-4)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_motion_refine") is None, reason="RELION is not installed")
@pytest.mark.parametrize("skipped", [0, 2])
def test_polishing_starts_from_our_motion(tmp_path: Path, skipped: int) -> None:
    """Every particle's first track is minus global shift and polynomial of our STAR, as we evaluate them."""
    rng = np.random.default_rng(7)
    write_picture(tmp_path / "movie.mrc", rng.poisson(2.0, (N_FRAMES, NY, NX)).astype(np.int16))
    header = replace(MOVIE.header, n_frames=N_FRAMES, ny=NY, nx=NX)
    movie = replace(MOVIE, path=tmp_path / "movie.mrc", header=header, references=References())
    check_polishing(tmp_path, movie, rng, skipped=skipped, n_frames=N_FRAMES)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_motion_refine") is None, reason="RELION is not installed")
def test_polishing_of_an_eer_movie(tmp_path: Path) -> None:
    """RELION finds the raw frames by our STAR alone, also where our frames are not those that it makes."""
    rng = np.random.default_rng(8)
    pixels = (rng.choice(4096**2, 9000, replace=False) for _ in range(11))
    raw_frames = (4 * np.column_stack(np.divmod(hit, 4096)) for hit in pixels)
    write_eer(tmp_path / "movie.eer", raw_frames, (4096, 4096))
    rendering = EerRendering(ends=(1, 2, 4, 6, 8, 10, 11))
    with open_movie(tmp_path / "movie.eer", rendering) as reader:
        header = reader.header
    assert header.n_frames == 7
    movie = replace(MOVIE, path=tmp_path / "movie.eer", header=header, references=References())
    check_polishing(tmp_path, movie, rng, skipped=0, n_frames=5)
