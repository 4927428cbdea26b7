"""What is in a movie, whether it is whole, and single frames of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.errors import KomadError, MovieError, ParameterError
from komad.formats.movies import open_movie
from komad.formats.mrc import build_header, plain_layout
from komad.formats.mrc_writer import LABELS, mode_of
from komad.formats.mrcz import CHECKSUMS, MrczReader
from komad.formats.reader import LazyFrames, map_frames
from komad.formats.source import map_in_order


@dataclass(frozen=True, kw_only=True, slots=True)
class Info:
    """What a file says of itself, without a frame decoded."""

    file: str
    format: str
    n_frames: int
    ny: int
    nx: int
    dtype: str
    mrc_mode: int | None
    codec: str | None
    """Of an archive."""
    file_bytes: int
    pixel_bytes: int
    """Of all frames in memory."""
    pixel_size_angstrom: float | None
    voltage_kv: float | None
    dose_per_frame: float | None
    """e/Å²."""
    movie: str | None
    """File that an archive was made from."""
    checksums: bool
    """Whether each frame has one."""
    komad_version: str | None
    """Which komad made the archive; None for other programs' files."""
    gain_reference: bool
    """Whether one lies in the header."""
    metadata: Mapping[str, Any]
    """All that an archive keeps, its checksums aside."""


def read_info(path: Path) -> Info:
    """Read what a movie says of itself. Errors as `open_movie`."""
    with open_movie(path) as reader:
        header = reader.header
        metadata = dict(reader.metadata)
        metadata.pop(CHECKSUMS, None)
        kv, _ = reader.optics
        acquisition = _table(metadata, "acquisition")
        movie = _table(metadata, "movie") or _table(metadata, "packed_from")
        return Info(
            file=str(path),
            format=header.format.value,
            n_frames=header.n_frames,
            ny=header.ny,
            nx=header.nx,
            dtype=header.dtype,
            mrc_mode=header.mrc_mode,
            codec=reader.codec if isinstance(reader, MrczReader) else None,
            file_bytes=reader.status().st_size,
            pixel_bytes=reader.frame_bytes * header.n_frames,
            pixel_size_angstrom=header.pixel_size_angstrom,
            voltage_kv=kv,
            dose_per_frame=acquisition.get("dose_per_frame"),
            movie=movie.get("path") or movie.get("name"),
            checksums=isinstance(reader, MrczReader) and reader.has_checksums,
            komad_version=metadata.get("komad_version"),
            gain_reference="gain_reference" in header.facts,
            metadata=metadata,
        )


def _table(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = metadata.get(key)
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """What is the matter with a movie."""

    frames: tuple[int, ...]
    """Frames that are damaged, counted from 1."""
    unreachable: tuple[int, ...]
    """Frames that cannot be found any more, counted from 1."""
    texts: tuple[str, ...]


def find_damage(path: Path, on_frame: Callable[[int], None] = lambda _: None) -> Damage | None:
    """Read every frame of a movie from the disk and check it; None when all are whole.

    A frame of an archive is checked by its checksum, or, where there is none, by decoding it; one of another movie by
    decoding it.

    Raises
    ------
    MovieError
        It cannot be opened, or is no movie.
    """
    with open_movie(path) as reader:
        reader.forget_cached()
        n_frames, texts = reader.header.n_frames, list[str]()
        n_found = n_frames
        if isinstance(reader, MrczReader):
            n_found, problem = reader.count_chunks()
            texts += [] if problem is None else [str(problem)]
        else:
            try:
                reader.check_complete()
            except MovieError as error:
                texts.append(str(error))
        damaged = []

        def look(index: int) -> KomadError | None:
            try:
                reader.check_frame(index)
            except MovieError as error:
                return error
            return None

        looked = map(look, range(n_found)) if reader.in_order else map_in_order(look, n_found)
        for index, wrong in enumerate(looked):
            if wrong is not None:
                damaged.append(index + 1)
                texts.append(str(wrong))
            on_frame(index)
    unreachable = tuple(range(n_found + 1, n_frames + 1))
    if not (damaged or unreachable or texts):
        return None
    return Damage(frames=tuple(damaged), unreachable=unreachable, texts=tuple(texts))


def frame_as_mrc(path: Path, index: int) -> bytes:
    """Give a frame (0-based) as an MRC file of one picture.

    Raises
    ------
    ParameterError
        There is no such frame.
    MovieError
        It cannot be read.
    """
    with open_movie(path) as reader:
        if not 0 <= index < reader.header.n_frames:
            raise ParameterError(
                f"{path} has frames 1 to {reader.header.n_frames} (counted from 1), not {index + 1}"
            )
        return picture_as_mrc(reader.read_frame(index), reader.header.pixel_size_angstrom)


def sum_as_mrc(path: Path, on_frame: Callable[[int], None] = lambda _: None) -> bytes:
    """Give the plain sum of all frames as an MRC file of one picture: mode 1 or 6 for counts, mode 2 else.

    Errors as `open_movie` and `MovieReader.read_frame`.
    """
    with open_movie(path) as reader:
        reader.check_complete()
        is_whole = np.dtype(reader.header.dtype).kind in "iu"
        total = np.zeros((reader.header.ny, reader.header.nx), np.int64 if is_whole else np.float64)
        with closing(map_frames(lambda _, frame: frame, LazyFrames(reader))) as frames:
            for index, frame in enumerate(frames):
                total += frame
                on_frame(index)
        return picture_as_mrc(_smallest(total), reader.header.pixel_size_angstrom)


def _smallest(total: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if total.dtype.kind == "i":
        for dtype in (np.int16, np.uint16):
            if np.iinfo(dtype).min <= total.min() and total.max() <= np.iinfo(dtype).max:
                return total.astype(dtype)
    return total.astype(np.float32)


def picture_as_mrc(picture: npt.NDArray[Any], pixel_size_angstrom: float | None) -> bytes:
    """Give a picture (ny, nx) as an MRC file; whole numbers of 32 bits become floats."""
    if mode_of(picture.dtype) is None:
        picture = picture.astype(np.float32)
    mode = mode_of(picture.dtype)
    assert mode is not None
    layout = plain_layout(
        (1, *picture.shape),
        mode,
        pixel_size_angstrom=pixel_size_angstrom,
        is_unsigned=picture.dtype == np.uint8,
    )
    statistics = (float(picture.min()), float(picture.max()), float(picture.mean(dtype=np.float64)))
    header = build_header(layout, statistics=statistics, labels=LABELS)
    return bytes(header) + layout.pack(picture).tobytes()
