"""How komad's time grows with frames and with pixels, stage by stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from komad.cli.oneoff import OneOff, describe_movie, process_movie
from komad.config import AcquisitionSettings, Archive, Output, Processing, ReferenceSettings, WatchFolder
from komad.output.session import SessionIndex
from komad.simulate import MovieSpec
from tests.bench.programs import prepare

N_REPEATS = 2
"""In one process; the last counts: kernels are loaded, caches warm, no start-up of Python."""
FRAMES = (10, 20, 40, 100, 200, 400)
FRAMES_LENGTH = 1024
LENGTHS = {1024: 1.0, 2048: 1.0, 4096: 1.0, 8192: 2.0}
"""Pixels per side of a movie -> bin factor; the last is super-resolution."""
LENGTHS_FRAMES = 40
USUAL_PIXEL_ANGSTROM = 0.83
TOTAL_DOSE = 48.0


def main(folder: Path) -> None:
    """Print one table over frames, one over pixels."""
    print(f"{FRAMES_LENGTH} x {FRAMES_LENGTH} pixels, {TOTAL_DOSE:g} e/Å² in so many frames; s per stage")
    _print_table({str(n): _timings(folder, FRAMES_LENGTH, n, 1.0) for n in FRAMES})
    print(
        f"{LENGTHS_FRAMES} frames of so many pixels per side (* super-resolution, binned by 2); s per stage"
    )
    _print_table(
        {
            f"{length}{'*' if bin_factor > 1 else ''}": _timings(folder, length, LENGTHS_FRAMES, bin_factor)
            for length, bin_factor in LENGTHS.items()
        }
    )


def _timings(folder: Path, length: int, n_frames: int, bin_factor: float) -> dict[str, float]:
    """Stage -> seconds, of the last of some runs in this process."""
    spec = MovieSpec(
        ny=length,
        nx=length,
        n_frames=n_frames,
        dose_per_frame=TOTAL_DOSE / n_frames,
        pixel_size_angstrom=USUAL_PIXEL_ANGSTROM / bin_factor,
        max_count=127,
        seed=5,
    )
    place = folder / f"scaling_{length}_{n_frames}"
    movie = prepare(place, spec)
    with tempfile.TemporaryDirectory(prefix="komad-scaling-") as out:
        settings = OneOff(
            folder=WatchFolder(
                directory=place,
                acquisition=AcquisitionSettings(
                    pixel_size_angstrom=spec.pixel_size_angstrom,
                    voltage_kv=spec.voltage_kv,
                    dose_per_frame=spec.dose_per_frame,
                ),
                references=ReferenceSettings(gain=place / "gain.mrc"),
            ),
            processing=Processing(bin_factor=bin_factor),
            output=Output(directory=Path(out)),
            archive=Archive(enabled=False),
        )
        index = SessionIndex(settings.output.directory)
        for _ in range(N_REPEATS):
            described = describe_movie(movie, settings, index)
            summary = process_movie(described, settings, index, on_stage=lambda _: None)
    return dict(summary["timings_s"])


def _print_table(columns: dict[str, dict[str, float]]) -> None:
    """Print a Markdown table: a row per stage, a column per movie, and the total."""
    stages = list(dict.fromkeys(stage for timings in columns.values() for stage in timings))
    print(f"| {'stage':16} |" + "".join(f" {name:>7} |" for name in columns))
    print(f"|{'-' * 18}|" + f"{'-' * 9}|" * len(columns))
    for stage in stages:
        print(_row(stage, [timings.get(stage, 0.0) for timings in columns.values()]))
    print(_row("total", [sum(timings.values()) for timings in columns.values()]), flush=True)


def _row(name: str, seconds: list[float]) -> str:
    return f"| {name:16} |" + "".join(f" {value:7.3f} |" for value in seconds)
