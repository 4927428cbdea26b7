"""The output folder of a session, read as others read it: the index, the STAR, the files of each movie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from komad import api
from komad.errors import ParameterError, StarError
from komad.formats.star import Table, read_star
from komad.output.corrected import NAME as CORRECTED
from komad.output.schema import MovieDetails
from komad.output.session import PROCESSED, SESSION

Sum = Literal["weighted", "unweighted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One corrected movie."""

    summary: api.FinishedMovie
    """Its last line of `processed.jsonl`."""
    row: Mapping[str, Any]
    """Its line of `corrected_micrographs.star`: label -> value."""
    optics: Mapping[str, Any]
    """Its optics group: label -> value."""

    def details(self) -> MovieDetails:
        """Everything that is known of it; raises OutputError when its `<stem>.json` is missing or damaged."""
        return self.summary.details()

    @property
    def stem(self) -> str:
        """Name of all of the movie's files."""
        return self.summary.stem

    @property
    def movie(self) -> Path:
        """The camera's file."""
        return self.summary.movie

    @property
    def archive(self) -> Path | None:
        """The archive; None where none was made."""
        return self.summary.archive

    @property
    def files(self) -> Mapping[str, str]:
        """Kind of file -> name in the output folder."""
        return self.summary.files

    @property
    def written_at(self) -> str:
        """When it was made the last time, ISO 8601."""
        return self.summary.written_at.isoformat()

    @property
    def group(self) -> str:
        """Name of its optics group, unique for equal optics."""
        return str(self.optics["rlnOpticsGroupName"])

    @property
    def total_dose(self) -> float | None:
        """e/Å² of all frames; None when unknown."""
        dose = self.summary.dose_per_frame
        return None if dose is None else dose * self.summary.n_frames

    def picture(self, kind: Sum) -> str:
        """Name of the weighted or unweighted sum; where there is only one, it is unweighted."""
        no_dw = self.files.get("micrograph_no_dw", self.files["micrograph"])
        return no_dw if kind == "unweighted" else self.files["micrograph"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """All corrected movies of an output folder, in the order of the STAR."""

    directory: Path
    entries: tuple[Entry, ...]
    optics: Table
    """`data_optics` as it is in the STAR."""


def read_session(directory: Path) -> Session:
    """Read the index of an output folder; movies that are not yet in both of its files are left for the next time.

    Raises
    ------
    ParameterError
        It is no output folder of komad.
    OutputError, StarError
        Its index cannot be read.
    """
    if not (directory / PROCESSED).is_file():
        raise ParameterError(
            f"{directory} is no output folder of komad: it has no {PROCESSED}; name the folder that `komad run` or "
            "`komad process` wrote to with --from"
        )
    # A movie that was made again comes again: the last one counts.
    summaries = {movie.files["micrograph"]: movie for movie in api.session(directory)}
    if not (directory / CORRECTED).is_file():
        return Session(directory=directory, entries=(), optics=Table("optics", {}, loop=True))
    tables = read_star(directory / CORRECTED)
    try:
        optics = {row["rlnOpticsGroup"]: row for row in rows_of(tables["optics"])}
        rows = {str(row["rlnMicrographName"]): row for row in rows_of(tables["micrographs"])}
        entries = tuple(
            Entry(summary=summaries[name], row=row, optics=optics[row["rlnOpticsGroup"]])
            for name, row in rows.items()
            if name in summaries
        )
    except KeyError as error:
        raise StarError(f"{directory / CORRECTED} was not written by komad: it has no {error}") from error
    return Session(directory=directory, entries=entries, optics=tables["optics"])


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows of a loop: label -> value."""
    return [
        dict(zip(table.columns, values, strict=True)) for values in zip(*table.columns.values(), strict=True)
    ]


def state_of(directory: Path) -> str:
    """What `session.json` says of the session: running, stopped or complete; '' where it does not say it."""
    try:
        return str(json.loads((directory / SESSION).read_bytes())["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def index_stamp(directory: Path) -> tuple[tuple[int, int], ...]:
    """What differs after each change of the index, at no cost; zeros for a file that is missing."""
    stamps = []
    for name in (PROCESSED, CORRECTED):
        try:
            status = (directory / name).stat()
            stamps.append((status.st_size, status.st_mtime_ns))
        except OSError:
            stamps.append((0, 0))
    return tuple(stamps)
