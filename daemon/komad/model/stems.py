"""Names of outputs: which movies would write over each other's files."""

from __future__ import annotations

OUTPUT_SUFFIXES = ("_noDW", "_EVN", "_ODD", "_EVN_DW", "_ODD_DW", "_DWS", "_PS")
"""What follows the stem in the names of micrographs: a movie called `a_PS` beside a movie `a` would write over its
files."""


def clashing_stems(stem: str) -> list[str]:
    """Stems of other movies that a movie of this stem cannot stand beside, itself included."""
    longer = [stem + suffix for suffix in OUTPUT_SUFFIXES]
    shorter = [stem.removesuffix(suffix) for suffix in OUTPUT_SUFFIXES if stem.endswith(suffix)]
    return [stem, *longer, *shorter]
