"""`komad process` of one movie in each format: how fast it is decoded, and what part of the time that takes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from komad.formats.movies import read_frames
from komad.formats.mrcz import write_mrcz
from komad.formats.tiff_writer import write_tiff_movie
from komad.simulate import MovieSpec
from komad.simulate.eer import RAW_FRAMES_PER_FRAME, write_eer_frames
from tests.bench.measure import Cost, run
from tests.bench.programs import prepare

Counts = npt.NDArray[np.uint8]


def main(folder: Path, spec: MovieSpec, repeats: int) -> None:
    """Print a line per format: size, seconds of decoding and of the whole, and the slowest stage."""
    movie = prepare(folder, spec)
    pixel = spec.pixel_size_angstrom
    writers: dict[str, Callable[[Path, Counts], None]] = {
        "lzw.tif": lambda path, counts: write_tiff_movie(
            path, counts, compression="lzw", pixel_size_angstrom=pixel
        ),
        "eer": lambda path, counts: _write_eer(path, counts, pixel),
        "mrcz": lambda path, counts: _write_mrcz(path, counts, pixel),
        "mrc.zst": lambda path, _: _pack(path, zstandard.compress(movie.read_bytes(), 3)),
        "mrc.gz": lambda path, _: _pack(path, gzip.compress(movie.read_bytes(), 1)),
        "mrc.bz2": lambda path, _: _pack(path, bz2.compress(movie.read_bytes(), 9)),
        "mrc.xz": lambda path, _: _pack(path, lzma.compress(movie.read_bytes(), preset=1)),
    }
    counts: Counts = read_frames(movie)
    size = counts.nbytes / 1e6
    print(
        f"komad process, {spec.nx} x {spec.ny} x {spec.n_frames} bytes ({size:.0f} MB of counts), with archive"
    )
    columns = (
        "format",
        "MB",
        "decode s",
        "MB/s of counts",
        "MB/s of file",
        "of the time",
        "wall s",
        "CPU s",
        "GB",
    )
    print(f"| {' | '.join((*columns, 'slowest stage'))} |\n|{'---|' * (len(columns) + 1)}")
    paths = {"mrc": movie}
    for name, write in writers.items():
        paths[name] = folder / "formats" / f"movie.{name}"
        if not paths[name].exists():
            paths[name].parent.mkdir(exist_ok=True)
            write(paths[name], counts)
    del counts
    for name, path in paths.items():
        costs = [_process(folder, path, spec) for _ in range(repeats)]
        cost, stages = sorted(costs, key=lambda each: each[0].wall_s)[len(costs) // 2]
        slowest = max(stages, key=lambda stage: stages[stage])
        mb, read_s = path.stat().st_size / 1e6, stages["read"]
        print(
            f"| {name} | {mb:.0f} | {read_s:.2f} | {size / read_s:.0f} | {mb / read_s:.0f} "
            f"| {100 * read_s / cost.wall_s:.0f} % | {cost.wall_s:.1f} | {cost.cpu_s:.1f} "
            f"| {cost.peak_bytes / 1e9:.2f} | {slowest} {stages[slowest]:.2f} s |",
            flush=True,
        )


def _process(folder: Path, movie: Path, spec: MovieSpec) -> tuple[Cost, dict[str, float]]:
    out = folder / "formats" / "komad"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "komad", "process", str(movie), "-o", str(out)]
    command += ["--gain", str(folder / "gain.mrc"), "--gain-kind", "factor"]
    command += ["--pixel-size", str(spec.pixel_size_angstrom), "--voltage", str(spec.voltage_kv)]
    command += ["--total-dose", str(spec.dose_per_frame * spec.n_frames)]
    if movie.suffix == ".eer":
        command += ["--eer-grouping", str(RAW_FRAMES_PER_FRAME)]
    cost = run(command)
    if cost.returncode:
        raise SystemExit(cost.output)
    line: dict[str, Any] = json.loads((out / "processed.jsonl").read_text())
    return cost, line["timings_s"]


def _write_eer(path: Path, counts: Counts, pixel_size_angstrom: float) -> None:
    fitting = np.minimum(counts, RAW_FRAMES_PER_FRAME)  # hot pixels count more
    for _ in write_eer_frames(path, fitting, pixel_size_angstrom=pixel_size_angstrom):
        pass


def _write_mrcz(path: Path, counts: Counts, pixel_size_angstrom: float) -> None:
    optics = {"pixel_size_angstrom": pixel_size_angstrom, "voltage_kv": 300.0, "cs_mm": 2.7}
    write_mrcz(path, counts, metadata={}, **optics)


def _pack(path: Path, data: bytes) -> None:
    path.write_bytes(data)
