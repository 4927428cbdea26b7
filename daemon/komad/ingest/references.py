"""References as they are at this moment: named by content and kept, whatever becomes of the original."""

from __future__ import annotations

import hashlib
import shutil
from functools import lru_cache
from pathlib import Path

from komad.config import ReferenceSettings
from komad.errors import ReferenceFileError
from komad.formats.atomic import atomic_file
from komad.model import MovieFormat, ReferenceFile, References

FALCON_GAIN = ".gain"
"""What Falcon's software calls its gain references. For EER movies RELION takes these files alone for factors, in the
rows of the camera; all others for responses, in the rows that they have as pictures."""


def bind(
    settings: ReferenceSettings, directory: Path | None, movie_format: MovieFormat | None = None
) -> References:
    """Bind the references that the configuration names to their present content.

    Parameters
    ----------
    settings
        `references` of the watched folder.
    directory
        Where the private copies are kept, as `<sha256><suffix>`; None makes no copies (one-off jobs).
    movie_format
        Of the movie that they are for: it decides what "auto" means. None while that is not known.

    Raises
    ------
    ReferenceFileError
        A file that is named is missing, empty or unreadable. Never a silent run without it.
    """
    is_response, rows_as_eer = meaning(settings.gain, movie_format) if settings.gain else (False, False)
    if settings.gain_kind != "auto":
        is_response = settings.gain_kind == "response"
    return References(
        gain=_bind(settings.gain, "gain", directory),
        gain_rot=settings.gain_rot,
        gain_flip=settings.gain_flip,
        gain_is_response=settings.gain is not None and is_response,
        gain_rows_as_eer=rows_as_eer,
        dark=_bind(settings.dark, "dark", directory),
        defects=_bind(settings.defects, "defects", directory),
    )


def meaning(gain: Path, movie_format: MovieFormat | None) -> tuple[bool, bool]:
    """Tell by its name what a gain means for movies of a format: as (gain_is_response, gain_rows_as_eer)."""
    is_eer = movie_format is MovieFormat.EER
    is_falcon_gain = gain.suffix.lower() == FALCON_GAIN
    return is_eer and not is_falcon_gain, is_eer and is_falcon_gain


def _bind(original: Path | None, kind: str, directory: Path | None) -> ReferenceFile | None:
    if original is None:
        return None
    advice = f"put the file back, or correct references.{kind} in the configuration (--{kind})"
    try:
        status = original.stat()
        if status.st_size == 0:
            raise ReferenceFileError(f"{original}: the {kind} reference is an empty file; {advice}")
        sha256 = _sha256_cached(original, status.st_size, status.st_mtime_ns)
        if directory is None:
            return ReferenceFile(path=original, original_path=original, sha256=sha256)
        copy = directory / f"{sha256}{original.suffix.lower()}"
        if not copy.exists():
            _copy(original, copy, sha256)
    except OSError as error:
        reason = error.strerror or error
        raise ReferenceFileError(
            f"{original}: the {kind} reference cannot be read ({reason}); {advice}"
        ) from error
    return ReferenceFile(path=copy, original_path=original, sha256=sha256)


def _copy(original: Path, copy: Path, sha256: str) -> None:
    """Make the private copy. Not a hard link: a program may write a new reference into the same file."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(copy) as temporary:
        shutil.copyfile(original, temporary)
        if _sha256(temporary) != sha256:
            raise ReferenceFileError(
                f"{original}: the reference changed while it was read; it is read again with the next movie"
            )


@lru_cache(maxsize=64)
def _sha256_cached(path: Path, size_bytes: int, mtime_ns: int) -> str:  # noqa: ARG001 - parts of the key
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
