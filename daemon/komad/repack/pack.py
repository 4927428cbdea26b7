"""A movie of any kind becomes an MRCZ archive, read frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from komad import __version__
from komad.config import Archive, Processing, WatchFolder
from komad.errors import MovieChangedError, MovieMissingError
from komad.formats.frame_files import status_of
from komad.formats.images import write_reference
from komad.formats.movies import open_movie
from komad.formats.mrcz import write_mrcz
from komad.formats.reader import LazyFrames, MovieReader
from komad.ingest import describe
from komad.model import Candidate, Movie


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A movie that was written."""

    pixel_bytes: int
    """Of all frames in memory."""
    n_bytes: int
    """Of the file."""
    kind: str
    """What it is, in words: `zstd`, `mode 6`, `TIFF lzw`."""
    notes: tuple[str, ...] = ()
    """What a person should know."""


def pack(
    source: Path,
    target: Path,
    *,
    archive: Archive,
    folder: WatchFolder,
    processing: Processing,
    save_gain: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> Written:
    """Write the archive of a movie; it is read back and compared before it appears under its name.

    Parameters
    ----------
    archive
        Codec and level.
    folder
        What is known of the movie, beside header and sidecars.
    processing
        How an EER movie becomes frames.
    save_gain
        Write the gain reference that lies in the movie's own header to `<stem>_gain.mrc` beside `target`.
    on_frame
        Called with the index of each frame that was written.

    Raises
    ------
    MovieError, ParameterError
        The movie cannot be read, or changes meanwhile; what is known of it is out of range.
    ArchiveError, DiskFullError, OutputError
        The archive cannot be written, or did not read back the same.
    """
    movie = _describe(source, folder, processing)
    with open_movie(source, movie.header.eer) as reader:
        reader.check_complete()
        frames = LazyFrames(reader)

        def look(index: int) -> None:
            if index == len(frames) - 1:
                _check_unchanged(movie, reader)
            if on_frame is not None:
                on_frame(index)

        known = _known(reader, movie)
        written = write_mrcz(
            target,
            frames,
            # What a header says is kept, though it may be what its program writes when it knows none.
            pixel_size_angstrom=known.acquisition.pixel_size_angstrom or known.header.pixel_size_angstrom,
            voltage_kv=known.acquisition.voltage_kv,
            cs_mm=known.acquisition.cs_mm,
            metadata=_metadata(reader, known),
            codec=archive.codec,
            level=archive.level,
            on_frame=look,
        )
        return Written(
            pixel_bytes=reader.frame_bytes * len(frames),
            n_bytes=written.n_bytes,
            kind=archive.codec,
            notes=keep_gain(reader, target, wanted=save_gain),
        )


def most_bytes(source: Path) -> int:
    """Bytes that the archive of a movie takes at most, as counts are. Errors as `open_movie`."""
    with open_movie(source) as reader:
        return min(reader.status().st_size, reader.frame_bytes * reader.header.n_frames)


def keep_gain(reader: MovieReader, target: Path, *, wanted: bool) -> tuple[str, ...]:
    """Write the gain reference that lies in a movie's header beside `target`, if that is wanted; say what was done.

    Raises
    ------
    ParameterError
        There is a file of that name.
    DiskFullError, OutputError
        It cannot be written.
    """
    gain = reader.gain()
    if gain is None:
        return ()
    path = target.with_name(f"{target.stem}_gain.mrc")
    if not wanted:
        return ("its header holds a gain reference, which is not in the new file: --save-gain writes it",)
    write_reference(path, gain)
    return (f"its gain reference is in {path}",)


def _describe(source: Path, folder: WatchFolder, processing: Processing) -> Movie:
    try:
        status = status_of(source)
    except OSError as error:
        raise MovieMissingError(f"{source}: cannot be read ({error.strerror})") from error
    found = Candidate(path=source, size_bytes=status.size_bytes, mtime_ns=status.mtime_ns, folder=0)
    return describe(found, folder, processing, reference_directory=None)


def _check_unchanged(movie: Movie, reader: MovieReader) -> None:
    now = reader.status()
    if (now.st_size, now.st_mtime_ns) != (movie.size_bytes, movie.mtime_ns):
        raise MovieChangedError(f"{movie.path} changed while it was packed; pack it again when it is whole")


def _known(reader: MovieReader, movie: Movie) -> Movie:
    """Fill in what an archive's own header tells."""
    kv, cs = reader.optics
    acquisition = movie.acquisition
    return replace(
        movie,
        acquisition=replace(
            acquisition, voltage_kv=acquisition.voltage_kv or kv, cs_mm=cs or acquisition.cs_mm
        ),
    )


def _metadata(reader: MovieReader, movie: Movie) -> dict[str, Any]:
    """What is kept of the movie; an archive that is packed anew keeps what it has."""
    packed_from = {
        "name": movie.path.name,
        "path": str(movie.path.resolve()),
        "size_bytes": movie.size_bytes,
        "mtime_ns": movie.mtime_ns,
        "xxh3": reader.xxh3(),
        "komad_version": __version__,
    }
    if reader.metadata:
        return {**reader.metadata, "packed_from": packed_from}
    return {
        "komad_version": __version__,
        "packed_from": packed_from,
        "header": asdict(movie.header),
        "acquisition": asdict(movie.acquisition),
    }
