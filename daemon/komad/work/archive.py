"""The archive job: the camera's file, read once and checked, becomes a lossless copy and a stack sum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from komad import __version__
from komad.arrays import Array
from komad.config import Archive, Processing
from komad.errors import ArchiveError, MovieChangedError, MovieError, MovieMissingError, OutputError
from komad.formats import movies, references
from komad.formats.atomic import make_directory
from komad.formats.mrcz import read_metadata, write_mrcz
from komad.model import Movie, StackSum
from komad.output.micrograph import bound_values
from komad.pipeline import sum_stack


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveResult:
    """What the archive job leaves."""

    path: Path | None
    """The archive; None when archives are switched off."""
    stack_sum: StackSum
    summary: dict[str, Any]
    """Plain values for the database and the log."""


def archive_path(movie: Movie, directory: Path) -> Path:
    """Where a movie's archive lies."""
    return directory / f"{movie.stem}.mrcz"


def find_archive(movie: Movie, directory: Path) -> Path | None:
    """The movie's archive, if it is there and is of this movie, not of another one of the same name."""
    path = archive_path(movie, directory)
    bound = _archived_movie(path)
    return path if bound is not None and bound.get("fingerprint_sha256") == movie.fingerprint else None


def read_source(movie: Movie, *, on_frame: Callable[[int], None] | None = None) -> Array:
    """Read the frames of the camera's file, if it still is the file that was found.

    Returns
    -------
    (n_frames, ny, nx), the type as in the file.

    Raises
    ------
    MovieError
        The file is gone, another one, or damaged.
    """
    check_unchanged(movie)
    frames = movies.read_frames(movie.path, on_frame=on_frame)
    check_unchanged(movie)
    return frames


def read_archive(path: Path, *, on_frame: Callable[[int], None] | None = None) -> Array:
    """Read the frames of an archive.

    Raises
    ------
    ArchiveError
        It is gone or damaged.
    """
    try:
        return movies.read_frames(path, on_frame=on_frame)
    except MovieError as error:
        raise ArchiveError(f"the archive cannot be read: {error}; retry the movie's archive job") from error


def check_unchanged(movie: Movie) -> None:
    """Raise MovieChangedError or MovieMissingError unless the file has the size and time it was found with."""
    try:
        status = movie.path.stat()
    except OSError as error:
        raise MovieMissingError(
            f"{movie.path}: cannot be read ({error.strerror}); is the camera's disk mounted?"
        ) from error
    if (status.st_size, status.st_mtime_ns) != (movie.size_bytes, movie.mtime_ns):
        raise MovieChangedError(
            f"{movie.path}: size or time changed since it was found; it is taken as a new movie"
        )


def archive_movie(
    movie: Movie,
    frames: Array,  # (n_frames, ny, nx)
    *,
    archive: Archive,
    directory: Path,
    on_frame: Callable[[int], None] | None = None,
) -> ArchiveResult:
    """Sum the stack and write the archive, verified, under its final name.

    Parameters
    ----------
    movie, frames
        The movie and all that `read_source` read of it.
    archive
        Whether and how to write.
    directory
        Where archives go; made when it is missing.
    on_frame
        Called with the index of each frame that was written.

    Raises
    ------
    ReferenceFileError
        A reference does not fit the frames.
    MovieChangedError, MovieMissingError
        The file changed while it was hashed.
    ArchiveError, DiskFullError, OutputError
        The archive cannot be written or does not verify.
    """
    start = perf_counter()
    with ThreadPoolExecutor(1, "komad-hash") as hashing:
        digest = hashing.submit(_sha256, movie) if archive.enabled else None
        loaded = references.load(movie.references, (frames.shape[1], frames.shape[2]))
        processing = Processing.model_validate(dict(movie.processing))
        stack_sum = sum_stack(
            frames, gain=loaded.gain, dark=loaded.dark, defects=loaded.defects, processing=processing
        )
        summed = perf_counter()
        path = None
        if digest is not None:
            path = archive_path(movie, directory)
            _write(path, movie, frames, archive, sha256=digest.result(), on_frame=on_frame)
    written = perf_counter()
    return ArchiveResult(
        path=path,
        stack_sum=stack_sum,
        summary={
            "stem": movie.stem,
            "archive": None if path is None else str(path),
            "movie_bytes": movie.size_bytes,
            "archive_bytes": 0 if path is None else path.stat().st_size,
            "sha256": None if digest is None else digest.result(),
            "n_outliers": len(stack_sum.outliers.throughout_yx),
            "timings_s": {"stack_sum": round(summed - start, 4), "archive": round(written - summed, 4)},
        },
    )


def _write(
    path: Path,
    movie: Movie,
    frames: Array,
    archive: Archive,
    *,
    sha256: str,
    on_frame: Callable[[int], None] | None,
) -> None:
    try:
        make_directory(path.parent)
    except OSError as error:
        raise OutputError(f"cannot make the archive directory {path.parent}: {error.strerror}") from error
    _refuse_another(path, sha256)
    write_mrcz(
        path,
        frames,
        pixel_size_angstrom=movie.acquisition.pixel_size_angstrom,
        voltage_kv=movie.acquisition.voltage_kv,
        cs_mm=movie.acquisition.cs_mm,
        metadata=archive_metadata(movie, sha256=sha256),
        codec=archive.codec,
        level=archive.level,
        on_frame=on_frame,
    )


def _refuse_another(path: Path, sha256: str) -> None:
    """Raise OutputError when the archive of another movie lies there: it may be the last copy of its movie."""
    other = _archived_movie(path)
    if other is not None and other.get("sha256") not in {None, sha256}:
        raise OutputError(
            f"{path} is the archive of another movie of the same name ({other.get('path')}); it is kept: move it "
            "away, or set another output.directory or output.archive_directory"
        )


def _archived_movie(path: Path) -> dict[str, Any] | None:
    """What an archive says of its movie; None when nothing is there, or nothing that can be read."""
    try:
        movie = read_metadata(path).get("movie")
    except MovieError:
        return None
    return movie if isinstance(movie, dict) else None


def archive_metadata(movie: Movie, *, sha256: str) -> dict[str, Any]:
    """Everything that is needed to process the movie again from the archive alone; plain values."""
    values = bound_values(movie)
    file: Any = values.pop("movie_file")
    return {
        "komad_version": __version__,
        "movie": {"name": movie.path.name, **file, "sha256": sha256},
        "stem": movie.stem,
        **values,
    }


def _sha256(movie: Movie) -> str:
    """SHA-256 of the whole file, which was read a moment ago: it comes from the page cache."""
    try:
        with movie.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MovieMissingError(f"{movie.path}: cannot be read ({error.strerror})") from error
    check_unchanged(movie)
    return digest
