"""Archives: compress, write, sync and verify counts, per core; how much smaller they get; into them and out."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import blosc
import numpy as np

from komad.arrays import thread_count
from komad.config import Archive, Processing, WatchFolder
from komad.formats.movies import read_frames
from komad.formats.mrc_writer import write_mrc_movie
from komad.formats.mrcz import write_mrcz
from komad.repack.pack import pack
from komad.repack.unpack import Form, unpack

MOVIE_FRAMES = 40
FORMS = {
    "mode 0": Form(mode=0),
    "mode 1": Form(mode=1),
    "mode 101": Form(mode=101),
    "TIFF lzw": Form(tiff="lzw"),
    "TIFF zstd": Form(tiff="zstd"),
}
FRAMES, LENGTH, E_PER_PX = 10, 4096, 0.8
N_REPEATS = 5


def main() -> None:
    """Print megabytes of counts per second and core, and the size beside blosc's own."""
    frames = np.random.default_rng(0).poisson(E_PER_PX, (FRAMES, LENGTH, LENGTH)).astype(np.uint8)
    rates: dict[str, list[float]] = {"archive": [], "read": []}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "movie.mrcz"
        for _ in range(N_REPEATS):
            for name, work in (
                ("archive", lambda: _write(path, frames)),
                ("read", lambda: read_frames(path)),
            ):
                cpu = time.process_time()
                work()
                rates[name].append(frames.nbytes / 1e6 / (time.process_time() - cpu))
        size = path.stat().st_size
    plain = sum(
        len(blosc.compress(frame, 1, clevel=1, shuffle=blosc.BITSHUFFLE, cname="zstd")) for frame in frames
    )
    print(
        f"{FRAMES} frames of {LENGTH} x {LENGTH} counts, {E_PER_PX} e/px, {thread_count()} threads; MB per CPU second"
    )
    print(
        f"compress, write, sync, verify {np.median(rates['archive']):6.0f}; read {np.median(rates['read']):6.0f}"
    )
    print(
        f"size {size / frames.nbytes:.4f} of the counts; zstd level 1 through blosc {plain / frames.nbytes:.4f}"
    )
    _main_of_files()


def _main_of_files() -> None:
    """Print what `komad mrcz` makes of a movie on disk, file to file."""
    one = np.random.default_rng(0).poisson(E_PER_PX, (FRAMES, LENGTH, LENGTH)).clip(0, 15).astype(np.uint8)
    frames = np.concatenate([one] * (MOVIE_FRAMES // FRAMES))
    print(
        f"komad mrcz, {MOVIE_FRAMES} frames of {LENGTH} x {LENGTH} bytes, file to file; MB of counts per second"
    )
    with tempfile.TemporaryDirectory() as directory:
        movie, archive = Path(directory) / "movie.mrc", Path(directory) / "movie.mrcz"
        write_mrc_movie(movie, frames, 0, pixel_size_angstrom=0.83)
        settings = {"archive": Archive(), "folder": WatchFolder(directory=Path()), "processing": Processing()}
        works = {"pack": lambda: pack(movie, archive, **settings)} | {
            f"unpack, {name}": lambda form=form: unpack(archive, Path(directory) / "back", form)
            for name, form in FORMS.items()
        }
        for name, work in works.items():
            wall, cpu = [], []
            for _ in range(N_REPEATS):
                start, before = time.perf_counter(), time.process_time()
                work()
                wall.append(frames.nbytes / 1e6 / (time.perf_counter() - start))
                cpu.append(frames.nbytes / 1e6 / (time.process_time() - before))
            print(f"{name:18} {np.median(wall):6.0f} of wall time, {np.median(cpu):6.0f} of CPU time")


def _write(path: Path, frames: np.ndarray) -> None:
    write_mrcz(path, frames, pixel_size_angstrom=0.83, voltage_kv=300.0, cs_mm=2.7, metadata={})
