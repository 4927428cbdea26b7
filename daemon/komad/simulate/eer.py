"""Write EER movies as the Falcon 4 does: BigTIFF, one page for each raw frame, one list of electrons on each page.

A raw frame is a stream of bits, lowest first. Each electron is a run length (empty pixels since the last electron, row
after row) and the place within its pixel; a run of all ones stands for so many empty pixels and no electron. The stream
ends with the run that reaches the last pixel.

Source: Thermo Fisher's description beside its EerReaderLib; where programs differ, RELION 3.1's `renderEER`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt

from komad.compiler import compiled
from komad.errors import ParameterError
from komad.formats.source import map_in_order

Compression = Literal[65000, 65001, 65002]
"""65000: runs of 8 bits, each with 4 bits of position, also a run without an electron; 65001: runs of 7 bits, one
without an electron has no position; 65002: as 65001 with widths of its own."""

RAW_FRAMES_PER_FRAME = 25
"""Raw frames that the counts of one simulated frame are spread over; no pixel of a frame can count more."""
RAW_FRAMES_PER_SECOND = 248.0
"""Of a Falcon 4."""
WORD_BYTES = 8
"""The camera fills whole words."""
ACQUIRED_AT = "2024-06-11T12:00:00.000+02:00"

SHORT, LONG, UNDEFINED, LONG8 = 3, 4, 7, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Coding:
    """How the electrons of a raw frame are written."""

    compression: Compression = 65001
    run_bits: int = 7
    y_bits: int = 2
    x_bits: int = 2

    @property
    def empty_run_bits(self) -> int:
        """Bits of a run without an electron."""
        return self.run_bits + (self.y_bits + self.x_bits if self.compression == 65000 else 0)


CODINGS: Mapping[Compression, Coding] = {
    65000: Coding(compression=65000, run_bits=8),
    65001: Coding(),
    65002: Coding(compression=65002, run_bits=6, y_bits=1, x_bits=3),
}
"""The first two are fixed; files of 65002 say their widths themselves, and those here are no other's."""


def write_eer(
    path: Path,
    raw_frames: Iterable[npt.NDArray[np.integer[Any]]],
    shape: tuple[int, int],
    *,
    coding: Coding = CODINGS[65001],
    metadata: Mapping[str, tuple[object, str]] | None = None,
    final_image: npt.NDArray[np.uint16] | None = None,
    big: bool = True,
) -> None:
    """Write raw frames of electrons, whose places are known exactly, as an EER movie.

    Parameters
    ----------
    path
        Written over when it is there.
    raw_frames
        For each raw frame (n_electrons, 2) as (y, x), whole numbers in sub-pixels: an electron at (y, x) hits pixel
        (y >> y_bits, x >> x_bits) in MRC row order, and with the two bits of most files lands at (y >> 1, x >> 1) of a
        frame that is rendered at twice the camera's pixels. In any order, one electron in a pixel at most.
    shape
        (ny, nx) of the camera's own pixels.
    coding
        Compression and widths; one of CODINGS, or another one of 65002.
    metadata
        Name -> (value, unit or '') for the acquisition's XML (tag 65001 of the first page), as from `acquisition`; no
        XML when left out.
    final_image
        (ny, nx) the picture that the camera's program puts before the raw frames, on a page without compression.
    big
        BigTIFF, as cameras write; else classic TIFF.

    Raises
    ------
    ParameterError
        An electron lies outside the camera, or two lie in one pixel.
    """
    ny, nx = shape
    with _EerFile.open(path, shape, coding, metadata, big=big) as file:
        if final_image is not None:
            file.add_picture(final_image)
        for index, electrons in enumerate(raw_frames):
            y, x = np.asarray(electrons, np.int64).reshape(-1, 2).T
            pixels = (y >> coding.y_bits) * nx + (x >> coding.x_bits)
            order = np.argsort(pixels, kind="stable")
            is_inside = (y >= 0) & (y < ny << coding.y_bits) & (x >= 0) & (x < nx << coding.x_bits)
            if not is_inside.all() or (np.diff(pixels[order]) == 0).any():
                raise ParameterError(
                    f"raw frame {index} has electrons outside {ny} x {nx} pixels, or two in one pixel"
                )
            places = (y % (1 << coding.y_bits) << coding.x_bits) | x % (1 << coding.x_bits)
            file.add(encode(pixels[order], places[order].astype(np.uint8), ny * nx, coding))


def write_eer_frames(
    path: Path,
    frames: npt.NDArray[np.uint8 | np.uint16],
    *,
    pixel_size_angstrom: float,
    coding: Coding = CODINGS[65001],
    raw_frames_per_frame: int = RAW_FRAMES_PER_FRAME,
    seed: int = 0,
) -> Iterator[int]:
    """Write counts (n_frames, ny, nx) as an EER movie, giving the number of frames that the file holds after each.

    The counts of a pixel are spread over that many of the frame's raw frames, drawn at random, and each electron gets a
    random place within its pixel: rendered in groups of `raw_frames_per_frame` and at the camera's own pixels, the
    movie gives exactly the counts again. At finer pixels it has no finer details. Memory: about 15 bytes for each
    electron of some frames; equal arguments give equal files.

    Raises
    ------
    ParameterError
        A count is larger than `raw_frames_per_frame`: the camera sees one electron per pixel and raw frame at most.
    """
    if frames.max() > raw_frames_per_frame:
        raise ParameterError(
            f"{path.name}: a pixel counts {frames.max()}, and {raw_frames_per_frame} raw frames hold one electron of "
            f"it each; simulate with max_count = {raw_frames_per_frame}"
        )
    metadata = acquisition(
        n_raw_frames=len(frames) * raw_frames_per_frame,
        shape=frames.shape[1:],
        total_dose_e_per_px=float(frames.mean(dtype=np.float64) * len(frames)),
        pixel_size_angstrom=pixel_size_angstrom,
    )

    def encoded(index: int) -> list[bytes]:
        rng = np.random.default_rng([seed, index])
        return _encode_frame(frames[index], raw_frames_per_frame, rng, coding)

    with (
        _EerFile.open(path, frames.shape[1:], coding, metadata) as file,
        closing(map_in_order(encoded, len(frames))) as strips,
    ):
        for index, raw_frames in enumerate(strips, start=1):
            for strip in raw_frames:
                file.add(strip)
            file.flush()
            yield index


def acquisition(
    *, n_raw_frames: int, shape: tuple[int, ...], total_dose_e_per_px: float, pixel_size_angstrom: float
) -> dict[str, tuple[object, str]]:
    """Name -> (value, unit) of what the camera's program writes about an acquisition."""
    exposure_s = n_raw_frames / RAW_FRAMES_PER_SECOND
    return {
        "acquisitionID": ("komad-simulated", ""),
        "cameraName": ("BM-Falcon", ""),
        "commercialName": ("Falcon 4i", ""),
        "exposureTime": (f"{exposure_s:.6f}", "s"),
        "meanDoseRate": (f"{total_dose_e_per_px / exposure_s:.6f}", "e/pixel/s"),
        "numberOfFrames": (n_raw_frames, ""),
        "sensorImageHeight": (shape[0], "pixel"),
        "sensorImageWidth": (shape[1], "pixel"),
        "sensorPixelSize.height": (f"{pixel_size_angstrom * 1e-10:.6g}", "m"),
        "sensorPixelSize.width": (f"{pixel_size_angstrom * 1e-10:.6g}", "m"),
        "serialNumber": ("SIM0001", ""),
        "timestamp": (ACQUIRED_AT, ""),
        "totalDose": (f"{total_dose_e_per_px:.6f}", "e/pixel"),
    }


def encode(
    pixels: npt.NDArray[np.int64], places: npt.NDArray[np.uint8], n_pixels: int, coding: Coding
) -> bytes:
    """Strip of a raw frame.

    Parameters
    ----------
    pixels
        (n_electrons,) y * nx + x, strictly growing.
    places
        (n_electrons,) sub-pixel y, then sub-pixel x in the lowest bits, counted from the pixel's first corner.
    """
    # An electron is one code, and there are no more empty runs than fit into all pixels; the last run comes on top.
    code_bits = coding.run_bits + coding.y_bits + coding.x_bits
    most_codes = len(pixels) + n_pixels // ((1 << coding.run_bits) - 1) + 1
    strip = np.zeros(-(-(most_codes * code_bits) // (8 * WORD_BYTES)) * WORD_BYTES, np.uint8)
    n_bits = _encode(
        pixels, places, n_pixels, coding.run_bits, coding.y_bits, coding.x_bits, coding.empty_run_bits, strip
    )
    return strip[: -(-n_bits // (8 * WORD_BYTES)) * WORD_BYTES].tobytes()


@compiled(inline=True)
def _put(strip: npt.NDArray[np.uint8], position: int, value: int) -> None:
    """Write the bits of `value` from bit `position` on; what is there is zero."""
    at, value = position >> 3, value << (position & 7)
    while value:
        strip[at] |= np.uint8(value & 0xFF)
        value >>= 8
        at += 1


@compiled()
def _encode(
    pixels: npt.NDArray[np.int64],
    places: npt.NDArray[np.uint8],
    n_pixels: int,
    run_bits: int,
    y_bits: int,
    x_bits: int,
    empty_run_bits: int,
    strip: npt.NDArray[np.uint8],
) -> int:
    """Fill `strip`; gives the number of bits."""
    full = (1 << run_bits) - 1
    centre = (1 << x_bits >> 1) | (1 << y_bits >> 1 << x_bits)  # places are stored from the pixel's middle
    at, last = 0, 0
    for i in range(pixels.size):
        pixel = int(pixels[i])
        run = pixel - last
        while run >= full:
            _put(strip, at, full)
            at += empty_run_bits
            run -= full
        _put(strip, at, run | ((places[i] ^ centre) << run_bits))
        at += run_bits + y_bits + x_bits
        last = pixel + 1
    run = n_pixels - last
    while run >= full:
        _put(strip, at, full)
        at += empty_run_bits
        run -= full
        if run == 0:
            return at
    _put(strip, at, run)
    return at + empty_run_bits


def _encode_frame(
    counts: npt.NDArray[Any],  # (ny, nx)
    n_raw_frames: int,
    rng: np.random.Generator,
    coding: Coding,
) -> list[bytes]:
    """(n_raw_frames,) strips whose sum is `counts`."""
    flat = counts.reshape(-1)
    chance = rng.integers(0, 1 << 32, int(flat.sum(dtype=np.int64)), dtype=np.uint32)
    raw_frame = np.empty(chance.size, np.uint16)
    ends = np.cumsum(_choose(flat, n_raw_frames, chance, raw_frame))
    pixels, places = np.empty(chance.size, np.int64), np.empty(chance.size, np.uint8)
    n_places = 1 << (coding.y_bits + coding.x_bits)
    _deal(flat, raw_frame, chance, n_places, np.concatenate([[0], ends[:-1]]), pixels, places)
    return [
        encode(pixels[start:end], places[start:end], flat.size, coding)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


@compiled()
def _choose(
    counts: npt.NDArray[Any],
    n_raw_frames: int,
    chance: npt.NDArray[np.uint32],
    raw_frame: npt.NDArray[np.uint16],
) -> npt.NDArray[np.int64]:
    """Draw for each electron a raw frame, for those of one pixel different ones (Floyd's way); their numbers."""
    n_electrons = np.zeros(n_raw_frames, np.int64)
    start = 0
    for pixel in range(counts.size):
        count = np.int64(counts[pixel])
        for i in range(count):
            last = n_raw_frames - count + i
            drawn = (np.int64(chance[start + i] >> 8) * (last + 1)) >> 24
            for j in range(i):
                if raw_frame[start + j] == drawn:
                    drawn = last
                    break
            raw_frame[start + i] = drawn
            n_electrons[drawn] += 1
        start += int(count)
    return n_electrons


@compiled()
def _deal(
    counts: npt.NDArray[Any],
    raw_frame: npt.NDArray[np.uint16],
    chance: npt.NDArray[np.uint32],
    n_places: int,
    ends: npt.NDArray[np.int64],
    pixels: npt.NDArray[np.int64],
    places: npt.NDArray[np.uint8],
) -> None:
    """Sort the electrons by raw frame, whose first one goes to `ends`; `ends` is counted up in place."""
    i = 0
    for pixel in range(counts.size):
        for _ in range(counts[pixel]):
            at = ends[raw_frame[i]]
            pixels[at] = pixel
            places[at] = chance[i] & (n_places - 1)
            ends[raw_frame[i]] = at + 1
            i += 1


class _EerFile:
    """A TIFF file that grows page by page; its chain of pages is closed after each."""

    def __init__(
        self,
        file: IO[bytes],
        shape: tuple[int, ...],
        coding: Coding,
        metadata: Mapping[str, tuple[object, str]] | None,
        *,
        big: bool,
    ) -> None:
        self._file = file
        self._shape = shape
        self._coding = coding
        self._metadata = None if metadata is None else _xml(metadata)
        self._big = big
        self._link_at = 8 if big else 4
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))
        self._size = file.tell()

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        shape: tuple[int, ...],
        coding: Coding,
        metadata: Mapping[str, tuple[object, str]] | None,
        *,
        big: bool = True,
    ) -> Generator[_EerFile]:
        """Make the file, and close it at the end."""
        with path.open("wb") as file:
            yield cls(file, shape, coding, metadata, big=big)

    def add(self, strip: bytes) -> None:
        """Append a raw frame."""
        tags: dict[int, tuple[int, int]] = {259: (SHORT, self._coding.compression)}
        if self._coding.compression == 65002:
            widths = self._coding.run_bits, self._coding.x_bits, self._coding.y_bits
            tags |= {tag: (SHORT, width) for tag, width in zip((65007, 65008, 65009), widths, strict=True)}
        self._add_page(strip, tags)

    def add_picture(self, picture: npt.NDArray[np.uint16]) -> None:
        """Append a page without compression."""
        self._add_page(np.ascontiguousarray(picture, "<u2").tobytes(), {258: (SHORT, 16), 259: (SHORT, 1)})

    def flush(self) -> None:
        """Let others see what is written."""
        self._file.flush()

    def _add_page(self, strip: bytes, tags: dict[int, tuple[int, int]]) -> None:
        offset_type = LONG8 if self._big else LONG
        ny, nx = self._shape
        values: dict[int, tuple[int, int | bytes]] = {
            256: (LONG, nx),
            257: (LONG, ny),
            262: (SHORT, 1),
            273: (offset_type, self._append(strip)),
            277: (SHORT, 1),
            278: (LONG, ny),
            279: (offset_type, len(strip)),
            **tags,
        }
        if self._metadata is not None:
            values[65001] = (UNDEFINED, self._metadata)
            self._metadata = None  # on the first page only
        word = "Q" if self._big else "I"
        directory = struct.pack("<Q" if self._big else "<H", len(values))
        for tag, (kind, value) in sorted(values.items()):
            count = len(value) if isinstance(value, bytes) else 1
            stored = self._append(value) if isinstance(value, bytes) else value
            directory += struct.pack(f"<HH{word}{word}", tag, kind, count, stored)
        at = self._append(directory + struct.pack(f"<{word}", 0))
        self._file.seek(self._link_at)
        self._file.write(struct.pack(f"<{word}", at))
        self._file.seek(self._size)
        self._link_at = at + len(directory)

    def _append(self, data: bytes) -> int:
        """Write at the next even place, and tell it."""
        at = self._size + self._size % 2
        self._file.write(bytes(at - self._size) + data)
        self._size = at + len(data)
        return at


def _xml(metadata: Mapping[str, tuple[object, str]]) -> bytes:
    items = "".join(
        f"<item name={quoteattr(name)}{f' unit={quoteattr(unit)}' if unit else ''}>{escape(str(value))}</item>"
        for name, (value, unit) in metadata.items()
    )
    return f"<metadata>{items}</metadata>".encode()
