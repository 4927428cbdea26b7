"""Movies of one file for each frame: which files are of which movie, by their names alone.

Such a movie has a path that no file has: that of its frames with `{frame}` where their number is, as
`/data/a_frame{frame}.mrc`. Everything that is needed to find the files is in it.
"""

from __future__ import annotations

import re
from pathlib import Path

MOVIE, FRAME = "{movie}", "{frame}"
PACKINGS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, behind the suffix of what is in them."""


def is_frames(path: Path) -> bool:
    """Whether a path is that of a movie of several files."""
    return FRAME in path.name


class FrameNames:
    """Which files are frames of which movie: a template as `{movie}_frame{frame}.mrc`.

    `{frame}` is the number of the frame, in any number of digits, and belongs to the file name; `{movie}` is any text
    within one name of the path. The rest is taken as it is, without regard to case. A template with folders, as
    `{movie}/raw_{frame}.tif`, is compared with the end of the path.

    Raises
    ------
    ValueError
        It has not just one of each, or no place for the number in the file name.
    """

    def __init__(self, template: str) -> None:
        if template.count(MOVIE) != 1 or template.count(FRAME) != 1:
            raise ValueError(f"'{template}' must hold {MOVIE} and {FRAME}, each once")
        if FRAME not in template.rpartition("/")[2]:
            raise ValueError(f"'{template}' must have {FRAME} in the name of the file, not of a folder")
        pattern = "(?:.*/)?" + re.escape(template.strip("/")).replace(re.escape(MOVIE), "(?P<movie>[^/]+?)")

        def compiled(number: str) -> re.Pattern[str]:
            return re.compile(pattern.replace(re.escape(FRAME), number), re.IGNORECASE | re.DOTALL)

        self._of_file = compiled("(?P<frame>[0-9]+)")
        self._of_movie = compiled(re.escape(FRAME))

    def movie_of(self, path: str) -> str | None:
        """Path of the movie that a file is a frame of; None when it is none."""
        found = self._of_file.fullmatch(path)
        return found and f"{path[: found.start('frame')]}{FRAME}{path[found.end('frame') :]}"

    def name_of(self, path: str) -> str | None:
        """What stands for `{movie}` in the path of a movie; None when it is none of this template."""
        found = self._of_movie.fullmatch(path)
        return found and found["movie"]


def as_one_file(path: Path, template: str | None = None) -> Path:
    """Path that a movie would have as one uncompressed file: after it are sidecars and results named.

    `a.mrc.bz2` is `a.mrc`. Frames `a_frame{frame}.mrc` are `a.mrc` by the template `{movie}_frame{frame}.mrc`, and
    `a_frame.mrc` without one.
    """
    if path.suffix.lower() in PACKINGS:
        path = path.with_suffix("")
    if not is_frames(path):
        return path
    name = FrameNames(template).name_of(str(path)) if template else None
    name = name or path.stem.replace(FRAME, "").rstrip("_-. ") or path.parent.name
    return path.with_name(f"{name}{path.suffix}")
