"""Even and odd sums as programs for denoising find them: halves of one name in two folders.

Topaz pairs the files of `--dir-a` and `--dir-b` by their names. Warp and M have the sums in `average`, the halves in
`average/even` and `average/odd`, all under the name of the movie: one layout for both. cryoCARE takes volumes: those
that are reconstructed from the `_EVN` and `_ODD` stacks of `komad export tomo`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from komad.export.place import put
from komad.export.relion_tables import safe_name
from komad.export.session import Session

AVERAGE = "average"


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """What was exported."""

    even: Path
    odd: Path
    n_pairs: int
    n_new: int
    """Links that were not there before."""
    missing: tuple[str, ...]
    """Stems of movies without both halves."""


def export(
    session: Session,
    directory: Path,
    *,
    weighted: bool = False,
    copy: bool = False,
    on_movie: Callable[[int, int], None] = lambda _done, _all: None,
) -> Export:
    """Link to both halves of each micrograph, and to the sum; with `weighted` to those that are dose-weighted.

    Raises
    ------
    OutputError, DiskFullError
        A link cannot be made, or something else has its name.
    """
    even, odd = ("even_weighted", "odd_weighted") if weighted else ("even", "odd")
    unweighted = "micrograph" if weighted else "micrograph_no_dw"
    average = directory / AVERAGE
    missing, n_new = [], 0
    for number, entry in enumerate(session.entries, start=1):
        files = {
            average: entry.files.get(unweighted, entry.files["micrograph"]),
            average / "even": entry.files.get(even, ""),
            average / "odd": entry.files.get(odd, ""),
        }
        if all(file and (session.directory / file).is_file() for file in files.values()):
            for folder, file in files.items():
                target = folder / f"{safe_name(entry.stem)}.mrc"
                n_new += put(session.directory / file, target, copy=copy)
        else:
            missing.append(entry.stem)
        on_movie(number, len(session.entries))
    return Export(
        even=average / "even",
        odd=average / "odd",
        n_pairs=len(session.entries) - len(missing),
        n_new=n_new,
        missing=tuple(missing),
    )
