"""Tilt series as stacks sorted by angle, with the files that AreTomo, IMOD and RELION want beside them.

Source: what AreTomo3 writes and reads (`<series>.mrc`, `_EVN.mrc`, `_ODD.mrc`, `_TLT.txt`, `.rawtlt`), IMOD's
`.rawtlt`, and the order list of RELION's import of tomograms (number of the tilt as it was taken, angle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, OutputError, ParameterError
from komad.export.session import Entry, Session, Sum
from komad.formats import atomic
from komad.formats.images import refuse_foreign
from komad.formats.movies import open_movie
from komad.formats.stacks import write_stack
from komad.ingest import mdoc
from komad.ingest.sidecars import is_override

SUFFIXES = (".mdoc", ".mrc", ".mrcs", ".st", ".tif", ".tiff", ".eer")
"""What is taken off the name of a `.mdoc` for that of its series."""
MOST_OFF = 0.1
"""Exposures: what a dose before a tilt may be off before its weights are called wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tilt:
    """A tilt that a `.mdoc` lists."""

    movie_name: str
    angle_degree: float
    acquired: int
    """Its place in the order in which they were taken, from 1."""
    earlier_exposures: float
    """Dose of the tilts taken before, as a multiple of this one's, as the `.mdoc` tells."""
    entry: Entry | None
    """None when komad has not corrected the movie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One tilt series."""

    name: str
    tilts: tuple[Tilt, ...]
    """By angle, the most negative first."""

    @property
    def present(self) -> list[Tilt]:
        """Those that go into the stack."""
        return [tilt for tilt in self.tilts if tilt.entry is not None]

    @property
    def missing(self) -> list[Tilt]:
        """Those that do not."""
        return [tilt for tilt in self.tilts if tilt.entry is None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written of a series."""

    series: Series
    stacks: tuple[str, ...]
    is_new: bool
    """False when all of it was there."""


def find_mdocs(given: Sequence[Path]) -> list[Path]:
    """The files that are named, and those of tilt series in folders that are named.

    Raises
    ------
    ParameterError
        A folder holds none.
    """
    found: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(each for each in path.glob("*.mdoc") if not is_override(each.name))
        if not inside:
            raise ParameterError(f"{path} holds no .mdoc")
        found += inside
    return found


def read_series(path: Path, session: Session) -> Series:
    """Find the tilts that a `.mdoc` lists among the movies of a session; a movie that is listed again counts once.

    Raises
    ------
    ParameterError
        The file cannot be read, or lists no tilts.
    """
    try:
        text = mdoc.text_of(path)
    except OSError as error:
        raise ParameterError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ParameterError(f"cannot read {path}: {error}") from error
    sections = [
        section
        for section in mdoc.parse(text if text.endswith("\n") else text + "\n")
        if section.movie_name and section.numbers("TiltAngle")
    ]
    if not sections:
        raise ParameterError(
            f"{path} lists no tilts: a tilt has TiltAngle and SubFramePath, the movie that komad corrected"
        )
    last = {section.movie_name.casefold(): section for section in sections}
    in_time = (
        sorted(last.values(), key=lambda section: section.taken_at) if _is_timed(last) else [*last.values()]
    )
    entries = {entry.movie.name.casefold(): entry for entry in session.entries}
    tilts = [
        Tilt(
            movie_name=section.movie_name,
            angle_degree=section.numbers("TiltAngle")[0],
            acquired=number,
            earlier_exposures=mdoc.earlier_exposures(section, in_time, tilt_series=True),
            entry=entries.get(section.movie_name.casefold()),
        )
        for number, section in enumerate(in_time, start=1)
    ]
    return Series(
        name=_series_name(path),
        tilts=tuple(sorted(tilts, key=lambda tilt: (tilt.angle_degree, tilt.acquired))),
    )


def _is_timed(sections: Mapping[str, mdoc.Section]) -> bool:
    return all(section.taken_at for section in sections.values())


def _series_name(path: Path) -> str:
    name = path.name
    while suffix := next((each for each in SUFFIXES if name.lower().endswith(each)), ""):
        name = name[: -len(suffix)]
    return name


def write_series(
    series: Series,
    session: Session,
    directory: Path,
    *,
    kind: Sum = "unweighted",
    on_tilt: Callable[[int, int], None] = lambda _done, _all: None,
) -> Written:
    """Write the stacks of a series and its lists; nothing is done when they are there as they would be.

    Raises
    ------
    ParameterError
        No tilt of it is there, a picture is gone or damaged, or tilts differ in size or pixel size.
    OutputError, DiskFullError
        A file cannot be written, or a foreign one has its name.
    """
    present = series.present
    if not present:
        raise ParameterError(
            f"{series.name}: none of its {len(series.tilts)} movies is in {session.directory} (the first is "
            f"{series.tilts[0].movie_name})"
        )
    lists = _lists(series, kind)
    stacks = _stacks(series, kind)
    _refuse_foreign(directory, series, lists, stacks)
    paths = [directory / f"{series.name}{suffix}" for suffix in stacks]
    # The list of tilts names what the stacks were made of; it is written last.
    known = directory / f"{series.name}_tilts.csv"
    if all(path.is_file() for path in paths) and _holds(known, lists["_tilts.csv"]):
        return Written(series=series, stacks=tuple(path.name for path in paths), is_new=False)
    atomic.make_directory(directory)
    pixel_size = _common_pixel_size(series)
    n_all, n_done = len(present) * len(stacks), 0

    def count() -> None:
        nonlocal n_done
        n_done += 1
        on_tilt(n_done, n_all)

    for suffix, files in stacks.items():
        write_stack(
            directory / f"{series.name}{suffix}",
            _pictures(series, session, files, count),
            pixel_size_angstrom=pixel_size,
        )
    for suffix, text in lists.items():
        atomic.write_text(directory / f"{series.name}{suffix}", text)
    return Written(series=series, stacks=tuple(path.name for path in paths), is_new=True)


def _refuse_foreign(
    directory: Path, series: Series, lists: Mapping[str, str], stacks: Mapping[str, list[str]]
) -> None:
    """Lists are ours when `_tilts.csv` is beside them, which no other program writes."""
    for suffix in stacks:
        refuse_foreign(directory / f"{series.name}{suffix}")
    if (directory / f"{series.name}_tilts.csv").exists():
        return
    for suffix in lists:
        if (path := directory / f"{series.name}{suffix}").exists():
            raise OutputError(
                f"{path} is there and was not written by komad; it is kept: choose another folder"
            )


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False


def _stacks(series: Series, kind: Sum) -> dict[str, list[str]]:
    """Ending of a stack -> its pictures; the halves where all tilts have them."""
    entries = [tilt.entry for tilt in series.present if tilt.entry is not None]
    stacks = {".mrc": [entry.picture(kind) for entry in entries]}
    for suffix, half in (("_EVN.mrc", "even"), ("_ODD.mrc", "odd")):
        name = f"{half}_weighted" if kind == "weighted" else half
        if all(name in entry.files for entry in entries):
            stacks[suffix] = [entry.files[name] for entry in entries]
    return stacks


def _pictures(
    series: Series, session: Session, files: list[str], on_tilt: Callable[[], None]
) -> Iterator[npt.NDArray[np.float32]]:
    shape: tuple[int, ...] = ()
    for file in files:
        try:
            with open_movie(session.directory / file) as reader:
                reader.check_complete()
                picture = reader.read_frame(0).astype(np.float32, copy=False)
        except MovieError as error:
            raise ParameterError(f"{series.name}: {error}; process the movie again") from error
        shape = shape or picture.shape
        if picture.shape != shape:
            raise ParameterError(
                f"{series.name}: {file} is {picture.shape[1]} x {picture.shape[0]} pixels, the tilts before it are "
                f"{shape[1]} x {shape[0]}; process all tilts alike"
            )
        on_tilt()
        yield picture


def _common_pixel_size(series: Series) -> float:
    sizes = {
        float(tilt.entry.optics["rlnMicrographPixelSize"])
        for tilt in series.present
        if tilt.entry is not None
    }
    if len(sizes) > 1:
        raise ParameterError(
            f"{series.name}: tilts have different pixel sizes ({', '.join(f'{size:g}' for size in sorted(sizes))} Å); "
            "process all tilts alike"
        )
    return sizes.pop()


def _lists(series: Series, kind: Sum) -> dict[str, str]:
    """Ending -> text. Lines are those of the pictures in the stack, but for the order list: as they were taken."""
    present = series.present
    taken = sorted(present, key=lambda tilt: tilt.acquired)
    rows = [_row(number, tilt, kind) for number, tilt in enumerate(present, start=1)]
    head = "section,tilt_degree,acquired,exposure_before,exposure,micrograph,written_at,movie"
    return {
        ".rawtlt": "".join(f"{tilt.angle_degree:.2f}\n" for tilt in present),
        "_TLT.txt": "".join(f"{tilt.angle_degree:8.2f}  {tilt.acquired:4d}\n" for tilt in present),
        "_order.csv": "".join(f"{tilt.acquired},{tilt.angle_degree:.2f}\n" for tilt in taken),
        "_tilts.csv": "".join(f"{line}\n" for line in [head, *rows]),
    }


def _row(number: int, tilt: Tilt, kind: Sum) -> str:
    entry = tilt.entry
    assert entry is not None
    before, dose = _exposures(entry, tilt)
    cells: list[Any] = [number, f"{tilt.angle_degree:.2f}", tilt.acquired, before, dose]
    return ",".join(map(str, [*cells, entry.picture(kind), entry.written_at, tilt.movie_name]))


def _exposures(entry: Entry, tilt: Tilt) -> tuple[str, str]:
    """e/Å² before the tilt and of it; '' when unknown."""
    dose = entry.total_dose
    if dose is None:
        return "", ""
    before = entry.details().acquisition.pre_exposure + tilt.earlier_exposures * dose
    return f"{before:.4g}", f"{dose:.4g}"


def wrongly_weighted(series: Series) -> list[Tilt]:
    """Tilts whose weighted sums do not know the dose of the tilts before them: komad was not told of the series."""
    return [
        tilt
        for tilt in series.present
        if tilt.entry is not None
        and abs((tilt.entry.details().acquisition.earlier_exposures or 0.0) - tilt.earlier_exposures)
        > MOST_OFF
    ]
