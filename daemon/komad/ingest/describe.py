"""Candidate -> Movie: all that the rest of the program needs to know, bound at this moment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from komad.config import Processing, WatchFolder
from komad.errors import MovieChangedError, ParameterError
from komad.formats.frame_files import open_source
from komad.formats.movies import open_movie, read_header
from komad.ingest import references, sidecars
from komad.ingest.acquisition import resolve
from komad.ingest.rendering import as_written, choose_rendering, header_as_written, is_same, rendered
from komad.model import Acquisition, Candidate, Movie, MovieHeader
from komad.model.frame_names import as_one_file
from komad.model.stems import MAX_STEM_BYTES


def describe(
    candidate: Candidate,
    folder: WatchFolder,
    processing: Processing,
    *,
    reference_directory: Path | None,
    supplied: Mapping[str, object] | None = None,
) -> Movie:
    """Describe a finished movie: header, sidecar, acquisition, references and settings.

    Parameters
    ----------
    candidate
        The file as it was found.
    folder, processing
        Settings that are bound to the movie.
    reference_directory
        Where private copies of gain, dark and defects are kept; None makes none.
    supplied
        Fields of `Acquisition` -> values that an operator gave; they win over everything else.

    Returns
    -------
    Movie
        With `movie_id` 0 and a stem that is unique only if the file name is.

    Raises
    ------
    MovieError
        The file cannot be read, is gone, or is not the file any more that was found.
    ReferenceFileError
        A reference that the configuration names cannot be used.
    ParameterError
        A supplied value is out of range, the doses that are listed are for another number of frames, or the frames
        of an EER movie cannot be made as it is wanted.
    """
    header = read_header(candidate.path)
    fingerprint = _fingerprint(candidate)
    acquisition = _acquisition(candidate.path, header, folder, supplied=supplied)
    if header.eer is not None:
        rendering = choose_rendering(header, acquisition, processing)
        acquisition = rendered(acquisition, rendering)
        with open_movie(candidate.path, rendering) as movie:
            header = movie.header
    return Movie(
        movie_id=0,
        path=candidate.path,
        size_bytes=candidate.size_bytes,
        mtime_ns=candidate.mtime_ns,
        fingerprint=fingerprint,
        stem=stem_of(candidate.path, folder.frame_files),
        header=header,
        acquisition=acquisition,
        references=references.bind(folder.references, reference_directory, header.format),
        processing=processing.model_dump(),
        found_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def reconsider(
    movie: Movie, folder: WatchFolder, *, supplied: Mapping[str, object] | None = None
) -> Acquisition:
    """Look again for values that were unknown: a sidecar that came later, a configuration that was completed.

    What was supplied or configured when the movie was found stays as it was bound; `supplied` wins over it. How an EER
    movie is rendered stays, too: a dose that becomes known later is that of the frames that there are.

    Raises
    ------
    ParameterError
        A supplied value is out of range, or the doses that are listed are for another number of frames.
    """
    rendering, header, bound = movie.header.eer, header_as_written(movie.header), movie.acquisition
    if rendering is None:
        return _acquisition(movie.path, header, folder, supplied=supplied, bound=bound)
    written = _acquisition(movie.path, header, folder, supplied=supplied, bound=as_written(bound, rendering))
    found = rendered(written, rendering)
    return bound if is_same(bound, found) else found


def _acquisition(
    path: Path,
    header: MovieHeader,
    folder: WatchFolder,
    *,
    supplied: Mapping[str, object] | None,
    bound: Acquisition | None = None,
) -> Acquisition:
    reading = sidecars.find(
        as_one_file(path, folder.frame_files), header, folder.tilt_series_mdoc, folder.epu_session
    )
    acquisition = resolve(header, folder.acquisition, reading, supplied=supplied, bound=bound)
    doses = acquisition.frame_doses
    if doses is not None and len(doses) != header.n_frames:
        frames = "frame" if header.eer is None else "raw frame"
        raise ParameterError(
            f"{path}: frame_doses (from {acquisition.sources['frame_doses']}) lists {len(doses)} {frames}s, the movie "
            f"has {header.n_frames}: give one dose for each {frames}, or dose_per_frame or total_dose for all"
        )
    return acquisition


def stem_of(path: Path, frame_files: str | None = None) -> str:
    """Name of all outputs of a movie: its file name without the suffix; of frames in files, the part `{movie}`.

    RELION replaces dots by underscores; white space would break STAR tables and `@` means a slice of a stack. A name
    that leaves no room for suffixes is cut.
    """
    name = re.sub(r"[^\w+-]", "_", as_one_file(path, frame_files).stem)
    return name.encode()[:MAX_STEM_BYTES].decode(errors="ignore")


def _fingerprint(candidate: Candidate) -> str:
    """Fingerprint of the file that was found.

    Raises MovieMissingError, or MovieChangedError when size or mtime are not those that were found.
    """
    with open_source(candidate.path) as source:
        status = source.status()
        if (status.st_size, status.st_mtime_ns) != (candidate.size_bytes, candidate.mtime_ns):
            raise MovieChangedError(f"{candidate.path}: changed since it was found; it is looked at again")
        return source.fingerprint()
