"""Defects that Falcon's software writes into its gain references: XML in a tag of the TIFF file.

`<defects>` holds `<row>` and `<col>` with numbers and ranges (`7`, `7-9`, `7,9`), `<area>` with the corners x, y, x, y
that both belong to it, and points x, y under names that say whether the camera masks them. All count from 0 at the
upper left. Source: what IMOD and SerialEM read of it (their `CorDefParseFeiXml`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from komad.errors import MovieError
from komad.formats.defects import Box
from komad.formats.pages import directories, parsed_xml
from komad.formats.source import SourceFile
from komad.formats.tiff import SIGNATURES

TAG = 65100
MOST_BYTES = 1 << 20
"""A real list has some kilobytes."""
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
MOST_TOLD = 3
"""Entries that are named where they cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderDefects:
    """What the header of a gain reference lists as bad."""

    boxes: tuple[Box, ...] = ()
    """In pixels of the file, the first row being its own."""
    unreadable: tuple[str, ...] = ()
    """What could not be understood, in words."""


def read_header_defects(path: Path) -> HeaderDefects | None:
    """Read the defects in the header of a gain reference; None where it has none. What is damaged is no error."""
    try:
        with SourceFile(path) as source:
            if source.read(0, 4) not in SIGNATURES:
                return None
            page = next(directories(source))
            if TAG not in page.entries:
                return None
            return _parsed(page.data(TAG, MOST_BYTES).rstrip(b"\0"))
    except MovieError as error:
        return HeaderDefects(unreadable=(str(error),))


def _parsed(text: bytes) -> HeaderDefects:
    try:
        root = parsed_xml(text)
        if root.tag != "defects":
            raise ValueError(f"it is <{root.tag}>")
    except ValueError as error:
        return HeaderDefects(unreadable=(f"no XML of <defects>: {error}",))
    boxes: list[Box] = []
    unreadable: list[str] = []
    for element in root:
        try:
            boxes += list(_boxes(element.tag, element.text or ""))
        except ValueError:
            unreadable.append(f"<{element.tag}>{(element.text or '')[:40]}")
    more = len(unreadable) - MOST_TOLD
    told = (*unreadable[:MOST_TOLD], *([f"{more} more"] if more > 0 else []))
    return HeaderDefects(boxes=tuple(boxes), unreadable=told)


def _boxes(name: str, text: str) -> Iterator[Box]:
    """Raises ValueError when it is not understood."""
    ranges = list(_ranges(text))
    if name in {"row", "col"}:
        for first, last in ranges:
            if name == "row":
                yield -math.inf, first, math.inf, last + 1
            else:
                yield first, -math.inf, last + 1, math.inf
        return
    if any(first != last for first, last in ranges):
        raise ValueError(text)
    match name, [first for first, _ in ranges]:
        case str(), [x, y] if name.endswith("point"):
            yield x, y, x + 1, y + 1
        case str(), [x0, y0, x1, y1] if name.endswith(("area", "point")) and x0 <= x1 and y0 <= y1:
            yield x0, y0, x1 + 1, y1 + 1
        case _:
            raise ValueError(text)


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """(first, last) of each number or range; ValueError where there is none."""
    for word in re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text.strip())):
        matched = RANGE.fullmatch(word)
        if matched is None:
            raise ValueError(text)
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if last < first:
            raise ValueError(text)
        yield first, last
