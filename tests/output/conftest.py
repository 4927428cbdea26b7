"""A movie and its result, small and fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad.config import Output, Processing
from komad.model import (
    Acquisition,
    MicrographResult,
    MotionModel,
    Movie,
    MovieFormat,
    MovieHeader,
    ReferenceFile,
    References,
    outliers_at,
)
from komad.model.motion import SplineField
from komad.output.micrograph import write_micrograph

SHIFTS = np.array([[np.nan, np.nan], [1.0, -2.0], [2.0, 0.0], [2.5, 1.0], [2.5, 1.5]])
OUTLIERS = outliers_at([[3, 40], [17, 5]])

MOVIE = Movie(
    movie_id=7,
    path=Path("/data/camera/grid 1/FoilHole_1.tiff"),
    size_bytes=123456,
    mtime_ns=1_700_000_000_000_000_000,
    fingerprint="ab" * 32,
    stem="FoilHole_1",
    header=MovieHeader(format=MovieFormat.TIFF, n_frames=5, ny=48, nx=64, dtype="uint8"),
    acquisition=Acquisition(
        pixel_size_angstrom=0.83,
        voltage_kv=300.0,
        dose_per_frame=1.25,
        sources={"pixel_size_angstrom": "configuration"},
    ),
    references=References(
        gain=ReferenceFile(
            path=Path("/state/references/0123.mrc"), original_path=Path("/data/gain.mrc"), sha256="cd" * 32
        )
    ),
    processing=Processing(skip_first=1).model_dump(mode="json"),
    found_at="2026-03-04T12:00:00.000+00:00",
)


def pictures(seed: int = 1) -> dict[str, np.ndarray]:
    """Four different sums."""
    rng = np.random.default_rng(seed)
    names = ("sum_unweighted", "sum_dose_weighted", "sum_even", "sum_odd")
    return {name: rng.normal(5, 1, (48, 64)).astype(np.float32) for name in names}


RESULT = MicrographResult(
    **pictures(),
    power_spectrum=np.random.default_rng(2).random((32, 32), dtype=np.float32),
    power_spectrum_pixel_size_angstrom=1.4,
    pixel_size_angstrom=0.83,
    motion=MotionModel(
        shifts_px=SHIFTS, shift_error_px=float("nan"), n_iterations=4, kind="global", reason=""
    ),
    n_outliers=2,
    mean_e_per_px_frame=0.9,
    timings_s={"motion": 0.123456},
    warnings=("the gain is old",),
)


def local_motion() -> MotionModel:
    """SHIFTS with a local field that is zero in frame 1, the first that is used."""
    rng = np.random.default_rng(5)
    coefficients = rng.normal(0, 2, (3, 4, 5, 2))
    coefficients[0] = 0
    return MotionModel(
        shifts_px=SHIFTS,
        shift_error_px=0.03,
        n_iterations=6,
        kind="local",
        reason="the held-out frames fit better with it",
        local=SplineField(
            shape=(48, 64),
            knots=np.array([1.875, 3.125, 5.625]),
            moments=1.25 * (np.arange(5) + 0.5),
            coefficients_px=coefficients,
        ),
        local_error_px=0.04,
        fixed_pattern=0.02,
        patch_centres_px=np.array([[11.5, 15.5], [11.5, 47.5], [35.5, 15.5], [35.5, 47.5]]),
    )


Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the movie's files into `tmp_path`; keywords replace parts of movie, result or output settings."""

    def run(
        *,
        movie: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        aligned_stack: bool = False,
        **output: Any,
    ) -> dict[str, Any]:
        return write_micrograph(
            replace(RESULT, **(result or {})),
            replace(MOVIE, **(movie or {})),
            directory=tmp_path,
            archive_path=tmp_path / "FoilHole_1.mrcz",
            output=Output(**output),
            outliers=OUTLIERS,
            aligned_stack=aligned_stack,
        )

    return run
