"""The gain of a movie as the factor that komad multiplied its frames with, for programs that take a gain as it lies."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import ReferenceFileError
from komad.formats import references
from komad.model import ReferenceFile, References
from komad.output.schema import BoundReferences, MovieDetails, Reference


def factor_of(details: MovieDetails) -> npt.NDArray[np.float32]:
    """Give the factor (ny, nx) of a movie with a gain, in MRC row order: turned, flipped, of the frames' size.

    Raises
    ------
    ReferenceFileError
        The file is gone, or not the one that was used.
    """
    told, gain = details.references, _gain(details)
    if _sha256(gain.path) != gain.sha256:
        raise ReferenceFileError(
            f"{gain.path} is not the gain reference any more that was used; put that one back (SHA-256 "
            f"{gain.sha256[:12]}...; `references/` of the state directory has a copy named so) and export again"
        )
    file = ReferenceFile(path=gain.path, original_path=gain.path, sha256=gain.sha256)
    factor = references.load(References(gain=file, **_ways(told)), details.header.shape[1:]).gain
    assert factor is not None
    return factor


def key_of(details: MovieDetails) -> str:
    """What makes two movies have the same factor: content, orientation, size."""
    ways = " ".join(f"{name}={value}" for name, value in _ways(details.references).items())
    return f"{_gain(details).sha256} {ways} {details.header.nx}x{details.header.ny}"


def _gain(details: MovieDetails) -> Reference:
    gain = details.references.gain
    assert gain is not None
    return gain


def _ways(told: BoundReferences) -> dict[str, Any]:
    """What `References` knows of a gain beside its file: how it lies, what it means."""
    names = (each.name for each in fields(References) if each.name.startswith("gain_"))
    return {name: getattr(told, name) for name in names}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReferenceFileError(
            f"{path}: the gain reference cannot be read ({error.strerror}); put the file back and export again"
        ) from error
