"""A database made anew from what the results tell: `processed.jsonl`, `<stem>.json` and the archives.

Movies that are done stay done, with their numbers; those that have an archive only get their correct job; all others
are found by the watcher. What no file tells is lost: the history of jobs, failed movies and why they failed, values
that were supplied for all movies, gains that were accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from komad.app import locked, reference_directory
from komad.config import Processing, Settings, WatchFolder
from komad.errors import KomadError, MovieError, OutputError
from komad.formats.copies import ARCHIVE_SUFFIXES, COPY_SUFFIX
from komad.formats.mrcz import read_metadata
from komad.ingest import missing_parameters
from komad.ingest.optics_groups import beam_shift, number_of, tolerance_of
from komad.model import (
    REACH,
    KomaWindow,
    Movie,
    MovieHeader,
    ReferenceFile,
    References,
    series_of,
)
from komad.output.manifest import archived_metadata
from komad.output.micrograph import SUFFIXES
from komad.output.session import PROCESSED, SESSION
from komad.store import StackSumRow, Taken
from komad.store.rebuild import KnownMovie, Refill
from komad.store.rows import acquisition_from
from komad.work import stack_sums
from komad.work.archive import read_archive
from komad.work.correct import sum_again

BOUND = ("movie_file", "header", "acquisition", "references", "processing")
DETAILS_ONLY = frozenset({*BOUND, "motion", "file_sizes_bytes"})
OF_DETECTOR = frozenset({"scale", "window", "outliers_yx", "xrays_frame_yx"})
"""Keys of `detector` that are in `<stem>.json` only."""


@dataclass(kw_only=True, slots=True)
class Report:
    """What was found, and what became of it."""

    n_corrected: int = 0
    n_archived: int = 0
    """With an archive, still to be corrected."""
    n_without_archive: int = 0
    """Corrected, though their archive is not where it was written: moved away, or lost."""
    n_sums_kept: int = 0
    n_sums_made: int = 0
    """Stack sums that were made again from the archive."""
    unknown: list[str] = field(default_factory=list)
    """What cannot be used, with the reason; the movies are processed again if they are still there."""
    set_aside: list[Path] = field(default_factory=list)
    """The files of the old database, as they are called now."""


@dataclass(kw_only=True, slots=True)
class _Found:
    """A movie as its files tell of it."""

    movie: Movie
    archive: Path | None
    sha256: str | None
    archived_at: str
    line: Mapping[str, Any] | None = None
    """The last line of `processed.jsonl`; None when it was never published."""
    details: Mapping[str, Any] | None = None
    """`<stem>.json` of a movie that is complete."""

    @property
    def is_published(self) -> bool:
        return (
            self.line is not None
            and self.details is not None
            and (self.line["written_at"] == self.details["written_at"])
        )


def rebuild(settings: Settings, *, dry_run: bool = False) -> Report:
    """Make the database anew; the old one is set aside, not deleted. With `dry_run` nothing is changed.

    Raises
    ------
    AlreadyRunningError
        komad runs.
    StoreError, OutputError, DiskFullError
        The new database cannot be made, or the results cannot be read; the old one is where it was.
    """
    with locked(settings.state_directory):
        report = Report()
        lines, one_off, last_sequence = _lines(settings.output.directory / PROCESSED, report)
        found = _numbered(_find(settings, lines, one_off, report))
        known, last_sequence = _known(settings, found, last_sequence, report)
        if dry_run:
            return report
        known = _with_stack_sums(settings, found, known, report)
        _replace_database(settings.state_directory, known, last_sequence, report)
        _remove_others(settings.state_directory / "stack_sums", known)
        return report


def _lines(path: Path, report: Report) -> tuple[dict[str, Mapping[str, Any]], set[tuple[str, str]], int]:
    """Read the lines: by stem the last one of each movie that had a row in a database; what `komad process` made.

    Of that (stem, written_at) is given, and at last the highest sequence number of all lines.
    """
    lines: dict[str, Mapping[str, Any]] = {}
    one_off: set[tuple[str, str]] = set()
    last = 0
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return lines, one_off, last
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    for number, raw in enumerate(text.splitlines(), start=1):
        try:
            line = json.loads(raw)
            last = max(last, int(line["sequence"]))
            if line["movie_id"]:
                lines[line["stem"]] = line
            else:
                one_off.add((line["stem"], line["written_at"]))
        except (ValueError, KeyError, TypeError) as error:
            report.unknown.append(f"{path.name}, line {number}: {error}")
    return lines, one_off, last


def _find(
    settings: Settings, lines: Mapping[str, Mapping[str, Any]], one_off: set[tuple[str, str]], report: Report
) -> list[_Found]:
    """All movies that files tell of, the oldest first."""
    details = dict(_all_details(settings.output.directory, report))
    archives = dict(_all_archives(settings.archive_directory, report))
    found = []
    for stem in details.keys() | archives.keys():
        values, (archive, metadata) = details.get(stem), archives.get(stem, (None, {}))
        if values is not None and (stem, values["written_at"]) in one_off:
            continue
        try:
            found.append(_found(settings, stem, values, archive, metadata, lines.get(stem)))
        except (KeyError, TypeError, ValueError) as error:
            report.unknown.append(f"{stem}: its metadata are not those of this komad ({error!r})")
    report.unknown += [
        f"{stem}: in {PROCESSED} only" for stem in lines.keys() - details.keys() - archives.keys()
    ]
    return sorted(found, key=lambda each: (each.movie.found_at, each.movie.stem))


def _all_details(output: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stem, content) of the JSON of every movie whose set of files is complete."""
    for path in sorted(output.glob("*.json")):
        complete = path.with_name(f"{path.stem}{SUFFIXES['motion']}").exists()
        if path.name.startswith(".") or path.name == SESSION or not complete:
            continue
        try:
            values = json.loads(path.read_bytes())
            yield str(values["stem"]), values
        except (OSError, ValueError, KeyError, TypeError) as error:
            report.unknown.append(f"{path.name}: {error}")


def _all_archives(directory: Path, report: Report) -> Iterator[tuple[str, tuple[Path, dict[str, Any]]]]:
    """(stem, (path, metadata)) of every archive that is one of a komad."""
    copied = archived_metadata(directory)
    for path in sorted(it for suffix in ARCHIVE_SUFFIXES for it in directory.glob(f"*{suffix}")):
        if path.name.startswith("."):
            continue
        try:
            metadata = copied.get(path.name, {}) if path.suffix == COPY_SUFFIX else read_metadata(path)
        except MovieError as error:
            report.unknown.append(str(error))
            continue
        if metadata.get("stem") == path.stem and isinstance(metadata.get("movie"), dict):
            yield path.stem, (path, metadata)


def _found(
    settings: Settings,
    stem: str,
    details: Mapping[str, Any] | None,
    archive: Path | None,
    metadata: Mapping[str, Any],
    line: Mapping[str, Any] | None,
) -> _Found:
    if details is None:
        assert archive is not None
        movie = _movie(settings, stem, {**metadata, "movie_file": metadata["movie"]})
        return _Found(
            movie=movie,
            archive=archive,
            sha256=metadata["movie"]["sha256"],
            archived_at=_time_of(archive),
            line=line,
        )
    movie = _movie(settings, stem, details)
    if archive is not None and metadata["movie"]["fingerprint_sha256"] != movie.fingerprint:
        archive = None  # of another movie that had this name
    return _Found(
        movie=movie,
        archive=archive,
        sha256=None if archive is None else metadata["movie"]["sha256"],
        archived_at=details["written_at"] if archive is None else _time_of(archive),
        line=line,
        details=details,
    )


def _movie(settings: Settings, stem: str, bound: Mapping[str, Any]) -> Movie:
    """Turn what `bound_values` wrote back into a movie, without its number."""
    file, header = bound["movie_file"], bound["header"]
    path = Path(file["path"])
    movie = Movie(
        movie_id=0,
        path=path,
        size_bytes=file["size_bytes"],
        mtime_ns=file["mtime_ns"],
        fingerprint=file["fingerprint_sha256"],
        stem=stem,
        header=MovieHeader.of(header),
        acquisition=acquisition_from(bound["acquisition"]),
        references=_references(bound["references"], reference_directory(settings)),
        processing=bound["processing"],
        found_at=file["found_at"],
        koma=settings.koma.model_dump(),
    )
    folder = _watched(settings, path)
    return movie if folder is None else replace(movie, series=series_of(movie, folder.directory))


def _references(values: Mapping[str, Any], directory: Path) -> References:
    def file(value: Mapping[str, str] | None) -> ReferenceFile | None:
        if value is None:
            return None
        original = Path(value["path"])
        copy = directory / f"{value['sha256']}{original.suffix.lower()}"
        return ReferenceFile(path=copy, original_path=original, sha256=value["sha256"])

    return References(
        gain=file(values["gain"]),
        gain_rot=values["gain_rot"],
        gain_flip=values["gain_flip"],
        gain_is_response=values.get("gain_is_response", False),
        gain_rows_as_eer=values.get("gain_rows_as_eer", False),
        dark=file(values["dark"]),
        defects=file(values["defects"]),
    )


def _numbered(found: list[_Found]) -> list[_Found]:
    """Give each movie its number: the one of its line, else the first free one behind the movie found before it.

    So the order in which neighbours were found stays; a number that another movie needs is never given.
    """
    taken: set[int] = set()
    for each in reversed(
        found
    ):  # of two movies with one number, of two lives of a database, the newer one keeps it
        number = 0 if each.line is None else int(each.line["movie_id"])
        if number and number not in taken:
            taken.add(number)
            each.movie = replace(each.movie, movie_id=number)
    previous = 0
    for each in found:
        if not each.movie.movie_id:
            number = previous + 1
            if number in taken:
                number = max(taken) + 1
            taken.add(number)
            each.movie = replace(each.movie, movie_id=number)
        previous = each.movie.movie_id
    return found


def _known(
    settings: Settings, found: list[_Found], last_sequence: int, report: Report
) -> tuple[list[KnownMovie], int]:
    known = []
    for each in found:
        result = sequence = None
        if each.details is not None:
            result = _result(each, settings.output.directory)
            if each.is_published:
                assert each.line is not None
                sequence = int(each.line["sequence"])
            else:
                last_sequence += 1
                sequence = last_sequence
        report.n_corrected += result is not None
        report.n_archived += result is None
        report.n_without_archive += result is not None and each.archive is None and settings.archive.enabled
        known.append(
            KnownMovie(
                movie=each.movie,
                missing=""
                if result is not None
                else missing_parameters(
                    each.movie.acquisition, Processing.model_validate(dict(each.movie.processing))
                ),
                archive=_archive_summary(each),
                archived_at=each.archived_at,
                result=result,
                sequence=sequence,
                window=None if each.details is None else _window(each.details["detector"]),
                optics=_optics(settings, each.movie),
            )
        )
    return known, last_sequence


def _optics(settings: Settings, movie: Movie) -> tuple[int, Taken] | None:
    """The optics group that was found from a movie's beam shift, which it keeps; None for all others."""
    acquisition = movie.acquisition
    number, shift = number_of(acquisition), beam_shift(acquisition, movie.found_at)
    folder = _watched(settings, movie.path)
    if number is None or shift is None or folder is None:
        return None
    name = acquisition.optics_group.rpartition("-")[0]
    place = str(folder.directory)
    return number, Taken(folder=place, name=name, tolerance=tolerance_of(folder), shift=shift)


def _watched(settings: Settings, path: Path) -> WatchFolder | None:
    """The watched folder that holds a movie, the nearest one."""
    holding = [folder for folder in settings.watch if path.is_relative_to(folder.directory)]
    return max(holding, key=lambda folder: len(folder.directory.parts), default=None)


def _result(found: _Found, output: Path) -> dict[str, Any]:
    """The summary of the correct job, as its line has it, or as it would have."""
    assert found.details is not None
    if found.is_published:
        assert found.line is not None
        summary = {key: value for key, value in found.line.items() if key not in {"movie_id", "sequence"}}
    else:
        summary = {key: value for key, value in found.details.items() if key not in DETAILS_ONLY}
        summary["detector"] = {
            key: value for key, value in summary["detector"].items() if key not in OF_DETECTOR
        }
    return {**summary, "output_directory": str(output)}


def _archive_summary(found: _Found) -> dict[str, Any]:
    path = found.archive
    return {
        "stem": found.movie.stem,
        "archive": None if path is None else str(path),
        "movie_bytes": found.movie.size_bytes,
        "archive_bytes": 0 if path is None else path.stat().st_size,
        "sha256": found.sha256,
        "n_outliers": 0 if found.details is None else found.details["n_outliers"],
        "timings_s": {},
    }


def _window(detector: Mapping[str, Any]) -> KomaWindow:
    window = detector["window"]
    return KomaWindow(
        mode=detector["koma_mode"],
        members=tuple(window["members"]),
        wanted=detector["n_wanted"],
        left_out={int(movie_id): why for movie_id, why in window["left_out"].items()},
        note=window["note"],
    )


def _with_stack_sums(
    settings: Settings, found: list[_Found], known: list[KnownMovie], report: Report
) -> list[KnownMovie]:
    """Keep the stack sums that windows of movies still to come may need, or make them again from the archives."""
    reach = max(REACH * settings.koma.radius, settings.gain_check.n_movies)
    directory = settings.state_directory / "stack_sums"
    numbers: dict[str, list[int]] = {}
    for each in known:
        if each.movie.series:
            numbers.setdefault(each.movie.series, []).append(each.movie.movie_id)
    wanted = {number for series in numbers.values() for number in sorted(series)[-reach:]}
    rows = {}
    for one in found:
        if one.movie.movie_id not in wanted:
            continue
        row = _kept_sum(directory, one)
        report.n_sums_kept += row is not None
        if row is None and one.archive is not None:
            with suppress(KomadError):  # KOMA does without it
                row = stack_sums.save(
                    directory,
                    one.movie,
                    sum_again(one.movie, read_archive(one.archive, one.movie.header.eer)),
                )
                report.n_sums_made += 1
        rows[one.movie.movie_id] = row
    return [replace(each, stack_sum=rows.get(each.movie.movie_id)) for each in known]


def _kept_sum(directory: Path, found: _Found) -> StackSumRow | None:
    """The stack sum that lies under a movie's number, if it must be this movie's: made between it and its result."""
    if found.line is None or found.details is None:
        return None
    path = directory / f"{found.movie.movie_id}.sum"
    try:
        made_at = _time_of(path)
    except OSError:
        return None
    if not found.movie.found_at <= made_at <= found.details["written_at"]:
        return None
    kept, header = stack_sums.load(path), found.movie.header
    if kept is None or (len(kept.frame_means), *kept.total.shape) != header.shape:
        return None
    return stack_sums.row_of(path.name, kept, n_bytes=path.stat().st_size)


def _replace_database(state: Path, known: list[KnownMovie], last_sequence: int, report: Report) -> None:
    """Make the new database beside the old one, and put it in its place when it is whole."""
    workshop = state / "rebuild"
    rmtree(workshop, ignore_errors=True)
    with Refill(workshop).open() as database:
        database.fill(known, last_sequence=last_sequence)
        new = database.path
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    try:
        for suffix in ("-wal", "-shm", ""):
            old = state / f"{new.name}{suffix}"
            if old.exists():
                report.set_aside.append(old.rename(state / f"{new.name}.damaged-{stamp}{suffix}"))
        new.rename(state / new.name)
        rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot put the new database into {state}: {error.strerror}; run it again"
        ) from error


def _remove_others(directory: Path, known: list[KnownMovie]) -> None:
    """Remove stack sums that no row tells of: their numbers will be other movies'."""
    kept = {each.stack_sum.file for each in known if each.stack_sum is not None}
    for path in directory.glob("*.sum"):
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()


def _time_of(path: Path) -> str:
    """When a file was written, as the tables have times."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
