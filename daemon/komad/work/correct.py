"""The correct job: frames in memory -> micrographs -> files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from komad.arrays import Array
from komad.config import Koma, Output, Processing
from komad.formats import references
from komad.formats.stacks import write_stack
from komad.memory import demand_of
from komad.model import MicrographResult, Movie, OutlierPixels, StackSum
from komad.output.micrograph import SUFFIXES, withdraw_micrograph, write_micrograph
from komad.pipeline import aligned_stack, alignment_binning, correct_movie, sum_stack
from komad.work.device import CPU, Device
from komad.work.koma import MoviePattern


def sum_again(movie: Movie, frames: Array) -> StackSum:
    """The stack sum as the archive job made it, when that is not kept any more."""
    loaded = references.load(movie.references, (frames.shape[1], frames.shape[2]))
    processing = Processing.model_validate(dict(movie.processing))
    return sum_stack(
        frames, gain=loaded.gain, dark=loaded.dark, defects=loaded.defects, processing=processing
    )


def make_micrographs(
    movie: Movie,
    frames: Array,  # (n_frames, ny, nx)
    *,
    outliers: OutlierPixels,
    output: Output,
    koma: MoviePattern | None = None,
    device: Device = CPU,
    on_stage: Callable[[str], None] | None = None,
) -> MicrographResult:
    """Compute what `write_results` writes, and write the aligned stack, which is too large to be kept until then.

    The pattern of `koma` lies where `device` computes; all else that is given and all of the result on the host.

    Raises
    ------
    ReferenceFileError, ParameterError, MotionError
        A reference does not fit, a parameter is missing, or no frame is left.
    OutputError, DiskFullError
        The aligned stack cannot be written.
    DeviceMemoryError, DeviceError
        The device has too little memory for the movie, or is lost.
    """
    shape = (frames.shape[1], frames.shape[2])
    loaded = references.load(movie.references, shape)
    processing = Processing.model_validate(dict(movie.processing))
    pattern, method = (koma.to_take_off, koma.settings.method) if koma else (None, Koma().method)
    demand = demand_of(
        len(frames),
        shape,
        frames.itemsize,
        binning=alignment_binning(shape, movie.acquisition, processing),
        processing=processing,
        output=output,
        has_pattern=pattern is not None,
    )

    def correct(frames: Array, gain: Array | None, dark: Array | None) -> MicrographResult:
        result = correct_movie(
            frames,
            gain=gain,
            dark=dark,
            outliers=outliers,
            acquisition=movie.acquisition,
            processing=processing,
            pattern=pattern,
            koma_method=method,
            even_odd=output.even_odd,
            power_spectrum_wanted=output.power_spectrum,
            even_odd_weighted=output.even_odd_weighted,
            power_spectrum_groups=output.power_spectrum_groups,
            on_stage=on_stage,
        )
        if not output.aligned_stack:
            return result
        if on_stage:
            on_stage("aligned_stack")
        started = perf_counter()
        withdraw_micrograph(output.directory, movie.stem)
        write_stack(
            output.directory / f"{movie.stem}{SUFFIXES['aligned_stack']}",
            aligned_stack(
                frames,
                gain=gain,
                dark=dark,
                outliers=outliers,
                motion=result.motion,
                processing=processing,
                frame_time_s=movie.acquisition.frame_time_s,
                pattern=pattern,
                koma_method=method,
                group=output.aligned_stack_group,
            ),
            pixel_size_angstrom=result.pixel_size_angstrom,
        )
        timings_s = {**result.timings_s, "aligned_stack": round(perf_counter() - started, 4)}
        return replace(result, timings_s=timings_s)

    result = device.correct(correct, frames, loaded.gain, loaded.dark, demand)
    result = replace(result, warnings=(*loaded.warnings, *result.warnings))
    return replace(result, detector=koma.report(result.detector)) if koma else result


def write_results(
    result: MicrographResult,
    movie: Movie,
    *,
    outliers: OutlierPixels,
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
        outliers=outliers,
        aligned_stack=output.aligned_stack,
    )
