"""A fake microscope: writes simulated movies into a folder as cameras and copy programs do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Literal, get_args

from komad.errors import ParameterError
from komad.formats.atomic import make_directory
from komad.formats.images import write_mrc
from komad.simulate.beam_shifts import ShiftPattern, simulate_shifts
from komad.simulate.detector import aged, build_detector
from komad.simulate.eer import RAW_FRAMES_PER_FRAME, RAW_FRAMES_PER_SECOND
from komad.simulate.movie import SimulatedMovie, simulate_movie
from komad.simulate.sidecars import Sidecars, movie_stem, write_sidecar
from komad.simulate.spec import MovieSpec
from komad.simulate.truth import MotionTruth, truth_path, write_truth
from komad.simulate.write import SUFFIX, MovieFileFormat, write_frames, write_movie

Mode = Literal["rename", "grow", "slow-copy", "burst"]

GAIN_NAME = "gain.mrc"
TEMPORARY_SUFFIX = ".tmp"
HOLES = {"epu": ShiftPattern(n_across=3), "mdoc": ShiftPattern(n_across=3, pitch=2.5, jitter=0.06)}
"""Holes that are reached by image shift from each stage position, in the unit of the sidecars."""
BURST_MOVIES = 5
"""Movies that a burst drops at once."""
COPY_CHUNKS = 16
"""Pieces in which a slow copy arrives."""
WRITING_PART = 0.5
"""Of the interval, the time that growing and slow copying take."""


def run_session(
    directory: Path,
    spec: MovieSpec,
    n_movies: int,
    interval_s: float,
    *,
    mode: Mode = "rename",
    file_format: MovieFileFormat = "mrc",
    sidecars: Sidecars = "none",
    on_movie: Callable[[Path, MotionTruth], None] | None = None,
    stop: Event | None = None,
) -> list[Path]:
    """Simulate and write a session: the gain reference first, then a movie every `interval_s`, each with its truth.

    All movies come from one camera whose hot pixels slowly change; each has its own specimen, defocus and motion. The
    truth and the sidecar are there before the movie is.

    Parameters
    ----------
    directory
        Made when missing. Gets `gain.mrc`, movies, sidecars, `<stem>_truth.json`, which speaks of frames, in an
        EER movie of what RAW_FRAMES_PER_FRAME raw frames make.
    spec
        The first movie; later ones differ in seed and defocus.
    n_movies, interval_s
        How many movies, and seconds from one to the next; when simulating takes longer, the session is late.
    mode
        `rename`: a temporary name, then the final one. `grow`: frame by frame under the final name. `slow-copy`: in
        pieces under the final name, with pauses. `burst`: as `rename`, five at once, then a pause of five intervals.
    on_movie
        Called with path and truth when a movie is complete.
    stop
        When set, the session ends after the movie in hand; no half movie is left.

    Returns
    -------
    The movies written.
    """
    if mode not in get_args(Mode):
        raise ParameterError(f"unknown mode {mode!r}; there are {', '.join(get_args(Mode))}")
    stop = stop or Event()
    make_directory(directory)
    detector = build_detector(spec)
    write_mrc(directory / GAIN_NAME, detector.gain_reference, pixel_size_angstrom=spec.pixel_size_angstrom)
    holes = HOLES["mdoc" if sidecars == "mdoc" else "epu"]
    shifts = [(float(x), float(y)) for x, y in simulate_shifts(holes, n_movies, seed=spec.seed)[0]]
    written: list[Path] = []
    started = time.monotonic()
    for number in range(n_movies):
        movie_spec = _nth(spec, number)
        movie = simulate_movie(movie_spec, detector=detector)
        first_of_burst = number - number % BURST_MOVIES if mode == "burst" else number
        if stop.wait(max(0.0, started + first_of_burst * interval_s - time.monotonic())):
            break
        path = directory / (movie_stem(number + 1, sidecars, eer=file_format == "eer") + SUFFIX[file_format])
        write_truth(truth_path(path), movie.truth, movie_spec)
        if file_format == "eer":  # whose programs speak of raw frames
            raw = raw_frames(movie_spec)
            frame_time_s = 1 / RAW_FRAMES_PER_SECOND
            write_sidecar(
                path, raw, sidecars, gain_name=GAIN_NAME, frame_time_s=frame_time_s, shift=shifts[number]
            )
        else:
            write_sidecar(path, movie_spec, sidecars, gain_name=GAIN_NAME, shift=shifts[number])
        _write(path, movie, mode, file_format, pause_s=WRITING_PART * interval_s, stop=stop)
        written.append(path)
        if on_movie is not None:
            on_movie(path, movie.truth)
        detector = aged(detector, movie_spec)
    return written


def raw_frames(spec: MovieSpec) -> MovieSpec:
    """`spec` with the raw frames of an EER movie in place of its frames."""
    return replace(
        spec,
        n_frames=spec.n_frames * RAW_FRAMES_PER_FRAME,
        dose_per_frame=spec.dose_per_frame / RAW_FRAMES_PER_FRAME,
    )


def _nth(spec: MovieSpec, number: int) -> MovieSpec:
    """Spec of the session's movie `number`: another place on the grid, a slightly different defocus."""
    defocus = spec.defocus_um + 0.3 * spec.random("defocus", number).uniform(-1, 1) * (number > 0)
    return replace(spec, seed=spec.seed + number, defocus_um=float(defocus))


def _write(
    path: Path,
    movie: SimulatedMovie,
    mode: Mode,
    file_format: MovieFileFormat,
    *,
    pause_s: float,
    stop: Event,
) -> None:
    """Bring the movie to `path` in the manner of `mode`, taking `pause_s` for growing and copying."""
    pixel = movie.spec.pixel_size_angstrom
    if mode == "grow":
        for _ in write_frames(path, movie.frames, file_format, pixel_size_angstrom=pixel):
            stop.wait(pause_s / len(movie.frames))
        return
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    write_movie(temporary, movie.frames, file_format, pixel_size_angstrom=pixel)
    if mode == "slow-copy":
        _copy_slowly(temporary, path, pause_s / COPY_CHUNKS, stop)
        temporary.unlink()
    else:
        temporary.rename(path)


def _copy_slowly(source: Path, target: Path, pause_s: float, stop: Event) -> None:
    """Copy in pieces with pauses, and give the copy the source's times, as rsync and robocopy do."""
    chunk_bytes = -(-source.stat().st_size // COPY_CHUNKS)
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(chunk_bytes):
            writer.write(chunk)
            writer.flush()
            stop.wait(pause_s)
    shutil.copystat(source, target)
