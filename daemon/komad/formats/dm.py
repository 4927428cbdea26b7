"""DM3 and DM4, the files of Gatan's DigitalMicrograph (GMS): a tree of tags, one of which holds the pixels.

The numbers of the tree are big-endian, of 4 bytes in DM3 and 8 in DM4; its values have the order that the header names.
The first row is the uppermost, as in TIFF, so rows are turned over. Source: the descriptions by G. Jefferis and
C. Boothroyd, found by looking at files; Gatan publishes none.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from komad.errors import MovieError, MovieTruncatedError
from komad.formats.mrc import MAX_SIDE, PIXEL_SIZE_RANGE_ANGSTROM
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile
from komad.model import MovieFormat, MovieHeader

GROUP, VALUE = 20, 21
"""Kinds of an entry."""
MARK = b"%%%%"
NUMBERS: Final = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "b", 9: "b", 10: "b", 11: "q", 12: "Q"}
"""Types of values, as `struct` calls them."""
STRUCT, STRING, ARRAY = 15, 18, 20
TYPES: Final = {
    1: "i2",
    2: "f4",
    6: "u1",
    7: "i4",
    9: "i1",
    10: "u2",
    11: "u4",
    12: "f8",
    14: "u1",
}
"""DataType of an image, as NumPy calls it. Colours (23) and complex numbers are none of a camera."""
COLOUR = 23
MOST_TAGS = 1 << 20
"""Files of cameras have some thousands."""
DEEPEST = 64
MOST_DEFINED = 1 << 8
"""Numbers that say what a value is; a structure of ten fields has 23."""
WINDOW_BYTES = 1 << 16
ANGSTROM = {"nm": 10.0, "µm": 1e4, "μm": 1e4, "um": 1e4, "pm": 0.01, "Å": 1.0, "A": 1.0, "m": 1e10}


def is_dm(start: bytes) -> bool:
    """Whether a file that begins so is DM3 or DM4: version, order of bytes, and the two flags of its first group."""
    at = {b"\0\0\0\3": 8, b"\0\0\0\4": 12}.get(start[:4])
    if at is None or len(start) < at + 6:
        return False
    order, is_sorted, is_open = struct.unpack_from(">I2B", start, at)
    return max(order, is_sorted, is_open) <= 1


@dataclass(frozen=True, slots=True)
class Stored:
    """An array in the file, which is read when it is asked for."""

    kind: int
    """As in NUMBERS; another number for arrays of structures and the like."""
    count: int
    offset: int


Tree = dict[str | int, Any]
"""Label, or place among those without one -> number, text, `Stored` or the tree of a group. None: not looked at."""


class DmReader(MovieReader):
    """A movie or a picture; the small picture that stands for it in a list of files is passed over."""

    def __init__(self, source: SourceFile) -> None:
        self._tags = _Tags(source)
        image = _image(self._tags.tree, source)
        data: Tree = image["ImageData"]
        self._data: Stored = data["Data"]
        self._stored = np.dtype(self._tags.order + TYPES[data["DataType"]])
        lengths = _lengths(data)
        super().__init__(
            source,
            MovieHeader(
                format=MovieFormat.DM,
                n_frames=lengths[2] if len(lengths) == 3 else 1,
                ny=lengths[1],
                nx=lengths[0],
                dtype="float32" if self._stored.kind == "f" else self._stored.newbyteorder("=").name,
                pixel_size_angstrom=self._pixel_size(data),
            ),
        )
        self._check_size()

    def _check_size(self) -> None:
        header = self.header
        if not (0 < header.nx < MAX_SIDE and 0 < header.ny < MAX_SIDE and header.n_frames > 0):
            raise MovieError(
                f"{self.path} says that its picture is {header.nx} x {header.ny} pixels and {header.n_frames} frames: "
                "the file is damaged"
            )
        stored = self._data.count * _bytes_of(self._data.kind)
        needed = math.prod(header.shape) * self._stored.itemsize
        if stored != needed:
            raise MovieError(
                f"{self.path} is damaged: its array of pixels has {stored} bytes, {header.n_frames} frames of "
                f"{header.nx} x {header.ny} pixels need {needed}"
            )

    def check_complete(self) -> None:
        """Nothing is left to look at: the tree behind the pixels was read to its end."""

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002 - whole
        """Read a frame, and turn its rows over."""
        frame = np.empty(out.shape, self._stored)
        missing = frame.nbytes - self._source.read_into(frame, self._data.offset + index * frame.nbytes)
        if missing:
            raise MovieTruncatedError(f"{self.path}: {self.frame_name(index)} ends {missing} bytes early")
        out[:] = frame[::-1]

    def _pixel_size(self, data: Tree) -> float | None:
        """Å, along x."""
        try:
            along_x = data["Calibrations"]["Dimension"][0]
            size = float(along_x["Scale"]) * ANGSTROM[self._tags.text(along_x["Units"])]
        except (KeyError, TypeError, ValueError):
            return None
        low, high = PIXEL_SIZE_RANGE_ANGSTROM
        return float(f"{size:.6g}") if low <= size <= high else None


def _image(tree: Tree, source: SourceFile) -> Tree:
    """Find the one image with pixels of a camera."""
    images = tree.get("ImageList")
    named = tree.get("Thumbnails")
    small = {each.get("ImageIndex") for each in named.values() if isinstance(each, dict)} if named else set()
    found = [
        image
        for place, image in (images.items() if isinstance(images, dict) else ())
        if place not in small and _is_data(image) and image["ImageData"]["DataType"] != COLOUR
    ]
    if len(found) != 1:
        raise MovieError(
            f"{source.path} holds {len(found) or 'no'} images beside its thumbnail; save the movie, or the reference, "
            "in a file of its own, or export it as TIFF or MRC"
        )
    data = found[0]["ImageData"]
    if data["DataType"] not in TYPES or data["Data"].kind not in NUMBERS:
        raise MovieError(
            f"{source.path} holds pixels of DataType {data['DataType']}, which are no counts; known are {sorted(TYPES)}"
        )
    return found[0]


def _is_data(image: Any) -> bool:
    """Whether an entry of the list of images is a picture or a stack of pictures."""
    data = image.get("ImageData") if isinstance(image, dict) else None
    return (
        isinstance(data, dict)
        and isinstance(data.get("Data"), Stored)
        and isinstance(data.get("DataType"), int)
        and len(_lengths(data)) in {2, 3}
    )


def _lengths(data: Mapping[str | int, Any]) -> list[int]:
    """(nx, ny) or (nx, ny, n_frames); without trailing ones, of which only two lengths need be there."""
    lengths = data.get("Dimensions")
    if not isinstance(lengths, dict) or not all(isinstance(length, int) for length in lengths.values()):
        return []
    found = list(lengths.values())
    while len(found) > 3 and found[-1] == 1:
        found.pop()
    return found


def _bytes_of(kind: int) -> int:
    """Bytes of a number."""
    return struct.calcsize("=" + NUMBERS[kind])


class _Tags:
    """Reads the tree of a file from its first to its last entry; arrays are passed over."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._window, self._window_at = b"", 0
        self._n_tags = 0
        self._at = 0
        self._is_4 = struct.unpack(">I", self._take(4))[0] == 4
        self._word = ">Q" if self._is_4 else ">I"
        self._number(self._word)  # bytes of the tree
        self.order = "<" if self._number(">I") else ">"
        self.tree = self._group(0)

    def text(self, value: Any) -> str:
        """A text, which is an array of 16-bit numbers mostly. Raises TypeError when it is none."""
        if isinstance(value, Stored) and value.kind == 4 and value.count < WINDOW_BYTES:
            raw = self._source.read(value.offset, 2 * value.count)
            value = raw.decode("utf-16-le" if self.order == "<" else "utf-16-be", errors="replace")
        if not isinstance(value, str):
            raise TypeError(value)
        return value.strip("\0 ")

    def _take(self, n_bytes: int) -> bytes:
        """The next bytes, by way of a window."""
        start = self._at - self._window_at
        if not 0 <= start <= len(self._window) - n_bytes:
            self._window = self._source.read(self._at, max(WINDOW_BYTES, n_bytes))
            self._window_at, start = self._at, 0
        taken = self._window[start : start + n_bytes]
        if len(taken) < n_bytes:
            raise MovieTruncatedError(
                f"{self._source.path} ends at byte {self._source.size_bytes}, inside its tree of tags: it is still "
                "being written, or its copy was cut off"
            )
        self._at += n_bytes
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _damaged(self, what: str) -> MovieError:
        return MovieError(f"{self._source.path} is damaged: {what} at byte {self._at} of its tree of tags")

    def _group(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise self._damaged(f"groups in {DEEPEST} groups")
        self._take(2)  # sorted, open
        n_entries = self._number(self._word)
        self._n_tags += n_entries
        if self._n_tags > MOST_TAGS:
            raise self._damaged(f"{self._n_tags} tags")
        tree: Tree = {}
        for place in range(n_entries):
            kind = self._take(1)[0]
            label = self._take(self._number(">H")).decode("latin-1")
            if self._is_4:
                self._number(">Q")  # bytes of the entry
            if kind not in {GROUP, VALUE}:
                raise self._damaged(f"an entry of kind {kind}")
            tree[label or place] = self._group(depth + 1) if kind == GROUP else self._value()
        return tree

    def _value(self) -> Any:
        if self._take(4) != MARK:
            raise self._damaged("a value without its mark")
        n_defined = self._number(self._word)
        if not 0 < n_defined <= MOST_DEFINED:
            raise self._damaged(f"a value of {n_defined} definitions")
        defined = iter([self._number(self._word) for _ in range(n_defined)])
        try:
            return self._read(next(defined), defined)
        except StopIteration:
            raise self._damaged("a value that is not defined to its end") from None

    def _read(self, kind: int, defined: Iterator[int]) -> Any:
        """Read a number or pass over what is larger. Raises StopIteration when its definition is too short."""
        if kind in NUMBERS:
            form = self.order + NUMBERS[kind]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if kind != ARRAY:
            self._skip(self._size(kind, defined))
            return None
        element = next(defined)
        item_bytes = self._size(element, defined)
        stored = Stored(kind=element, count=next(defined), offset=self._at)
        self._skip(stored.count * item_bytes)
        return stored

    def _size(self, kind: int, defined: Iterator[int]) -> int:
        """Bytes of a value."""
        if kind in NUMBERS:
            return _bytes_of(kind)
        if kind == STRING:
            return 2 * next(defined)
        if kind == ARRAY:
            item_bytes = self._size(next(defined), defined)
            return item_bytes * next(defined)
        if kind != STRUCT:
            raise self._damaged(f"a value of type {kind}")
        size = next(defined)  # of its name
        for _ in range(next(defined)):
            size += next(defined)  # of the name of the field
            size += self._size(next(defined), iter(()))
        return size

    def _skip(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > self._source.size_bytes:
            raise MovieTruncatedError(
                f"{self._source.path} ends at byte {self._source.size_bytes}, and its pixels or other arrays end at "
                f"byte {self._at}: it is still being written, or its copy was cut off"
            )
