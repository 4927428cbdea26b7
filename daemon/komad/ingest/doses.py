"""Files that list the dose of each frame."""

from __future__ import annotations

from pathlib import Path

from komad.errors import ParameterError
from komad.formats.limits import MOST_FRAMES
from komad.ingest.reading import content

MOST_BYTES = 4 << 20
"""A list of doses is not longer."""
MOST_DOSE = 10_000.0
"""e/Å² of a frame: more is another unit, or a mistake."""


def read_frame_doses(path: Path) -> tuple[float, ...]:
    """Read e/Å² of each frame, of EER movies of each raw frame; `#` begins a comment.

    Lines hold one dose for each frame, or MotionCor's three numbers (`-FmIntFile`): how many frames, how many of them
    are added into one, and the dose of each before that. The second number must be 1: what frames of EER movies are
    made of is a setting, and those of others are aligned one by one.

    Raises
    ------
    ParameterError
        The file cannot be read, or a line is neither; the message names it.
    """
    try:
        lines = content(path, MOST_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        reason = (
            "it is no text"
            if isinstance(error, UnicodeDecodeError)
            else getattr(error, "strerror", None) or error
        )
        raise ParameterError(f"the doses cannot be read from {path}: {reason}") from error
    doses: list[float] = []
    columns = set()
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words:
            doses += _doses(words, f"{path}, line {number}")
            columns.add(len(words))
        if len(doses) > MOST_FRAMES:
            raise ParameterError(
                f"{path}, line {number}: up to here it lists {len(doses)} frames, which no movie has"
            )
    if len(columns) > 1:
        raise ParameterError(
            f"{path}: some lines hold one dose, others three numbers; use one form throughout"
        )
    if not any(doses):
        raise ParameterError(f"{path} lists no dose above zero; it holds one dose (e/Å²) for each frame")
    return tuple(doses)


def _doses(words: list[str], place: str) -> list[float]:
    try:
        counts, dose = [int(word) for word in words[:-1]], float(words[-1])
    except ValueError:
        counts, dose = [], -1.0
    if not 0 <= dose <= MOST_DOSE or len(counts) not in {0, 2} or min(counts, default=1) < 1:
        raise ParameterError(
            f"{place}: '{' '.join(words)}' is neither one dose nor `frames 1 dose`, with the dose in e/Å²"
        )
    if counts and counts[0] > MOST_FRAMES:
        raise ParameterError(
            f"{place}: {counts[0]} frames are more than any movie has; see that the first number is right"
        )
    if counts and counts[1] != 1:
        raise ParameterError(
            f"{place}: {counts[1]} frames are to be added into one: write 1 there. What frames of EER movies are made "
            "of is told with --eer-grouping; those of others are aligned one by one, and sums of them with --group"
        )
    return [dose] * (counts[0] if counts else 1)
