"""The gain of a movie as the factor that komad multiplied its frames with, for programs that take a gain as it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import ReferenceFileError
from komad.formats import references
from komad.model import ReferenceFile, References


def factor_of(details: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Give the factor (ny, nx) of a movie with a gain, in MRC row order: turned, flipped, of the frames' size.

    `details` is its `<stem>.json`.

    Raises
    ------
    ReferenceFileError
        The file is gone, or not the one that was used.
    """
    told = details["references"]
    gain, sha256 = Path(told["gain"]["path"]), told["gain"]["sha256"]
    if _sha256(gain) != sha256:
        raise ReferenceFileError(
            f"{gain} is not the gain reference any more that was used; put that one back (SHA-256 {sha256[:12]}...; "
            "`references/` of the state directory has a copy named so) and export again"
        )
    file = ReferenceFile(path=gain, original_path=gain, sha256=sha256)
    bound = References(gain=file, **{name: told[name] for name in _ways(told)})
    factor = references.load(bound, _shape(details)).gain
    assert factor is not None
    return factor


def key_of(details: Mapping[str, Any]) -> str:
    """What makes two movies have the same factor: content, orientation, size."""
    told, (ny, nx) = details["references"], _shape(details)
    ways = " ".join(f"{name}={told[name]}" for name in _ways(told))
    return f"{told['gain']['sha256']} {ways} {nx}x{ny}"


def _shape(details: Mapping[str, Any]) -> tuple[int, int]:
    return int(details["header"]["ny"]), int(details["header"]["nx"])


def _ways(told: Mapping[str, Any]) -> list[str]:
    """What `References` knows of a gain beside its file: how it lies, what it means."""
    return [each.name for each in fields(References) if each.name.startswith("gain_") and each.name in told]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReferenceFileError(
            f"{path}: the gain reference cannot be read ({error.strerror}); put the file back and export again"
        ) from error
