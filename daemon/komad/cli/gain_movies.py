"""Stack sums of movies for `komad gain`, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from komad import kernels
from komad.config import AcquisitionSettings
from komad.errors import MovieError, ReferenceFileError
from komad.formats import references
from komad.formats.movies import identify, read_frames, read_header
from komad.ingest import sidecars
from komad.ingest.acquisition import resolve
from komad.model import EerRendering, MovieFormat, ReferenceFile, References


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieSum:
    """The sum of a movie's frames as the camera wrote them."""

    path: Path
    total: npt.NDArray[Any]
    """(ny, nx), the dark reference subtracted if there is one."""
    n_frames: int
    frame_time_s: float | None

    @property
    def counts_per_px(self) -> float:
        """Mean of all frames together."""
        return float(self.total.mean(dtype=np.float64))

    @property
    def dose_rate_e_per_px_s(self) -> float | None:
        """Mean counts of a pixel per second; None when the time of a frame is unknown."""
        return self.counts_per_px / self.n_frames / self.frame_time_s if self.frame_time_s else None


def spread_over(movies: Sequence[Path], at_most: int) -> list[Path]:
    """Choose so many, evenly spread over those given."""
    places = np.linspace(0, len(movies) - 1, min(at_most, len(movies))).round().astype(int)
    return [movies[place] for place in places]


def format_of(movies: Sequence[Path]) -> MovieFormat | None:
    """Format of the first movie that can be read; None where none can."""
    for path in movies:
        with suppress(MovieError):
            return identify(path)
    return None


def movie_sums(
    movies: Sequence[Path],
    *,
    dark: ReferenceFile | None,
    console: Console,
    acquisition: AcquisitionSettings | None = None,
) -> Iterator[MovieSum]:
    """Read and sum movies; one that cannot be read is told on the console and passed over.

    Raises
    ------
    MovieError
        None can be read.
    ReferenceFileError
        Movies, or the dark reference, are of different sizes.
    """
    shape: tuple[int, int] | None = None
    for path in track(movies, "movies", console=console, transient=True):
        try:
            header = read_header(path)
            # All raw frames of an EER movie at once: one by one they would take a hundred times the memory.
            whole = None if header.eer is None else EerRendering(ends=(header.n_frames,))
            frames = read_frames(path, whole)
        except MovieError as error:
            console.print(f"{path.name} is left out: {error}", style="red", markup=False, soft_wrap=True)
            continue
        shape = shape or (header.ny, header.nx)
        if (header.ny, header.nx) != shape:
            raise ReferenceFileError(
                f"{path} is of {header.nx} x {header.ny} pixels, those before of {shape[1]} x {shape[0]}; give movies "
                "of one camera and mode"
            )
        total = kernels.sum_frames(frames)[0]
        offset = references.load(References(dark=dark), shape).dark
        known = resolve(header, acquisition or AcquisitionSettings(), sidecars.find(path, header))
        yield MovieSum(
            path=path,
            total=total if offset is None else total - header.n_frames * offset,
            n_frames=header.n_frames,
            frame_time_s=known.frame_time_s,
        )
    if shape is None:
        raise MovieError("none of the movies can be read")


def add_up(sums: Iterable[MovieSum]) -> tuple[npt.NDArray[np.float32], int]:
    """The sum of all sums (there is one at least), and how many they are."""
    total, n_movies = np.zeros((), np.float32), 0
    for each in sums:
        total = (total + each.total).astype(np.float32, copy=False)
        n_movies += 1
    return total, n_movies
