"""A simulated movie on disk, and the programs that correct it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from komad.formats.images import write_mrc
from komad.simulate import MovieSpec, simulate_movie, write_movie, write_truth
from komad.simulate.truth import truth_path
from tests.bench.measure import Cost, run

MOVIE = Path("Movies") / "movie.mrc"
"""Below the folder of a movie, which holds `gain.mrc` and each program's results too."""

OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 {pixel} {voltage} 2.7 0.1

data_movies

loop_
_rlnMicrographMovieName #1
_rlnOpticsGroup #2
{movie} 1
"""


def prepare(folder: Path, spec: MovieSpec) -> Path:
    """Simulate a movie with its gain and truth, unless it is there already; gives its path."""
    movie = folder / MOVIE
    if _simulated_from(movie) != asdict(spec):
        for outdated in (truth_path(movie), *folder.glob(f"relion_*/{MOVIE.parent}/*")):
            outdated.unlink(missing_ok=True)
        movie.parent.mkdir(parents=True, exist_ok=True)
        simulated = simulate_movie(spec)
        write_mrc(folder / "gain.mrc", simulated.gain, pixel_size_angstrom=spec.pixel_size_angstrom)
        write_movie(movie, simulated.frames, "mrc", pixel_size_angstrom=spec.pixel_size_angstrom)
        write_truth(truth_path(movie), simulated.truth, spec)  # last: it says that the movie is complete
    return movie


def _simulated_from(movie: Path) -> dict[str, object] | None:
    truth = truth_path(movie)
    return json.loads(truth.read_text(encoding="utf-8"))["spec"] if truth.exists() else None


def komad_results(folder: Path) -> Path:
    """Where `run_komad` leaves its files; they are called `movie` and a suffix."""
    return folder / "komad"


def run_komad(folder: Path, spec: MovieSpec, *extra: str, n_movies: int = 1) -> Cost:
    """`komad process` on a prepared movie, with gain, dose weighting and all outputs that `extra` leaves.

    With more `n_movies` the same file comes again under other names.
    """
    out = komad_results(folder)
    shutil.rmtree(out, ignore_errors=True)
    movies = [folder / MOVIE]
    for number in range(2, n_movies + 1):
        movies.append(movies[0].with_stem(f"{movies[0].stem}_{number}"))
        movies[-1].unlink(missing_ok=True)
        movies[-1].hardlink_to(movies[0])
    command = [sys.executable, "-m", "komad", "process", *map(str, movies), "-o", str(out)]
    command += ["--gain", str(folder / "gain.mrc"), "--pixel-size", str(spec.pixel_size_angstrom)]
    command += ["--voltage", str(spec.voltage_kv), "--dose-per-frame", str(spec.dose_per_frame), *extra]
    return _checked(run(command))


def relion_results(folder: Path, patches: int) -> Path:
    """Where `run_relion` leaves its files; they are called `movie` and a suffix."""
    return folder / f"relion_{patches}" / MOVIE.parent


def run_relion(folder: Path, spec: MovieSpec, patches: int) -> Cost | None:
    """RELION's own implementation with `patches` along each axis, two threads; None where it is not installed."""
    program = shutil.which("relion_run_motioncorr")
    if program is None:
        return None
    out = relion_results(folder, patches).parent
    shutil.rmtree(out, ignore_errors=True)
    text = OPTICS.format(pixel=spec.pixel_size_angstrom, voltage=spec.voltage_kv, movie=MOVIE)
    (folder / "movies.star").write_text(text)
    command = [program, "--i", "movies.star", "--o", f"{out.name}/", "--use_own", "--j", "2"]
    command += ["--gainref", "gain.mrc", "--patch_x", str(patches), "--patch_y", str(patches)]
    command += ["--dose_weighting", "--save_noDW", "--bin_factor", "1", "--bfactor", "150"]
    command += ["--dose_per_frame", str(spec.dose_per_frame), "--preexposure", "0", "--grouping_for_ps", "4"]
    return _checked(run(command, cwd=folder))


def _checked(cost: Cost) -> Cost:
    if cost.returncode:
        raise SystemExit(cost.output)
    return cost
