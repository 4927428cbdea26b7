"""One large movie: `komad process` and RELION's own motion correction, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from komad.simulate import MovieSpec, read_truth
from komad.simulate.truth import truth_path
from tests.bench.field import field_error_px, komad_field, relion_field, true_field
from tests.bench.measure import Cost
from tests.bench.programs import komad_results, prepare, relion_results, run_komad, run_relion

LOCAL_PATCHES = 5
N_FURTHER = 2


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program as it is used."""

    name: str
    run: Callable[[], Cost | None]
    error_px: Callable[[], float]
    """RMS of the displacement field it left in its files against the truth, per axis."""


def main(folder: Path, spec: MovieSpec, repeats: int) -> None:
    """Print one line per program and repeat, and the ratios of the medians."""
    movie = prepare(folder, spec)
    true = true_field(read_truth(truth_path(movie)))

    def komad(name: str, *extra: str) -> Program:
        return Program(
            name=name,
            run=lambda: run_komad(folder, spec, *extra),
            error_px=lambda: field_error_px(komad_field(komad_results(folder) / "movie.json"), true),
        )

    def relion(name: str, patches: int) -> Program:
        star = relion_results(folder, patches) / "movie.star"
        return Program(
            name=name,
            run=lambda: run_relion(folder, spec, patches),
            error_px=lambda: field_error_px(relion_field(star), true),
        )

    def each_further() -> Cost:
        several = run_komad(folder, spec, "--no-archive", n_movies=1 + N_FURTHER)
        one = run_komad(folder, spec, "--no-archive")
        return replace(
            several,
            wall_s=(several.wall_s - one.wall_s) / N_FURTHER,
            cpu_s=(several.cpu_s - one.cpu_s) / N_FURTHER,
        )

    # What a daemon takes per movie: Python is started and the compiled loops are loaded.
    further = replace(komad("komad, each further movie"), run=each_further)
    programs = [
        komad("komad, no archive", "--no-archive"),
        komad("komad, with archive"),
        further,
        relion("RELION, global only", 1),
        relion(f"RELION, {LOCAL_PATCHES} x {LOCAL_PATCHES} patches", LOCAL_PATCHES),
    ]
    size = movie.stat().st_size / 1e6
    print(f"one movie, {spec.nx} x {spec.ny} x {spec.n_frames} bytes ({size:.0f} MB), gain, dose weighting")
    print(
        f"| {'program':25} | wall s | CPU s | peak GB | error px |\n|{'-' * 27}|--------|-------|---------|----------|"
    )
    costs: dict[str, list[Cost]] = {program.name: [] for program in programs}
    for _ in range(repeats):
        for program in programs:
            cost = program.run()
            if cost is not None:
                costs[program.name].append(cost)
                error = program.error_px()
                memory = cost.peak_bytes / 1e9
                print(
                    f"| {program.name:25} | {cost.wall_s:6.2f} | {cost.cpu_s:5.1f} | {memory:7.2f} | {error:8.4f} |",
                    flush=True,
                )
    _print_ratios({name: rows for name, rows in costs.items() if rows})


def _print_ratios(costs: dict[str, list[Cost]]) -> None:
    """How many times komad's time and memory each use of RELION takes; medians over the repeats."""
    for peer in (name for name in costs if name.startswith("RELION")):
        for ours in (name for name in costs if name.startswith("komad")):
            wall, cpu, memory = (
                np.median([getattr(cost, what) for cost in costs[peer]])
                / np.median([getattr(cost, what) for cost in costs[ours]])
                for what in ("wall_s", "cpu_s", "peak_bytes")
            )
            print(f"{peer} / {ours}: wall {wall:.1f}, CPU {cpu:.1f}, memory {memory:.1f}")
