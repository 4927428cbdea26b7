"""A session for cryoSPARC: folders of links to just the micrographs to import, checked, and what to type there.

cryoSPARC imports micrographs by a pattern of file names, with one pixel size, voltage, Cs and dose for all of them, so
each optics group has a folder of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from komad.errors import MovieError, OutputError
from komad.export.gain import factor_of, key_of
from komad.export.place import put
from komad.export.relion_tables import safe_name
from komad.export.session import Entry, Session, Sum
from komad.formats.images import read_image, write_reference
from komad.formats.mrc import HEADER_BYTES, MrcLayout, parse_header
from komad.model.frame_names import is_frames
from komad.output.schema import MovieDetails

PIXEL_SIZE_TOLERANCE = 1e-4
"""Relative; the header has the width of the picture in single precision."""
GAIN = "gain"
NO_GAIN = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GainInCryosparc:
    """How cryoSPARC is to turn a gain reference."""

    path: Path
    rotate_num: int
    flip_x: bool
    flip_y: bool
    is_certain: bool
    """The same whatever cryoSPARC turns first, and whichever row it draws uppermost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A gain of a group's movies."""

    as_it_lies: GainInCryosparc | None
    """None where the file is something else to cryoSPARC than the factor."""
    why: str
    """What the file is then."""
    factor: Path | None
    """komad's own factor, turned already; None where the gain lies as the movies do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """What is imported at once."""

    name: str
    folder: Path
    n_micrographs: int
    pixel_size_angstrom: float
    movie_pixel_size_angstrom: float
    voltage_kv: float
    cs_mm: float
    total_doses: tuple[float, ...]
    """e/Å², the different ones; () when unknown."""
    movies: tuple[str, ...]
    """Patterns that match the movies; none for those whose frames are files of their own, which cryoSPARC does not
    read."""
    gains: tuple[Gain, ...]
    """The different ones; cryoSPARC takes one for an import."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What was exported, and what is wrong with it."""

    groups: tuple[Group, ...]
    problems: dict[str, str]
    """File -> what is wrong with it; such a micrograph has no link."""
    notes: tuple[str, ...]
    """What a person should know before movies are imported."""
    n_new: int


def export(
    session: Session,
    directory: Path,
    *,
    kind: Sum = "weighted",
    copy: bool = False,
    on_movie: Callable[[int, int], None] = lambda _done, _all: None,
) -> Export:
    """Check every micrograph against the index and link to those that are as they should be.

    Raises
    ------
    OutputError, DiskFullError
        A link cannot be made, or something else has its name.
    ReferenceFileError
        A gain that must be turned is not what it was.
    """
    problems: dict[str, str] = {}
    layouts = _layouts(session, kind, problems, on_movie)
    by_group: dict[str, list[Entry]] = {}
    for entry in session.entries:
        if entry.stem in layouts:
            by_group.setdefault(entry.group, []).append(entry)
    groups, n_new, gains = [], 0, _Gains()
    for group, entries in by_group.items():
        sizes = Counter((layouts[entry.stem].nx, layouts[entry.stem].ny) for entry in entries)
        usual = sizes.most_common(1)[0][0]
        folder = directory / safe_name(group)
        sound = []
        for entry in entries:
            layout = layouts[entry.stem]
            if (layout.nx, layout.ny) != usual:
                problems[entry.picture(kind)] = (
                    f"it is {layout.nx} x {layout.ny} pixels, others of {group} are {usual[0]} x {usual[1]}"
                )
                continue
            sound.append(entry)
            source = session.directory / entry.picture(kind)
            n_new += put(source, folder / f"{safe_name(entry.stem)}.mrc", copy=copy)
            gains.add(group, entry, problems)
        expected = {f"{safe_name(entry.stem)}.mrc" for entry in sound}
        for path in sorted(folder.glob("*.mrc")):
            if path.name not in expected:
                problems[str(path)] = "it is not of this session, and the pattern matches it: move it away"
        groups.append(_group(group, sound, folder, gains.of(group, folder.parent)))
    notes = tuple(gains.mixed())
    return Export(groups=tuple(groups), problems=problems, notes=notes, n_new=n_new)


def _layouts(
    session: Session, kind: Sum, problems: dict[str, str], on_movie: Callable[[int, int], None]
) -> dict[str, MrcLayout]:
    """Stem -> header, of the micrographs that are as they should be; the others go to `problems`."""
    layouts = {}
    for number, entry in enumerate(session.entries, start=1):
        name = entry.picture(kind)
        try:
            layouts[entry.stem] = _checked(session.directory / name, entry)
        except FileNotFoundError:
            problems[name] = "it is gone; process the movie again"
        except (MovieError, OSError) as error:
            problems[name] = str(error)
        on_movie(number, len(session.entries))
    return layouts


def _checked(path: Path, entry: Entry) -> MrcLayout:
    """The header, when it agrees with the file and the index; raises MovieError, OSError."""
    with path.open("rb") as file:
        layout = parse_header(file.read(HEADER_BYTES), path)
    told = float(entry.optics["rlnMicrographPixelSize"])
    size = layout.pixel_size_angstrom
    if layout.n_frames != 1:
        raise MovieError(f"the header says {layout.n_frames} pictures")
    if path.stat().st_size != layout.data_offset + layout.frame_bytes:
        raise MovieError(
            f"it has {path.stat().st_size} bytes, its header says {layout.data_offset + layout.frame_bytes}; process "
            "the movie again"
        )
    if size is None or abs(size - told) > PIXEL_SIZE_TOLERANCE * told:
        raise MovieError(f"the header says {size} Å per pixel, the index {told:g}; process the movie again")
    return layout


class _Gains:
    """Which gain which movies have, movie after movie."""

    def __init__(self) -> None:
        self._of_group: dict[
            str, dict[str, MovieDetails]
        ] = {}  # group -> key of the gain -> one of its movies
        self._of_pattern: dict[
            str, dict[str, list[str]]
        ] = {}  # pattern of movies -> key of the gain -> stems

    def add(self, group: str, entry: Entry, problems: dict[str, str]) -> None:
        """Look which gain a movie has; when nothing is known of it, `problems` says why."""
        try:
            details = entry.details()
        except OutputError as error:
            problems[entry.files["details"]] = str(error)
            return
        key = NO_GAIN if details.references.gain is None else key_of(details)
        self._of_group.setdefault(group, {}).setdefault(key, details)
        for pattern in _patterns([entry]):
            self._of_pattern.setdefault(pattern, {}).setdefault(key, []).append(entry.stem)

    def of(self, group: str, directory: Path) -> tuple[Gain, ...]:
        """The gains of a group, in the order in which its movies came; factors are written into `directory`."""
        found = [details for key, details in self._of_group.get(group, {}).items() if key != NO_GAIN]
        return tuple(
            _gain(details, directory / f"{safe_name(group)}_{GAIN}{f'-{number}' * (number > 1)}.mrc")
            for number, details in enumerate(found, start=1)
        )

    def mixed(self) -> Iterator[str]:
        """One sentence for each pattern that matches movies with several gains."""
        for pattern, by_gain in self._of_pattern.items():
            if len(by_gain) > 1:
                told = "; ".join(
                    f"{len(stems)} ({stems[0]}{', ...' * (len(stems) > 1)}) with "
                    f"{'none' if key == NO_GAIN else f'gain {number}'}"
                    for number, (key, stems) in enumerate(by_gain.items(), start=1)
                )
                yield (
                    f"{pattern} matches movies with different gains, and cryoSPARC takes one for an import: {told}; "
                    "import those of each gain from a folder of their own (of links, say)"
                )


def _group(name: str, entries: list[Entry], folder: Path, gains: tuple[Gain, ...]) -> Group:
    optics = entries[0].optics
    return Group(
        name=name,
        folder=folder,
        n_micrographs=len(entries),
        pixel_size_angstrom=float(optics["rlnMicrographPixelSize"]),
        movie_pixel_size_angstrom=float(optics["rlnMicrographOriginalPixelSize"]),
        voltage_kv=float(optics["rlnVoltage"]),
        cs_mm=float(optics["rlnSphericalAberration"]),
        total_doses=tuple(sorted({round(dose, 4) for dose in _doses(entries)})),
        movies=_patterns(entries),
        gains=gains,
    )


def _patterns(entries: Iterable[Entry]) -> tuple[str, ...]:
    movies = {entry.movie for entry in entries if not is_frames(entry.movie)}
    return tuple(sorted({f"{movie.parent}/*{movie.suffix}" for movie in movies}))


def _doses(entries: list[Entry]) -> Iterator[float]:
    for entry in entries:
        if entry.total_dose is not None:
            yield entry.total_dose


def _gain(details: MovieDetails, factor_file: Path) -> Gain:
    """How a gain is handed over: as it lies, and where that may go wrong as komad's own factor."""
    told = details.references
    assert told.gain is not None
    why = (
        "holds the response, not the factor"
        if told.gain_is_response
        else "has its rows as EER movies have them"
        if told.gain_rows_as_eer
        else ""
    )
    as_it_lies = None if why else gain_in_cryosparc(told.gain.path, told.gain_rot, told.gain_flip)
    if not why and not told.gain_rot and not told.gain_flip:
        return Gain(as_it_lies=as_it_lies, why="", factor=None)
    factor = factor_of(details)
    if not factor_file.exists():
        write_reference(factor_file, factor)
    elif not np.array_equal(read_image(factor_file), np.where(np.isfinite(factor), factor, 0)):
        raise OutputError(f"{factor_file} is another gain than that of the session; it is kept: move it away")
    return Gain(as_it_lies=as_it_lies, why=why and f"{told.gain.path} {why}", factor=factor_file)


def gain_in_cryosparc(path: Path, gain_rot: int, gain_flip: int) -> GainInCryosparc:
    """Translate the orientation of a gain, for a rotation before the flip of pictures with row 0 at the bottom.

    komad takes np.rot90(gain, -gain_rot), then [::-1, :] (1) or [:, ::-1] (2), in MRC row order. With row 0 at the
    bottom that rotation is counter-clockwise, as cryoSPARC's is said to be. If cryoSPARC drew row 0 at the top, or
    flipped first, an odd number of quarters would mean something else; an even one means the same in all of these ways.
    """
    return GainInCryosparc(
        path=path,
        rotate_num=gain_rot,
        flip_x=gain_flip == 2,
        flip_y=gain_flip == 1,
        is_certain=gain_rot % 2 == 0,
    )
