"""Which file beside a movie describes it."""

from __future__ import annotations

import errno
import heapq
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from komad.ingest import epu, mdoc
from komad.ingest.epu_session import session_at
from komad.ingest.reading import Reading
from komad.model import MovieHeader

SESSION_FILES = 16
"""Of the `.mdoc` files in a folder that are named after no movie, the newest are searched for the movie's section."""

LISTING_S, N_LISTINGS = 5.0, 100
"""Listings of folders are kept for so long, and so many of them."""

_EPU_SUFFIX = re.compile(r"(_fractions|_eer)?$", re.IGNORECASE)
_OVERRIDE = "override.mdoc"
"""Tomography 5 writes such files beside those of its series; they are of no tilts that were taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listing:
    """The `.mdoc` files of a folder."""

    changed_ns: int
    """Time of the folder."""
    taken_s: float
    """Our clock."""
    newest: list[Path]


_listings: dict[Path, _Listing] = {}


def find(
    movie: Path,
    header: MovieHeader,
    tilt_series: Path | None = None,
    epu_session: Path | None = None,
) -> Reading:
    """Read the sidecar of a movie, and its place in a tilt series.

    Looked for in the movie's folder, in this order: `<file name>.mdoc`, `<stem>.mdoc`, `<stem>.mrc.mdoc` (SerialEM);
    `<stem>.xml` without EPU's `_Fractions` or `_EER`; a `.mdoc` of the whole session with a section for the movie. A
    sidecar that cannot be read (yet) is passed over and mentioned in `doubts["sidecar"]`. Where there is none, the
    `.xml` of that name is looked for in `epu_session`, the folder of EPU's session.

    `tilt_series`, the `.mdoc` of a series or the folder of such files, tells the place in the series (a `.mdoc` that
    was found beside the movie does so too), and is the sidecar where there is no other.

    Returns
    -------
    Reading
        Empty, with the name '', when there is none.
    """
    reading = _beside(movie, header)
    if epu_session is not None and not reading.name:
        reading = _in_session(movie, header, epu_session, reading)
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
            if getattr(error, "errno", None) == errno.ENAMETOOLONG:
                continue  # no file can have this name
            doubts["sidecar"] = f"{path.name} was not used: {error}"
            continue
        if reading is not None:
            return reading
    return Reading(name="", doubts=doubts)


def _in_session(movie: Path, header: MovieHeader, folder: Path, beside: Reading) -> Reading:
    """Reading of the `.xml` in the folder of EPU's session; `beside` with a doubt when there is none to be read."""
    stem = _EPU_SUFFIX.sub("", movie.stem)
    try:
        path = session_at(folder).find(stem)
        if path is not None:
            return epu.read(path, header)
        doubt = f"{stem}.xml is not in {folder} (yet)"
    except (OSError, ValueError) as error:
        doubt = f"{stem}.xml in {folder} was not used: {getattr(error, 'strerror', None) or error}"
    doubts = [text for text in (beside.doubts.get("sidecar"), doubt) if text]
    return replace(beside, doubts={**beside.doubts, "sidecar": "; ".join(doubts)})


def _in_series(movie: Path, header: MovieHeader, tilt_series: Path) -> tuple[Reading | None, str]:
    """Reading of the series that lists the movie; or None, and why one could not be looked at."""
    doubt = ""
    paths = [tilt_series]
    if tilt_series.is_dir():
        paths = sorted(path for path in tilt_series.glob("*.mdoc") if not is_override(path.name))
    for path in paths:
        try:
            reading = mdoc.read(path, movie.name, header, named=False, tilt_series=True)
        except (OSError, ValueError) as error:
            doubt = f"{path.name} was not used: {getattr(error, 'strerror', None) or error}"
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
        others = _newest(movie.parent)
    except OSError:
        return
    yield from islice(((path, False) for path in others if path.name not in names), SESSION_FILES)


def is_override(name: str) -> bool:
    """Whether a `.mdoc` of this name is one of Tomography 5's that tell of no tilts."""
    return name.lower().endswith(_OVERRIDE)


def _newest(folder: Path) -> list[Path]:
    """As many `.mdoc` files of a folder as can be wanted, the newest first. Raises OSError.

    A folder of thousands of movies is not listed for each of them: a listing is used for as long as the folder has the
    same time, and not longer than `LISTING_S`, for that time is coarse.
    """
    changed_ns = folder.stat().st_mtime_ns
    listing = _listings.get(folder)
    if (
        listing is not None
        and listing.changed_ns == changed_ns
        and time.monotonic() - listing.taken_s < LISTING_S
    ):
        return listing.newest
    with os.scandir(folder) as entries:
        names = (entry for entry in entries if entry.name.endswith(".mdoc") and not is_override(entry.name))
        found = [(entry.stat().st_mtime_ns, entry.name) for entry in names]
    newest = [
        folder / name for _, name in heapq.nlargest(SESSION_FILES + 3, found)
    ]  # the movie's own are three
    if len(_listings) >= N_LISTINGS:
        _listings.clear()
    _listings[folder] = _Listing(changed_ns=changed_ns, taken_s=time.monotonic(), newest=newest)
    return newest
