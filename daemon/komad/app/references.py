"""The references that the configuration names, at the start and for each movie."""

from __future__ import annotations

from pathlib import Path

from komad.config import Settings
from komad.formats.images import read_image
from komad.ingest import references


def check_references(settings: Settings, directory: Path | None) -> None:
    """Bind and read the references of every folder: a gain that is missing stops us now, not at the first movie.

    Private copies are kept in `directory`; None makes none.

    Raises
    ------
    ReferenceFileError
        One cannot be used.
    """
    for folder in settings.watch:
        bound = references.bind(folder.references, directory)
        for file in (bound.gain, bound.dark):
            if file is not None:
                read_image(file.path)


def reference_directory(settings: Settings) -> Path:
    """Where references are kept by content."""
    return settings.state_directory / "references"
