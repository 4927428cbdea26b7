"""DM3 and DM4 files as DigitalMicrograph writes them: the tree of tags, built by the descriptions of the format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

DATA_TYPES = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}
STORED_AS = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10}


class Writer:
    """Encodes a tree of dicts (labelled), lists (without labels), numbers, texts, tuples (structures) and arrays."""

    def __init__(self, version: int, order: str) -> None:
        self.order = order
        self.version = version
        self.word = ">Q" if version == 4 else ">I"

    def file(self, tree: dict[str, Any]) -> bytes:
        """The whole file, with the zeros that end it."""
        body = self.group(tree)
        return (
            struct.pack(">I", self.version)
            + self.number(len(body) + 8)
            + struct.pack(">I", self.order == "<")
            + body
            + bytes(8)
        )

    def number(self, value: int) -> bytes:
        """A number of the tree itself."""
        return struct.pack(self.word, value)

    def group(self, entries: dict[str, Any] | list[Any]) -> bytes:
        """Entries of a group."""
        pairs = list(entries.items()) if isinstance(entries, dict) else [("", entry) for entry in entries]
        coded = b"".join(self.entry(label, value) for label, value in pairs)
        return bytes([isinstance(entries, dict), 0]) + self.number(len(pairs)) + coded

    def entry(self, label: str, value: Any) -> bytes:
        """One entry."""
        is_group = isinstance(value, dict | list)
        body = self.group(value) if is_group else self.value(value)
        length = self.number(len(body)) if self.version == 4 else b""
        name = label.encode("latin-1")
        return struct.pack(">BH", 20 if is_group else 21, len(name)) + name + length + body

    def value(self, value: Any) -> bytes:
        """A value behind its definition."""
        match value:
            case bool():
                definition, data = [8], struct.pack("b", value)
            case int():
                definition, data = [3], struct.pack(self.order + "i", value)
            case float():
                definition, data = [6], struct.pack(self.order + "f", value)
            case str():
                coded = value.encode("utf-16-le" if self.order == "<" else "utf-16-be")
                definition, data = [20, 4, len(coded) // 2], coded
            case tuple():
                definition = [15, 0, len(value), *(number for _ in value for number in (0, 6))]
                data = struct.pack(f"{self.order}{len(value)}f", *value)
            case np.ndarray():
                definition = [20, STORED_AS[value.dtype.str[1:]], value.size]
                data = value.astype(value.dtype.newbyteorder(self.order)).tobytes()
            case _:
                raise TypeError(value)
        return b"%%%%" + self.number(len(definition)) + b"".join(map(self.number, definition)) + data


def image(
    pixels: np.ndarray, *, scale: float = 0.083, units: str = "nm", data_type: int | None = None
) -> dict[str, Any]:
    """An entry of the list of images; pixels as they lie in the file, (ny, nx) or (n, ny, nx)."""
    axes = [{"Origin": 0.0, "Scale": scale, "Units": units}] * 2
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": {"Scale": 1.0},
                "Dimension": [*axes, {"Scale": 1.0, "Units": ""}][: pixels.ndim],
            },
            "Data": pixels,
            "DataType": DATA_TYPES[pixels.dtype.str[1:]] if data_type is None else data_type,
            "Dimensions": list(pixels.shape[::-1]),
            "PixelDepth": pixels.dtype.itemsize,
        },
        "ImageTags": {"Microscope Info": {"Voltage": 300000.0, "Name": "Titan"}, "range": (0.0, 1.5)},
        "Name": "as seen",
        "UniqueID": [1, 2, 3, 4],
    }


def thumbnail() -> dict[str, Any]:
    """The small coloured picture that comes first."""
    return image(np.full((3, 4), 0x00336699, "i4"), data_type=23)


def tree(*images: dict[str, Any], thumbnails: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """What is in a file."""
    return {
        "ApplicationBounds": (0.0, 0.0, 1000.0, 2000.0),
        "DocumentObjectList": [{"ImageSource": 0, "Name": "shown", "IsVisible": True}],
        "ImageList": list(images),
        "Thumbnails": [{"ImageIndex": index, "SourceSize_Pixels": (4.0, 3.0)} for index in thumbnails],
        "Image Behavior": {"ViewDisplayID": 8},
    }


def write_dm(
    path: Path, frames: np.ndarray, *, version: int = 4, order: str = "<", **calibration: Any
) -> Path:
    """A movie (n, ny, nx) or a picture (ny, nx) in MRC row order: the file has the rows from top to bottom."""
    pixels = frames[..., ::-1, :]
    path.write_bytes(Writer(version, order).file(tree(thumbnail(), image(pixels, **calibration))))
    return path
