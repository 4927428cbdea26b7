"""The correct job: frames in memory -> micrographs -> files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array
from komad.config import Output, Processing
from komad.formats import references
from komad.model import MicrographResult, Movie
from komad.output.micrograph import write_micrograph
from komad.pipeline import correct_movie, sum_stack


def find_outliers(movie: Movie, frames: Array) -> npt.NDArray[np.int32]:
    """(n_outliers, 2) as (y, x): found again when the stack sum is not kept any more."""
    loaded = references.load(movie.references, (frames.shape[1], frames.shape[2]))
    processing = Processing.model_validate(dict(movie.processing))
    return sum_stack(
        frames, gain=loaded.gain, dark=loaded.dark, defects=loaded.defects, processing=processing
    ).outliers_yx


def make_micrographs(
    movie: Movie,
    frames: Array,  # (n_frames, ny, nx)
    *,
    outliers_yx: npt.NDArray[np.int32],  # (n_outliers, 2)
    output: Output,
    on_stage: Callable[[str], None] | None = None,
) -> MicrographResult:
    """Compute what `write_results` writes.

    Raises
    ------
    ReferenceFileError, ParameterError, MotionError
        A reference does not fit, a parameter is missing, or no frame is left.
    """
    loaded = references.load(movie.references, (frames.shape[1], frames.shape[2]))
    return correct_movie(
        frames,
        gain=loaded.gain,
        dark=loaded.dark,
        outliers_yx=outliers_yx,
        acquisition=movie.acquisition,
        processing=Processing.model_validate(dict(movie.processing)),
        even_odd=output.even_odd,
        power_spectrum_wanted=output.power_spectrum,
        on_stage=on_stage,
    )


def write_results(
    result: MicrographResult,
    movie: Movie,
    *,
    outliers_yx: npt.NDArray[np.int32],  # (n_outliers, 2)
    archive_path: Path | None,
    output: Output,
) -> dict[str, Any]:
    """Write all files of a movie, `<stem>.star` last; gives the summary that goes into the indices.

    Raises
    ------
    OutputError, DiskFullError
        A file cannot be written.
    """
    return write_micrograph(
        result,
        movie,
        directory=output.directory,
        archive_path=archive_path,
        output=output,
        outliers_yx=outliers_yx,
    )
