"""One movie of 4096 x 4096 x 40 counts: `komad process` and RELION's own motion correction, side by side."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from komad.formats.images import write_mrc
from komad.formats.star import read_star
from komad.simulate import MovieSpec, read_truth, simulate_movie, write_movie, write_truth
from komad.simulate.truth import truth_path
from tests.bench.measure import Cost, run
from tests.toy import rms_error

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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One program's cost and error on one movie."""

    name: str
    cost: Cost
    error_px: float
    """RMS difference of the global shifts to the truth, per axis."""


def prepare(folder: Path, spec: MovieSpec) -> Path:
    """Simulate a movie with its gain and truth, unless it is there already."""
    movie = folder / "Movies" / "movie.mrc"
    if not movie.exists():
        movie.parent.mkdir(parents=True, exist_ok=True)
        simulated = simulate_movie(spec)
        write_mrc(folder / "gain.mrc", simulated.gain, pixel_size_angstrom=spec.pixel_size_angstrom)
        write_truth(truth_path(movie), simulated.truth, spec)
        write_movie(movie, simulated.frames, "mrc", pixel_size_angstrom=spec.pixel_size_angstrom)
    return movie


def shifts_in(star: Path) -> npt.NDArray[np.float64]:
    """(n_frames, 2) as (y, x) from a motion STAR."""
    table = read_star(star)["global_shift"].columns
    columns = [np.array(table[f"rlnMicrographShift{axis}"], dtype=float) for axis in "YX"]
    return np.stack(columns, axis=1)


def run_komad(folder: Path, spec: MovieSpec, *extra: str) -> Row:
    """`komad process` with gain, dose weighting, archive and all outputs."""
    out = folder / "komad"
    shutil.rmtree(out, ignore_errors=True)
    movie = folder / "Movies" / "movie.mrc"
    command = [
        sys.executable,
        "-m",
        "komad",
        "process",
        str(movie),
        "-o",
        str(out),
        "--gain",
        str(folder / "gain.mrc"),
    ]
    command += ["--pixel-size", str(spec.pixel_size_angstrom), "--voltage", str(spec.voltage_kv)]
    command += ["--dose-per-frame", str(spec.dose_per_frame), *extra]
    cost = run(command)
    if cost.returncode:
        raise SystemExit(cost.output)
    truth = read_truth(truth_path(movie)).global_shifts_px()
    return Row(
        name=" ".join(("komad", *extra)), cost=cost, error_px=rms_error(shifts_in(out / "movie.star"), truth)
    )


def run_relion(folder: Path, spec: MovieSpec) -> Row | None:
    """RELION's own implementation, global motion only, two threads; None where it is not installed."""
    program = shutil.which("relion_run_motioncorr")
    if program is None:
        return None
    shutil.rmtree(folder / "relion", ignore_errors=True)
    text = OPTICS.format(pixel=spec.pixel_size_angstrom, voltage=spec.voltage_kv, movie="Movies/movie.mrc")
    (folder / "movies.star").write_text(text)
    command = [
        program,
        "--i",
        "movies.star",
        "--o",
        "relion/",
        "--use_own",
        "--j",
        "2",
        "--gainref",
        "gain.mrc",
    ]
    command += ["--patch_x", "1", "--patch_y", "1", "--dose_weighting", "--save_noDW", "--bin_factor", "1"]
    command += ["--bfactor", "150", "--dose_per_frame", str(spec.dose_per_frame), "--preexposure", "0"]
    cost = run([*command, "--grouping_for_ps", "4"], cwd=folder)
    if cost.returncode:
        raise SystemExit(cost.output)
    movie = folder / "Movies" / "movie.mrc"
    truth = read_truth(truth_path(movie)).global_shifts_px()
    measured = shifts_in(folder / "relion" / "Movies" / "movie.star")
    return Row(name="RELION --j 2", cost=cost, error_px=rms_error(measured, truth))


def main(folder: Path, spec: MovieSpec, repeats: int) -> None:
    """Print one line per program and repeat, and the ratios."""
    movie = prepare(folder, spec)
    size = movie.stat().st_size
    print(
        f"one movie, {spec.nx} x {spec.ny} x {spec.n_frames} bytes ({size / 1e6:.0f} MB), gain, dose weighting"
    )
    print(f"{'program':24} {'wall s':>8} {'CPU s':>8} {'peak GB':>8} {'error px':>9}")
    ratios = []
    for _ in range(repeats):
        rows = [run_komad(folder, spec, "--no-archive"), run_komad(folder, spec), run_relion(folder, spec)]
        for row in filter(None, rows):
            cost = row.cost
            print(
                f"{row.name:24} {cost.wall_s:8.2f} {cost.cpu_s:8.2f} {cost.peak_bytes / 1e9:8.2f} {row.error_px:9.4f}",
                flush=True,
            )
        if rows[2]:
            bare, full, peer = rows[0], rows[1], rows[2]
            ratios.append([peer.cost.wall_s / row.cost.wall_s for row in (bare, full)])
    if ratios:
        bare_ratio, full_ratio = np.median(ratios, axis=0)
        print(
            f"RELION / komad, wall: {bare_ratio:.1f} without, {full_ratio:.1f} with archive (median of {repeats})"
        )
