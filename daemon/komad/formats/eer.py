"""EER movies of Falcon cameras: each page of a TIFF file lists the electrons of one raw frame.

Frames are sums of raw frames, and are made straight from the lists; raw frames are never kept. The first row of a page
is row 0, as in RELION, and the TIFF's Orientation tag is not followed (decision 0008).

Source: Thermo Fisher's description beside its EerReaderLib, version 2.2, and RELION 3.1's `renderEER`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_count
from komad.errors import MovieError, MovieShortError, MovieTruncatedError
from komad.formats.limits import MOST_FRAMES, refuse_too_large
from komad.formats.mrc import MAX_SIDE, PIXEL_SIZE_RANGE_ANGSTROM
from komad.formats.pages import Directory, directories, parsed_xml
from komad.formats.reader import MovieReader
from komad.formats.source import SourceFile, map_in_order
from komad.model import EerRendering, MovieFormat, MovieHeader

COMPRESSIONS = frozenset({65000, 65001, 65002})
"""Schemes that make a page of a TIFF file a raw frame."""
WIDTH, LENGTH, COMPRESSION, STRIP_OFFSETS, STRIP_BYTES, METADATA = 256, 257, 259, 273, 279, 65001
RUN_BITS, X_BITS, Y_BITS = 65007, 65008, 65009
"""Tags, the last three of compression 65002 alone."""
POSSIBLE_RUN_BITS, POSSIBLE_PLACE_BITS = range(4, 17), range(5)
"""Cameras write 7 or 8, and 2."""
MOST_METADATA_BYTES = 1 << 20
"""The camera's program writes some kilobytes."""
MOST_RAW_FRAMES_PER_FRAME = 65535
"""Counts of a frame are of 16 bits at most."""

ANNOUNCED = "raw_frames_announced"
"""Fact of a movie that has fewer raw frames than its metadata announce."""

COMPRESSION_FACT = "eer_compression"
PICTURES = "picture_pages"
"""Facts of every movie: the scheme of its lists, and the number of pages that hold no list."""

_NUMBERS = {
    "exposure_time_s": "exposureTime",
    "total_dose_e_per_px": "totalDose",
    "dose_rate_e_per_px_s": "meanDoseRate",
}
_TEXTS = {"serial_number": "serialNumber", "acquired_at": "timestamp"}
"""Name among the header's facts -> name in the file."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How a raw frame lists its electrons."""

    compression: int
    run_bits: int
    x_bits: int
    y_bits: int

    @property
    def empty_run_bits(self) -> int:
        """Bits of a run without an electron: RELION leaves out a place in 65000, too."""
        return self.run_bits + (self.x_bits + self.y_bits if self.compression == 65000 else 0)


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A page that lists electrons."""

    page: int
    """Counted from 1."""
    shape: tuple[int, int]
    """(ny, nx)."""
    coding: Coding
    strips: tuple[tuple[int, int], ...]
    """(offset, length) of each; one list goes through all of them."""

    @property
    def n_bytes(self) -> int:
        """Of the list."""
        return sum(length for _, length in self.strips)


def is_eer(source: SourceFile) -> bool:
    """Whether a TIFF file is an EER movie: one of its first two pages lists electrons (the first may be a picture).

    A picture alone with a movie's XML is one that is being written. A file that is damaged there is no EER movie:
    reading it as a TIFF movie tells what is wrong with it.
    """
    try:
        pages = directories(source)
        first = next(pages)
        compressions = [page.number_of(COMPRESSION, 1) for page in (first, *islice(pages, 1))]
        # Gain references of the same camera have such XML, too, but are compressed.
        is_movie = compressions == [1] and b"numberOfFrames" in first.data(METADATA, MOST_METADATA_BYTES)
    except MovieError:
        return False
    return is_movie or not COMPRESSIONS.isdisjoint(compressions)


class EerReader(MovieReader):
    """An EER movie, rendered as `rendering` says; as it lies, each raw frame is a frame, when that is left out."""

    def __init__(self, source: SourceFile, rendering: EerRendering | None = None) -> None:
        self._raw_frames: list[RawFrame] = []
        metadata, n_pictures = b"", 0
        for directory in directories(source):
            metadata = metadata or directory.data(METADATA, MOST_METADATA_BYTES)
            if directory.number_of(COMPRESSION, 1) in COMPRESSIONS:  # others hold pictures
                self._raw_frames.append(_raw_frame(directory))
            else:
                n_pictures += 1
        _refuse_different(source, self._raw_frames)
        self._told = _told(metadata)
        n_raw, (ny, nx), coding = len(self._raw_frames), self._raw_frames[0].shape, self._raw_frames[0].coding
        rendering = rendering or EerRendering(ends=tuple(range(1, n_raw + 1)))
        self._starts = (0, *rendering.ends)
        _refuse_unfitting(source, rendering, n_raw, coding)
        pixel_size = _pixel_size(self._told)
        header = MovieHeader(
            format=MovieFormat.EER,
            n_frames=len(rendering.ends),
            ny=ny * rendering.upsampling,
            nx=nx * rendering.upsampling,
            dtype="uint8" if max(rendering.raw_frames_per_frame) <= 255 else "uint16",
            pixel_size_angstrom=pixel_size and pixel_size / rendering.upsampling,
            eer=rendering,
            facts={
                COMPRESSION_FACT: coding.compression,
                PICTURES: n_pictures,
                **_facts(self._told, n_raw),
            },
        )
        self._zoom = rendering.upsampling.bit_length() - 1
        self._shortest = min(rendering.raw_frames_per_frame)
        super().__init__(source, header)

    def check_complete(self) -> None:
        """Check that the lists of all raw frames lie in the file, and that the last one is whole."""
        size = self._source.size_bytes
        stored = sum(raw.n_bytes for raw in self._raw_frames)
        if stored > size:
            # Or few bytes would be decoded again and again.
            raise MovieError(f"{self.path} has {size} bytes, its strips {stored}: they lie over each other")
        for index, raw in enumerate(self._raw_frames):
            if any(offset == 0 or length == 0 for offset, length in raw.strips):
                raise MovieTruncatedError(f"{self._place(index)} has strips that were never written")
            end = max(offset + length for offset, length in raw.strips)
            if end > size:
                raise MovieTruncatedError(
                    f"{self.path} ends at byte {size}, inside raw frame {index + 1} of {len(self._raw_frames)}: "
                    f"{end - size} bytes are missing"
                )
            self._refuse_too_short(index)
        ny, nx = self._raw_frames[-1].shape
        refuse_too_large(self.path, ny * nx)
        self._add(len(self._raw_frames) - 1, len(self._raw_frames), np.zeros((ny, nx), np.uint8), zoom=0)

    def check_finished(self) -> None:
        """Look whether there are all raw frames that the metadata announce."""
        if ANNOUNCED in self.header.facts:
            raise MovieShortError(
                f"{self.path} has {len(self._raw_frames)} raw frames, and its metadata announce "
                f"{self.header.facts[ANNOUNCED]}: it is still being written, or the exposure was stopped"
            )

    def _refuse_too_short(self, index: int) -> None:
        raw = self._raw_frames[index]
        full = (1 << raw.coding.run_bits) - 1
        needed = math.prod(raw.shape) // full * raw.coding.empty_run_bits // 8
        if raw.n_bytes < needed:
            raise MovieError(
                f"{self._place(index)} is damaged: its list has {raw.n_bytes} bytes, and {raw.shape[0]} x "
                f"{raw.shape[1]} pixels without any electron take {needed}"
            )

    def read_part(self, index: int, part: int, n_parts: int, out: npt.NDArray[Any]) -> None:  # noqa: ARG002
        """Sum a frame's raw frames; it is one piece."""
        out[:] = 0
        self._add(self._starts[index], self._starts[index + 1], out, self._zoom)

    def read_all(self, frames: npt.NDArray[Any], on_frame: Callable[[int], None] | None = None) -> None:
        """Decode all frames; where there are fewer than threads, several threads sum the raw frames of one."""
        n_frames = self.header.n_frames
        n_parts = min(math.ceil(thread_count() / n_frames), self._shortest)
        if n_parts == 1:
            super().read_all(frames, on_frame)
            return
        frames[:] = 0
        lock = Lock()

        def decode(task: int) -> None:
            index, part = divmod(task, n_parts)
            start, end = self._starts[index : index + 2]
            counts = np.zeros_like(frames[index])
            first, last = (start + (end - start) * each // n_parts for each in (part, part + 1))
            self._add(first, last, counts, self._zoom)
            with lock:
                np.add(frames[index], counts, out=frames[index])

        with closing(map_in_order(decode, n_frames * n_parts)) as done:
            for task, _ in enumerate(done):
                if on_frame is not None and (task + 1) % n_parts == 0:
                    on_frame(task // n_parts)

    def _add(self, first: int, last: int, out: npt.NDArray[Any], zoom: int) -> None:
        """Add raw frames `first` to `last` - 1 to `out`."""
        from komad.formats.electrons import (  # noqa: PLC0415 - numba is slow to import
            ENDS_EARLY,
            SPARE_WORDS,
            add_electrons,
        )

        raw_frames = self._raw_frames[first:last]
        # Each list begins at a whole word.
        ends = np.cumsum([0, *(raw.n_bytes // 8 + 1 for raw in raw_frames)])
        refuse_too_large(self.path, int(ends[-1]) * 8)
        words = np.zeros(int(ends[-1]) + SPARE_WORDS, "<u8")
        into = words.view(np.uint8)
        for index, (raw, word) in enumerate(zip(raw_frames, ends.tolist(), strict=False), start=first):
            at = word * 8
            for offset, length in raw.strips:
                n_read = self._source.read_into(into[at : at + length], offset)
                if n_read < length:
                    raise MovieTruncatedError(f"{self._place(index)} ends {length - n_read} bytes early")
                at += length
        starts = ends[:-1] * 64
        n_bits = np.array([raw.n_bytes * 8 for raw in raw_frames])
        coding = raw_frames[0].coding
        widths = coding.run_bits, coding.x_bits, coding.y_bits, coding.empty_run_bits
        words = words.astype(np.uint64, copy=False)
        damaged, reason = add_electrons(words, starts, starts + n_bits, widths, zoom, out)
        if damaged >= 0:
            what = "ends before" if reason == ENDS_EARLY else "has a run that passes"
            raise MovieError(f"{self._place(first + damaged)} is damaged: its list {what} the last pixel")

    def _place(self, index: int) -> str:
        """A raw frame as messages call it."""
        raw, n_raw = self._raw_frames[index], len(self._raw_frames)
        return f"{self.path}: raw frame {index + 1} of {n_raw} (page {raw.page}, byte {raw.strips[0][0]})"


def _raw_frame(directory: Directory) -> RawFrame:
    nx, ny = (directory.number_of(tag, 0) for tag in (WIDTH, LENGTH))
    if not 0 < min(ny, nx) <= max(ny, nx) < MAX_SIDE:
        raise MovieError(f"{directory.place} is {nx} x {ny} pixels, which no frame is; the file is damaged")
    offsets, lengths = (directory.numbers(tag, most=ny) for tag in (STRIP_OFFSETS, STRIP_BYTES))
    if not 0 < len(offsets) == len(lengths):
        raise MovieError(f"{directory.place} does not say where all its strips are")
    return RawFrame(
        page=directory.number,
        shape=(ny, nx),
        coding=_coding(directory),
        strips=tuple(zip(offsets, lengths, strict=True)),
    )


def _coding(directory: Directory) -> Coding:
    compression = directory.number_of(COMPRESSION, 1)
    if compression != 65002:
        return Coding(compression, 8 if compression == 65000 else 7, 2, 2)
    run, x, y = (
        directory.number_of(tag, default) for tag, default in ((RUN_BITS, 7), (X_BITS, 2), (Y_BITS, 2))
    )
    if run not in POSSIBLE_RUN_BITS or x not in POSSIBLE_PLACE_BITS or y not in POSSIBLE_PLACE_BITS:
        raise MovieError(
            f"{directory.place} has runs of {run} bits and places of {x} + {y} (tags 65007, 65008, 65009); "
            "known are runs of 4 to 16 and places of 0 to 4 each"
        )
    return Coding(compression, run, x, y)


def _refuse_different(source: SourceFile, raw_frames: list[RawFrame]) -> None:
    if not raw_frames:
        raise MovieTruncatedError(
            f"{source.path} has no raw frame, but a picture alone: it is still being written, or its copy was cut off"
        )
    first = raw_frames[0]
    for raw in raw_frames:
        if (raw.shape, raw.coding) != (first.shape, first.coding):
            said = (
                f"{each.shape[1]} x {each.shape[0]} pixels with compression {each.coding.compression} "
                f"({each.coding.run_bits} + {each.coding.x_bits} + {each.coding.y_bits} bits)"
                for each in (raw, first)
            )
            raise MovieError(
                f"{source.path}: page {raw.page} is {next(said)}, the first raw frame {next(said)}; they cannot be "
                "summed"
            )


def _refuse_unfitting(source: SourceFile, rendering: EerRendering, n_raw: int, coding: Coding) -> None:
    if rendering.n_raw_frames != n_raw:
        raise MovieError(
            f"{source.path} has {n_raw} raw frames, and is to be rendered from {rendering.n_raw_frames}: it is not the "
            "file that this was chosen for"
        )
    if any(start >= end for start, end in pairwise((0, *rendering.ends))):
        raise MovieError(f"{source.path} is to be rendered with frames of no raw frame: {rendering.ends}")
    longest = max(rendering.raw_frames_per_frame)
    if longest > MOST_RAW_FRAMES_PER_FRAME:
        raise MovieError(
            f"{source.path} is to be rendered with {longest} raw frames in a frame, and it counts to "
            f"{MOST_RAW_FRAMES_PER_FRAME}; make frames of fewer"
        )
    finest = 1 << min(coding.x_bits, coding.y_bits)
    if rendering.upsampling > finest:
        raise MovieError(
            f"{source.path} tells places to 1/{finest} of a pixel, and is to be rendered with an upsampling of "
            f"{rendering.upsampling}; set processing.eer_upsampling to {finest} or less"
        )


def _told(metadata: bytes) -> dict[str, str]:
    """Name -> value of the acquisition's XML; nothing where it cannot be read, as it can be done without."""
    try:
        root = parsed_xml(metadata)
    except ValueError:
        return {}
    return {item.get("name", ""): (item.text or "").strip() for item in root.iter("item")}


def _number(told: dict[str, str], name: str) -> float | None:
    """A finite number above zero."""
    try:
        value = float(told.get(name, ""))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _pixel_size(told: dict[str, str]) -> float | None:
    """Å per pixel of the camera at the specimen."""
    metres = _number(told, "sensorPixelSize.width")
    size = float(f"{(metres or 0.0) * 1e10:.6g}")
    low, high = PIXEL_SIZE_RANGE_ANGSTROM
    return size if low <= size <= high else None


def _facts(told: dict[str, str], n_raw: int) -> dict[str, float | str]:
    facts: dict[str, float | str] = {}
    announced = told.get("numberOfFrames", "")
    if announced.isdecimal() and n_raw < int(announced) <= MOST_FRAMES:
        facts[ANNOUNCED] = int(announced)
    for fact, name in _NUMBERS.items():
        if (value := _number(told, name)) is not None:
            facts[fact] = value
    if camera := told.get("commercialName") or told.get("cameraName"):
        facts["camera"] = camera
    return facts | {fact: told[name] for fact, name in _TEXTS.items() if told.get(name)}
