"""The archive job: the camera's file, read once and checked, becomes a lossless archive and a stack sum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import xxhash

from komad import __version__
from komad.arrays import Array
from komad.config import Archive, Processing
from komad.errors import ArchiveError, MovieChangedError, MovieError, MovieMissingError, OutputError
from komad.formats import movies, references
from komad.formats.atomic import make_directory
from komad.formats.copies import COPY_SUFFIX, checksum_archive, write_copy
from komad.formats.frame_files import open_source, status_of
from komad.formats.mrcz import FileChecksum, is_foreign_mrcz, read_metadata, write_mrcz
from komad.formats.source import SourceFile
from komad.model import EerRendering, Movie, MovieFormat, StackSum
from komad.output.manifest import ArchiveEntry, Manifest, record_archive
from komad.output.micrograph import bound_values
from komad.pipeline import sum_stack

KEPT = "the camera's file is gone; its archive was verified and stays as it is"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Digests:
    """Of the camera's file, in hex."""

    sha256: str
    xxh3: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveResult:
    """What the archive job leaves."""

    path: Path | None
    """The archive; None when archives are switched off."""
    stack_sum: StackSum
    summary: dict[str, Any]
    """Plain values for the database and the log."""
    note: str = ""
    """What a person should know."""


def archive_path(movie: Movie, directory: Path) -> Path:
    """Where a movie's archive lies: an MRCZ file, but a copy of the file itself where the movie is EER."""
    return directory / f"{movie.stem}{COPY_SUFFIX if _is_copied(movie) else '.mrcz'}"


def _is_copied(movie: Movie) -> bool:
    """Whether the archive is the file itself: frames would tell less than the electrons they were made of."""
    return movie.header.format is MovieFormat.EER


def find_archive(movie: Movie, directory: Path) -> Path | None:
    """The movie's archive, if it is there and is of this movie, not of another one of the same name."""
    path = archive_path(movie, directory)
    return path if _archived_fingerprint(path) == movie.fingerprint else None


def _archived_fingerprint(path: Path) -> str | None:
    """Fingerprint of the movie that an archive is of; None when nothing is there, or nothing that can be read."""
    if path.suffix != COPY_SUFFIX:
        bound = _archived_movie(path)
        return None if bound is None else str(bound.get("fingerprint_sha256"))
    try:
        with SourceFile(path) as archive:
            return archive.fingerprint()
    except MovieError:
        return None


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
    frames = movies.read_frames(movie.path, movie.header.eer, on_frame=on_frame)
    check_unchanged(movie)
    return frames


def find_verified_archive(movie: Movie, directory: Path) -> Path | None:
    """The movie's archive, where the manifest knows it and it still is, bit for bit, what the manifest says.

    Raises
    ------
    ArchiveError
        It is damaged.
    OutputError
        The manifest cannot be read.
    """
    path = find_archive(movie, directory)
    manifest = Manifest(directory)
    manifest.refresh()
    line = manifest.lines.get(archive_path(movie, directory).name)
    if path is None or line is None or line.entry.fingerprint_sha256 != movie.fingerprint:
        return None
    try:
        found = checksum_archive(path)
    except MovieError as error:
        raise ArchiveError(f"{movie.path} is gone, and its archive is damaged: {error}") from error
    if found != FileChecksum(n_bytes=line.entry.archive_bytes, xxh3=line.entry.archive_xxh3):
        raise ArchiveError(
            f"{movie.path} is gone, and its archive {path} is not what it was when it was made: {manifest.path} has "
            "another checksum"
        )
    return path


def read_archive(
    path: Path, rendering: EerRendering | None = None, *, on_frame: Callable[[int], None] | None = None
) -> Array:
    """Read the frames of an archive; `rendering` is that of its movie where that is EER (`Movie.header.eer`).

    Raises
    ------
    ArchiveError
        It is gone or damaged.
    """
    try:
        return movies.read_frames(path, rendering, on_frame=on_frame)
    except MovieError as error:
        raise ArchiveError(f"the archive cannot be read: {error}; retry the movie's archive job") from error


def check_unchanged(movie: Movie) -> None:
    """Raise MovieChangedError or MovieMissingError unless the file has the size and time it was found with."""
    try:
        status = status_of(movie.path)
    except OSError as error:
        raise MovieMissingError(
            f"{movie.path}: cannot be read ({error.strerror}); is the camera's disk mounted?"
        ) from error
    if (status.size_bytes, status.mtime_ns) != (movie.size_bytes, movie.mtime_ns):
        raise MovieChangedError(
            f"{movie.path}: size or time changed since it was found; it is taken as a new movie"
        )


def archive_movie(
    movie: Movie,
    frames: Array,  # (n_frames, ny, nx)
    *,
    archive: Archive,
    directory: Path,
    kept: Path | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> ArchiveResult:
    """Sum the stack, write the archive, verified, under its final name, and its line in the manifest.

    Parameters
    ----------
    movie, frames
        The movie and all that `read_source` read of it, or `read_archive` of `kept`.
    archive
        Whether and how to write.
    directory
        Where archives go; made when it is missing.
    kept
        The archive as `find_verified_archive` gave it when the camera's file is gone: none is written then.
    on_frame
        Called with the index of each frame that was written.

    Raises
    ------
    ReferenceFileError
        A reference does not fit the frames.
    MovieChangedError, MovieMissingError
        The file changed while it was hashed.
    ArchiveError, DiskFullError, OutputError
        The archive or its line in the manifest cannot be written, or the archive does not verify.
    """
    start = perf_counter()
    with ThreadPoolExecutor(1, "komad-hash") as hashing:
        digest = hashing.submit(_digests, movie) if archive.enabled and kept is None else None
        loaded = references.load(movie.references, (frames.shape[1], frames.shape[2]))
        processing = Processing.model_validate(dict(movie.processing))
        stack_sum = sum_stack(
            frames, gain=loaded.gain, dark=loaded.dark, defects=loaded.defects, processing=processing
        )
        summed = perf_counter()
        path = kept
        if digest is not None:
            path = archive_path(movie, directory)
            source = digest.result()
            file = _write(path, movie, frames, archive, sha256=source.sha256, on_frame=on_frame)
            metadata = archive_metadata(movie, sha256=source.sha256) if _is_copied(movie) else None
            record_archive(directory, _entry(movie, path, file, source), metadata=metadata)
    written = perf_counter()
    return ArchiveResult(
        path=path,
        stack_sum=stack_sum,
        summary={
            "stem": movie.stem,
            "archive": None if path is None else str(path),
            "movie_bytes": movie.size_bytes,
            "archive_bytes": 0 if path is None else path.stat().st_size,
            "sha256": None if digest is None else digest.result().sha256,
            "n_outliers": len(stack_sum.outliers.throughout_yx),
            "largest_count": stack_sum.largest_count,
            "timings_s": {"stack_sum": round(summed - start, 4), "archive": round(written - summed, 4)},
        },
        note="" if kept is None else KEPT,
    )


def _write(
    path: Path,
    movie: Movie,
    frames: Array,
    archive: Archive,
    *,
    sha256: str,
    on_frame: Callable[[int], None] | None,
) -> FileChecksum:
    make_directory(path.parent)
    _refuse_another(path, movie, sha256)
    if _is_copied(movie):
        return write_copy(path, movie.path, sha256=sha256)
    return write_mrcz(
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


def _entry(movie: Movie, path: Path, file: FileChecksum, source: _Digests) -> ArchiveEntry:
    return ArchiveEntry(
        stem=movie.stem,
        fingerprint_sha256=movie.fingerprint,
        archive=path.name,
        archive_bytes=file.n_bytes,
        archive_xxh3=file.xxh3,
        source=str(movie.path),
        source_bytes=movie.size_bytes,
        source_mtime_ns=movie.mtime_ns,
        source_xxh3=source.xxh3,
        source_sha256=source.sha256,
    )


def _refuse_another(path: Path, movie: Movie, sha256: str) -> None:
    """Raise OutputError when what lies there may be the last copy of another movie: its archive, or an MRCZ movie."""
    if path.suffix != COPY_SUFFIX and is_foreign_mrcz(path):
        raise OutputError(
            f"{path} exists and was not written by komad; it is kept: move it away, or set another output.directory or "
            "output.archive_directory"
        )
    other = _archived_movie(path) if path.suffix != COPY_SUFFIX else _copied_movie(path, movie)
    if other is not None and other.get("sha256") not in {None, sha256}:
        raise OutputError(
            f"{path} is the archive of another movie of the same name ({other.get('path')}); it is kept: move it "
            "away, or set another output.directory or output.archive_directory"
        )


def _copied_movie(path: Path, movie: Movie) -> dict[str, Any] | None:
    """What a copy says of the movie it is of, which may be a damaged copy of `movie`; None when nothing is there."""
    if not path.exists():
        return None
    manifest = Manifest(path.parent)
    manifest.refresh()
    line = manifest.lines.get(path.name)
    if line is not None:
        return {"path": line.entry.source, "sha256": line.entry.source_sha256}
    same = _archived_fingerprint(path) == movie.fingerprint
    return {"path": "unknown", "sha256": None if same else "another"}


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


def _digests(movie: Movie) -> _Digests:
    """Both of the whole file, which was read a moment ago: it comes from the page cache, once.

    SHA-256 stays with the archive for good; XXH3 is what makes it quick to check thousands of them.
    """
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    with open_source(movie.path) as source:
        for block in source.blocks():
            sha256.update(block)
            xxh3.update(block)
    check_unchanged(movie)
    return _Digests(sha256=sha256.hexdigest(), xxh3=xxh3.hexdigest())
