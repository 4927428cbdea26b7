"""One movie without a daemon: the same steps as the worker takes, in one process and without a database."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from komad.config import Archive, Output, Processing, WatchFolder
from komad.errors import MovieMissingError, ParameterError
from komad.formats.images import is_foreign
from komad.ingest import describe, missing_parameters
from komad.model import Candidate, Movie
from komad.output.micrograph import SUFFIXES
from komad.output.session import SessionIndex
from komad.work.archive import archive_movie, read_source
from komad.work.correct import make_micrographs, write_results

STAGES = ("read", "archive", "references", "reduce", "motion", "correct", "power_spectrum", "write")
"""What `on_stage` is called with, in this order; `power_spectrum` only when it is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOff:
    """Settings that hold for every movie of the command."""

    folder: WatchFolder
    """Acquisition and references; its directory is of no meaning here."""
    processing: Processing
    output: Output
    archive: Archive
    movies: tuple[Path, ...] = ()
    """All movies of the command: no result may take the place of one."""


def describe_movie(path: Path, settings: OneOff, index: SessionIndex) -> Movie:
    """Describe a movie; without a known dose its sums are not dose-weighted.

    Raises
    ------
    MovieError, ReferenceFileError
        The movie or a reference cannot be read.
    ParameterError
        Pixel size or voltage is unknown, a value is out of range, or a result would replace a movie or another file
        that komad did not write.
    """
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise MovieMissingError(f"{path}: cannot be read ({error.strerror})") from error
    candidate = Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)
    movie = describe(candidate, settings.folder, settings.processing, reference_directory=None)
    processing = settings.processing
    if movie.acquisition.dose_per_frame is None:
        processing = processing.model_copy(update={"dose_weighting": False})
    _check_parameters(movie, processing)
    stem = index.free_stem(movie.stem, movie.path)
    _check_places(stem, movie, settings)
    return replace(movie, stem=stem, processing=processing.model_dump())


def _check_places(stem: str, movie: Movie, settings: OneOff) -> None:
    """Refuse results that would replace a movie or a reference, as `x.mrc` does with `-o` on its own folder."""
    references = settings.folder.references
    given = {
        Path(os.path.realpath(path))
        for path in (*settings.movies, movie.path, references.gain, references.dark, references.defects)
        if path is not None
    }
    suffixes = [*SUFFIXES.values(), *([".mrcz"] if settings.archive.enabled else [])]
    for suffix in suffixes:
        result = Path(os.path.realpath(settings.output.directory / f"{stem}{suffix}"))
        if result in given:
            raise ParameterError(
                f"{movie.path}: the result {result} would replace a file that you gave; "
                "choose another folder with --output"
            )
        if suffix.endswith(".mrc") and is_foreign(result):
            raise ParameterError(
                f"{movie.path}: {result} exists and was not written by komad; it is kept: "
                "choose another folder with --output, or move it away"
            )


def _check_parameters(movie: Movie, processing: Processing) -> None:
    options = {"pixel_size_angstrom": ("pixel size", "--pixel-size"), "voltage_kv": ("voltage", "--voltage")}
    unknown = [words for name, words in options.items() if getattr(movie.acquisition, name) is None]
    if unknown:
        raise ParameterError(
            f"{movie.path}: {' and '.join(name for name, _ in unknown)} unknown, neither its header nor a sidecar "
            f"has it; add {' and '.join(option for _, option in unknown)}"
        )
    if problem := missing_parameters(movie.acquisition, processing):
        raise ParameterError(f"{movie.path}: {problem}")


def process_movie(
    movie: Movie, settings: OneOff, index: SessionIndex, *, on_stage: Callable[[str], None]
) -> dict[str, Any]:
    """Archive and correct a movie that `describe_movie` described, and add it to the indices; gives its summary.

    Raises
    ------
    KomadError
        As the archive job and the correct job.
    """
    started = perf_counter()
    on_stage("read")
    frames = read_source(movie)
    read = perf_counter()
    on_stage("archive")
    directory = settings.output.archive_directory or settings.output.directory
    archived = archive_movie(movie, frames, archive=settings.archive, directory=directory)
    outliers_yx = archived.stack_sum.outliers_yx
    result = make_micrographs(
        movie, frames, outliers_yx=outliers_yx, output=settings.output, on_stage=on_stage
    )
    on_stage("write")
    timings_s = {"read": read - started, **archived.summary["timings_s"], **result.timings_s}
    summary = write_results(
        replace(result, timings_s=timings_s),
        movie,
        outliers_yx=outliers_yx,
        archive_path=archived.path,
        output=settings.output,
    )
    index.publish([{**summary, "movie_id": movie.movie_id, "sequence": index.last_sequence + 1}])
    return summary
