"""The chain of a TIFF file's pages, walked to its end (tifffile stops at a broken link without an error)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.limits import MOST_FRAMES
from komad.formats.source import SourceFile

VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 16: 8, 18: 8}
"""Of the types that are read: byte, text, short, long, undefined, and BigTIFF's long8 and ifd8."""
LETTERS = {1: "B", 3: "H", 4: "I", 16: "Q", 18: "Q"}
"""The types that are whole numbers, as `struct` calls them."""
MOST_TAGS = 4096
"""What tifffile bears; cameras write some twenty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directory:
    """What a page says of itself: tags and their values, which are read when they are asked for."""

    source: SourceFile
    number: int
    """Of the page, counted from 1."""
    order: str
    """`<` or `>`."""
    entries: dict[int, tuple[int, int, bytes]]
    """Tag -> (type, number of values, the bytes of the entry that hold the values or their place)."""

    def numbers(self, tag: int, most: int) -> tuple[int, ...]:
        """Whole numbers of a tag, none where the page has no such tag.

        Raises
        ------
        MovieTruncatedError
            They lie behind the end of the file.
        MovieError
            They are of another type, or more than `most`.
        """
        kind, count, _ = self.entries.get(tag, (1, 0, b""))
        if kind not in LETTERS or count > most:
            raise MovieError(
                f"{self.place}, tag {tag}, has {count} values of type {kind}; at most {most} whole numbers belong there"
            )
        return struct.unpack(f"{self.order}{count}{LETTERS[kind]}", self._values(tag))

    def number_of(self, tag: int, default: int) -> int:
        """The one whole number of a tag, `default` where the page has no such tag; errors as `numbers`."""
        return (*self.numbers(tag, 1), default)[0]

    def data(self, tag: int, most: int) -> bytes:
        """Bytes of a tag that is text or undefined, none where the page has no such tag, or more than `most` of them.

        Raises
        ------
        MovieTruncatedError
            They lie behind the end of the file.
        """
        kind, count, _ = self.entries.get(tag, (1, 0, b""))
        return self._values(tag) if kind in {1, 2, 7} and count <= most else b""

    @property
    def place(self) -> str:
        """The page as messages call it."""
        return f"{self.source.path}: page {self.number}"

    def _values(self, tag: int) -> bytes:
        if tag not in self.entries:
            return b""
        kind, count, stored = self.entries[tag]
        n_bytes = VALUE_BYTES[kind] * count
        if n_bytes <= len(stored):
            return stored[:n_bytes]
        at = int.from_bytes(stored, "little" if self.order == "<" else "big")
        found = self.source.read(at, n_bytes)
        if len(found) < n_bytes:
            raise _cut_off(self.source, at, f"tag {tag} of page {self.number}")
        return found


def directories(source: SourceFile) -> Iterator[Directory]:
    """All pages of a TIFF file, in order.

    Raises
    ------
    MovieTruncatedError
        A page that a link names is not in the file, or there is no page yet.
    MovieError
        The chain runs in a circle or is too long, or a page has more tags than any has.
    """
    start = source.read(0, 16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = 43 in start[2:4]
    count_format, entry_format, link_format = (
        (f"{order}Q", f"{order}HHQ8s", f"{order}Q") if is_big else (f"{order}H", f"{order}HHI4s", f"{order}I")
    )

    def number(form: str, at: int, what: str) -> int:
        raw = source.read(at, struct.calcsize(form))
        if len(raw) < struct.calcsize(form):
            raise _cut_off(source, at, what)
        return int(struct.unpack(form, raw)[0])

    offset = number(link_format, 8 if is_big else 4, "the place of the first page")
    if offset == 0:
        raise MovieTruncatedError(f"{source.path} has no pages yet: its TIFF header names no first page")
    visited: set[int] = set()
    while offset:
        if offset in visited:
            raise MovieError(
                f"{source.path}: the chain of TIFF pages runs in a circle after page {len(visited)}"
            )
        visited.add(offset)
        if len(visited) > MOST_FRAMES:
            raise MovieError(f"{source.path} has more than {MOST_FRAMES} pages, which no movie has")
        n_tags = number(count_format, offset, f"page {len(visited)}")
        entries_at = offset + struct.calcsize(count_format)
        link_at = entries_at + n_tags * struct.calcsize(entry_format)
        offset = number(link_format, link_at, f"the end of the directory of page {len(visited)}")
        if n_tags > MOST_TAGS:
            raise MovieError(f"{source.path}: page {len(visited)} has {n_tags} tags, which no page has")
        raw = source.read(entries_at, link_at - entries_at)
        yield Directory(
            source=source,
            number=len(visited),
            order=order,
            entries={
                tag: (kind, count, stored)
                for tag, kind, count, stored in struct.iter_unpack(entry_format, raw)
            },
        )


def _cut_off(source: SourceFile, at: int, what: str) -> MovieTruncatedError:
    return MovieTruncatedError(
        f"{source.path} ends at byte {source.size_bytes}; {what} should be at byte {at}: it is still being written, or "
        "its copy was cut off"
    )


def parsed_xml(text: bytes) -> ET.Element:
    """Read the XML in a tag of a page.

    Raises
    ------
    ValueError
        It is none, or declares something: cameras do not, least of all entities.
    """
    if b"<!" in text:
        raise ValueError("it has declarations, as no camera writes")
    try:
        return ET.fromstring(text)  # noqa: S314 - no entities
    except (ET.ParseError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise ValueError(str(error)) from error
