"""Which movies show the same detector in the same mode, so that one's stack sum tells of the other's pattern."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from komad.model.movie import Movie

REACH = 4
"""A window reaches back over so many radii of movies; those that are left out make it longer than two."""


def series_of(movie: Movie, folder: Path) -> str:
    """Name of the series of a movie found under the watched `folder`: the same for the same camera mode and references.

    A hash over the folder, size and type of the frames, the camera's name (where a sidecar told it in time), the
    content of gain and dark, how the gain is turned and what it means. The number of frames is free. Never ''.
    """
    header, references = movie.header, movie.references
    facts: tuple[object, ...] = (
        str(folder),
        header.ny,
        header.nx,
        header.dtype,
        movie.acquisition.facts.get("camera", ""),
        references.gain and references.gain.sha256,
        references.gain_rot,
        references.gain_flip,
        references.dark and references.dark.sha256,
    )
    if references.gain_is_response or references.gain_rows_as_eer:
        facts += (references.gain_is_response, references.gain_rows_as_eer)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
