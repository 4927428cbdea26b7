"""Which file beside a movie describes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from komad.ingest import epu, mdoc
from komad.ingest.reading import Reading
from komad.model import MovieHeader

SESSION_FILES = 16
"""Of the `.mdoc` files in a folder that are named after no movie, the newest are searched for the movie's section."""

_EPU_SUFFIX = re.compile(r"(_fractions|_eer)?$", re.IGNORECASE)


def find(movie: Path, header: MovieHeader, tilt_series: Path | None = None) -> Reading:
    """Read the sidecar of a movie, and its place in a tilt series.

    Looked for in the movie's folder, in this order: `<file name>.mdoc`, `<stem>.mdoc`, `<stem>.mrc.mdoc` (SerialEM);
    `<stem>.xml` without EPU's `_Fractions` or `_EER`; a `.mdoc` of the whole session with a section for the movie. A
    sidecar that cannot be read (yet) is passed over and mentioned in `doubts["sidecar"]`.

    `tilt_series`, the `.mdoc` of a series or the folder of such files, tells the place in the series (a `.mdoc` that
    was found beside the movie does so too), and is the sidecar where there is no other.

    Returns
    -------
    Reading
        Empty, with the name '', when there is none.
    """
    reading = _beside(movie, header)
    if tilt_series is None:
        return reading
    series, doubt = _in_series(movie, header, tilt_series)
    if series is None:
        doubts = {**reading.doubts, **({"sidecar": doubt} if doubt else {})}
        return replace(reading, earlier_exposures=None, doubts=doubts)
    if not reading.name:
        return series
    facts = {**series.facts, **reading.facts}
    return replace(reading, earlier_exposures=series.earlier_exposures, facts=facts)


def _beside(movie: Path, header: MovieHeader) -> Reading:
    doubts: dict[str, str] = {}
    for path, named in _places(movie):
        try:
            if path.suffix.lower() == ".xml":
                reading: Reading | None = epu.read(path, header)
            else:
                reading = mdoc.read(path, movie.name, header, named=named)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            doubts["sidecar"] = f"{path.name} was not used: {error}"
            continue
        if reading is not None:
            return reading
    return Reading(name="", doubts=doubts)


def _in_series(movie: Path, header: MovieHeader, tilt_series: Path) -> tuple[Reading | None, str]:
    """Reading of the series that lists the movie; or None, and why one could not be looked at."""
    doubt = ""
    paths = sorted(tilt_series.glob("*.mdoc")) if tilt_series.is_dir() else [tilt_series]
    for path in paths:
        try:
            reading = mdoc.read(path, movie.name, header, named=False, tilt_series=True)
        except OSError as error:
            doubt = f"{path.name} was not used: {error.strerror}"
            continue
        if reading is not None:
            return reading, ""
    return None, doubt


def _places(movie: Path) -> Iterator[tuple[Path, bool]]:
    """Paths to try, and whether they are named after the movie; lazily, as listing a folder is slow."""
    names = dict.fromkeys((f"{movie.name}.mdoc", f"{movie.stem}.mdoc", f"{movie.stem}.mrc.mdoc"))
    yield from ((movie.with_name(name), True) for name in names)
    for stem in dict.fromkeys((_EPU_SUFFIX.sub("", movie.stem), movie.stem)):
        yield movie.with_name(f"{stem}.xml"), True
    try:
        others = [path for path in movie.parent.glob("*.mdoc") if path.name not in names]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return
    yield from ((path, False) for path in others[:SESSION_FILES])
