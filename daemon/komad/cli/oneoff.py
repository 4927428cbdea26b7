"""One movie without a daemon: the same steps as the worker takes, in one process and without a database."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from komad.config import Archive, Output, Processing, WatchFolder
from komad.errors import MovieMissingError, ParameterError
from komad.formats.frame_files import check_count, status_of
from komad.formats.images import is_foreign
from komad.ingest import describe, missing_parameters, why_unknown
from komad.ingest.optics_groups import GroupsInMemory, tolerance_of
from komad.model import Acquisition, Candidate, Movie
from komad.output.micrograph import SUFFIXES
from komad.output.session import PROCESSED, SessionIndex
from komad.watch.sweep import Selection
from komad.work.archive import archive_movie, archive_path, read_source
from komad.work.correct import make_micrographs, write_results
from komad.work.device import CPU, Device, open_device
from komad.work.devices import choose, look_around

if TYPE_CHECKING:
    from komad.work.session import SessionInMemory

STAGES = (
    "read",
    "archive",
    "koma",
    "references",
    "detector",
    "reduce",
    "motion",
    "correct",
    "power_spectrum",
    "aligned_stack",
    "write",
)
"""What `on_stage` is called with, in this order; some only when they are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOff:
    """Settings that hold for every movie of the command."""

    folder: WatchFolder
    """Acquisition and references; its directory is of no meaning here."""
    processing: Processing
    output: Output
    archive: Archive
    movies: tuple[Path, ...] = ()
    """All movies of the command, in its order: no result may take the place of one."""
    koma: bool = False
    """Take off the detector's own pattern, which the movies before tell of."""
    tilt: tuple[float, float] | None = None
    """The movies are tilts in the order in which they were taken: angle of the first, step to the next, degrees."""
    devices: Literal["auto"] | tuple[str, ...] = ("cpu",)
    """As `config.Workers.devices`; the first is computed on."""


def device_of(devices: Literal["auto"] | Sequence[str]) -> Device:
    """Open the first of these devices; nothing of CUDA may have been imported before.

    Raises
    ------
    ConfigError, DeviceError
        It is not there, or cannot be used.
    """
    if devices == ("cpu",):
        return CPU
    chosen = choose(devices, look_around()).devices[0]
    if chosen.is_gpu:
        os.environ |= {"CUDA_VISIBLE_DEVICES": chosen.visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    device = open_device(chosen.device, chosen.memory_fraction)
    device.probe()
    return device


def find_movies(given: Sequence[Path], folder: WatchFolder, output: Path | None = None) -> tuple[Path, ...]:
    """Replace each folder that is given by its movies, in the order of their names.

    Sub-folders are looked into only as far as `frame_files` has folders.

    Raises
    ------
    ParameterError
        A folder cannot be read, holds no movie, is where the results go (`output`), or where such results lie.
    """
    references = folder.references
    given_files = [
        path for path in (references.gain, references.dark, references.defects) if path is not None
    ]
    everything = Selection(folder)
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found += _grouped([path], everything)
            continue
        if path.resolve() == output:
            raise ParameterError(
                f"results in {path} would be taken for movies the next time; choose another folder with --output"
            )
        if output is not None and (path / PROCESSED).exists() and "*.mrc" in folder.patterns:
            raise ParameterError(
                f"{path} holds results of komad, which would be taken for movies; its archives: --pattern '*.mrcz'"
            )
        selection = Selection(folder.model_copy(update={"directory": path.resolve()}), given_files)
        try:
            inside = list(_files(path, (folder.frame_files or "").strip("/").count("/")))
        except OSError as error:
            raise ParameterError(f"{error.filename} cannot be read: {error.strerror}") from error
        real = path.resolve()
        files = [file for file in inside if selection.is_movie(file.name, str(real / file.relative_to(path)))]
        movies = _grouped(files, selection)
        if not movies:
            named, how = (
                (folder.frame_files, "--frame-files")
                if folder.frame_files
                else (" or ".join(folder.patterns), "--pattern")
            )
            raise ParameterError(f"{path} holds no file named {named}; see {how}")
        found += movies
    return tuple(dict.fromkeys(found))


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files of a folder in the order of their names, then those of its sub-folders, `depth` levels down."""
    entries = sorted(folder.iterdir())
    yield from (entry for entry in entries if entry.is_file())
    if depth:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry, depth - 1)


def _grouped(files: Sequence[Path], selection: Selection) -> list[Path]:
    """Movies that files are, or are frames of."""
    return list(dict.fromkeys(Path(selection.movie_of(str(file)) or file) for file in files))


def done_before(settings: OneOff) -> set[Path]:
    """Which of the movies the output has already, complete and of just this file; with whatever settings."""
    directory = settings.output.directory
    stems = {line["movie"]: line["stem"] for line in _published(directory)}
    return {path for path in settings.movies if _is_done(path.resolve(), stems, directory)}


def _published(directory: Path) -> list[dict[str, Any]]:
    """Lines of the output's index; none where there is no index yet."""
    try:
        lines = (directory / PROCESSED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _is_done(path: Path, stems: Mapping[str, str], directory: Path) -> bool:
    stem = stems.get(str(path))
    if stem is None or not (directory / f"{stem}{SUFFIXES['motion']}").exists():
        return False
    try:
        made_of = json.loads((directory / f"{stem}{SUFFIXES['details']}").read_bytes())["movie_file"]
        status = status_of(path)
    except (OSError, ValueError):
        return False  # doing it again puts it right, or says what is wrong
    return (made_of["size_bytes"], made_of["mtime_ns"]) == (status.size_bytes, status.mtime_ns)


def groups_before(settings: OneOff) -> GroupsInMemory | None:
    """Make the optics groups of the command, those of movies in the output included; None when all are in one."""
    folder, directory = settings.folder, settings.output.directory
    if folder.optics_groups == "one":
        return None
    groups = GroupsInMemory(tolerance=tolerance_of(folder))
    for stem in dict.fromkeys(line["stem"] for line in _published(directory)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            details = json.loads((directory / f"{stem}{SUFFIXES['details']}").read_bytes())
            groups.know(Acquisition(**details["acquisition"]), details["movie_file"]["found_at"])
    return groups


def describe_movie(
    path: Path, settings: OneOff, index: SessionIndex, groups: GroupsInMemory | None = None
) -> Movie:
    """Describe a movie; without a known dose its sums are not dose-weighted. `groups` puts it into its optics group.

    Raises
    ------
    MovieError, ReferenceFileError
        The movie or a reference cannot be read.
    ParameterError
        Pixel size or voltage is unknown, a value is out of range, or a result would replace a movie or another file
        that komad did not write.
    """
    given, path = path, path.resolve()
    try:
        status = status_of(path)
    except OSError as error:
        raise MovieMissingError(f"{path}: cannot be read ({error.strerror})") from error
    candidate = Candidate(path=path, size_bytes=status.size_bytes, mtime_ns=status.mtime_ns, folder=0)
    check_count(path, settings.folder.frames_per_movie)
    movie = describe(candidate, settings.folder, settings.processing, reference_directory=None)
    if groups is not None:
        movie = replace(movie, acquisition=groups.put(movie.acquisition, movie.found_at))
    if settings.tilt is not None:
        movie = _as_tilt(movie, settings.movies.index(given), settings.tilt)
    processing = settings.processing
    if movie.acquisition.dose_per_frame is None:
        if processing.sum_range or settings.output.even_odd_weighted or processing.in_frame_motion:
            raise ParameterError(
                f"{path}: --sum-range, --even-odd-weighted and --in-frame-motion need the dose per frame, which is "
                "unknown; add --dose-per-frame or --total-dose"
            )
        processing = processing.model_copy(update={"dose_weighting": False})
    _check_parameters(movie, processing)
    stem = index.free_stem(movie.stem, movie.path)
    _check_places(stem, movie, settings)
    return replace(movie, stem=stem, processing=processing.model_dump())


def _as_tilt(movie: Movie, place: int, tilt: tuple[float, float]) -> Movie:
    """Put a movie into its place in a tilt series of equal exposures."""
    start, step = tilt
    facts = {**movie.acquisition.facts, "tilt_degree": start + step * place}
    return replace(movie, acquisition=replace(movie.acquisition, earlier_exposures=float(place), facts=facts))


def _check_places(stem: str, movie: Movie, settings: OneOff) -> None:
    """Refuse results that would replace a movie or a reference, as `x.mrc` does with `-o` on its own folder."""
    references = settings.folder.references
    given = {
        Path(os.path.realpath(path))
        for path in (*settings.movies, movie.path, references.gain, references.dark, references.defects)
        if path is not None
    }
    results = [settings.output.directory / f"{stem}{suffix}" for suffix in SUFFIXES.values()]
    if settings.archive.enabled:
        directory = settings.output.archive_directory or settings.output.directory
        results.append(archive_path(replace(movie, stem=stem), directory))
    for result in map(Path, map(os.path.realpath, results)):
        if result in given:
            raise ParameterError(
                f"{movie.path}: the result {result} would replace a file that you gave; "
                "choose another folder with --output"
            )
        if result.suffix in {".mrc", ".mrcs"} and is_foreign(result):
            raise ParameterError(
                f"{movie.path}: {result} exists and was not written by komad; it is kept: "
                "choose another folder with --output, or move it away"
            )


def _check_parameters(movie: Movie, processing: Processing) -> None:
    options = {"pixel_size_angstrom": ("pixel size", "--pixel-size"), "voltage_kv": ("voltage", "--voltage")}
    acquisition = movie.acquisition
    fields = [name for name in options if getattr(acquisition, name) is None]
    if fields:
        unknown = [options[name] for name in fields]
        why = why_unknown(acquisition, [*fields, "sidecar"])
        raise ParameterError(
            f"{movie.path}: {' and '.join(name for name, _ in unknown)} unknown, neither its header nor a sidecar "
            f"has it; add {' and '.join(option for _, option in unknown)}{why}"
        )
    if problem := missing_parameters(acquisition, processing):
        raise ParameterError(f"{movie.path}: {problem}")


def process_movie(
    movie: Movie,
    settings: OneOff,
    index: SessionIndex,
    *,
    session: SessionInMemory | None = None,
    device: Device = CPU,
    on_stage: Callable[[str], None],
) -> dict[str, Any]:
    """Archive and correct a movie that `describe_movie` described, and add it to the indices; gives its summary.

    With a `session` of the same `device` the pattern that its movies share is taken off, and the movie becomes a part
    of it.

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
    timings_s = {"read": read - started, **archived.summary["timings_s"]}
    outliers, koma = archived.stack_sum.outliers, None
    if session is not None:
        on_stage("koma")
        before = perf_counter()
        koma = session.pattern(movie, archived.stack_sum)
        timings_s["koma"] = perf_counter() - before
    result = make_micrographs(
        movie, frames, outliers=outliers, output=settings.output, koma=koma, device=device, on_stage=on_stage
    )
    on_stage("write")
    timings_s |= result.timings_s
    summary = write_results(
        replace(result, timings_s=timings_s, largest_count=archived.stack_sum.largest_count),
        movie,
        outliers=outliers,
        archive_path=archived.path,
        output=settings.output,
    )
    index.publish([{**summary, "movie_id": movie.movie_id, "sequence": index.last_sequence + 1}])
    return summary
