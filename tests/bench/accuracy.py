"""Error of the measured motion over many simulated movies: komad and RELION, whole frames only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from komad.simulate import MovieSpec, read_truth
from komad.simulate.truth import truth_path
from tests.bench.single import prepare, run_komad, run_relion
from tests.toy import rms_error

CASES: Mapping[str, dict[str, Any]] = {
    "apoferritin": {},
    "without local motion": {"local_motion": 0.0},
    "gain reference 4 % wrong": {"gain_error": 0.04},
    "single chains of 20 kDa": {"specimen": "chain"},
    "carbon edge": {"carbon_edge": True},
    "60 frames of 0.4 e/Å²": {"n_frames": 60, "dose_per_frame": 0.4},
}


def main(n_seeds: int) -> None:
    """Print mean and largest RMS error per axis, in pixels, over seeds that nothing was tuned on."""
    print(
        f"motion error, px RMS per axis: mean (largest) of {n_seeds} movies of 2048 x 2048 x 24, 0.83 Å, 1.2 e/Å²"
    )
    print(f"{'movies':26} {'uncorrected':>12} {'komad':>16} {'RELION':>16} {'ratio':>6}")
    for name, changes in CASES.items():
        errors = [_errors(MovieSpec(**{"seed": 1000 + seed} | SIZE | changes)) for seed in range(n_seeds)]
        still, komad, relion = np.array(errors).T
        ratio = komad.mean() / relion.mean()
        columns = "".join(f"{column.mean():9.3f} ({column.max():.2f})" for column in (komad, relion))
        print(f"{name:26} {still.mean():12.2f} {columns} {ratio:6.2f}", flush=True)


SIZE: Mapping[str, int] = {"ny": 2048, "nx": 2048, "n_frames": 24, "max_count": 127}


def _errors(spec: MovieSpec) -> tuple[float, float, float]:
    """Error without correction, of komad, and of RELION (NaN where it is not installed)."""
    with tempfile.TemporaryDirectory(prefix="komad-accuracy-") as directory:
        folder = Path(directory)
        truth = read_truth(truth_path(prepare(folder, spec))).global_shifts_px()
        komad, relion = run_komad(folder, spec, "--no-archive"), run_relion(folder, spec)
        return (
            rms_error(np.zeros_like(truth), truth),
            komad.error_px,
            relion.error_px if relion else float("nan"),
        )
