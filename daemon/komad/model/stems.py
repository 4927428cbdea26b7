"""Names of outputs: which movies would write over each other's files."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

OUTPUT_SUFFIXES = ("_noDW", "_EVN", "_ODD", "_EVN_DW", "_ODD_DW", "_DWS", "_PS")
"""What follows the stem in the names of micrographs: a movie called `a_PS` beside a movie `a` would write over its
files."""

SESSION_STEMS = frozenset({"corrected_micrographs", "session"})
"""Files of the whole session are called so, with the suffixes of a movie's files."""

MAX_STEM_BYTES = 200
"""File names have 255 bytes at most, and a stem is followed by a number, a suffix and an extension."""


def unique_stem(stem: str, is_taken: Callable[[str], bool], *, start: int = 1) -> str:
    """`stem`, or `stem-2` and so on: the first under which a movie writes over nobody's files.

    `is_taken` is asked of folded stems. `start` is a number below which all are known to be taken.
    """
    number = start
    name = stem if number == 1 else f"{stem}-{number}"
    while folded(name) in SESSION_STEMS or any(map(is_taken, clashing_stems(name))):
        number += 1
        name = f"{stem}-{number}"
    return name


def folded(stem: str) -> str:
    """Give what is the same for stems whose files are the same where case is not told (SMB, exFAT, macOS)."""
    return unicodedata.normalize("NFC", stem.casefold())


def clashing_stems(stem: str) -> list[str]:
    """Folded stems of other movies that a movie of this stem cannot stand beside, itself included."""
    name, suffixes = folded(stem), [suffix.casefold() for suffix in OUTPUT_SUFFIXES]
    longer = [name + suffix for suffix in suffixes]
    shorter = [name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)]
    return [name, *longer, *shorter]
