"""EER movies: electrons decoded and rendered per second, beside imagecodecs'."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from komad.arrays import thread_count
from komad.formats.movies import check_complete, read_frames, read_header
from komad.model import EerRendering
from komad.simulate.eer import RAW_FRAMES_PER_FRAME, write_eer_frames

LENGTH, E_PER_PX = 4096, 0.5625
"""Of a frame: 40 of them are 40 e/Å² at 0.75 Å."""
N_REPEATS = 5
FEW = 10
"""Raw frames that imagecodecs decodes."""


def main(n_frames: int) -> None:
    """Print electrons and megabytes of file per second, of all threads and of one core."""
    rng, counts = np.random.default_rng(0), np.empty((n_frames, LENGTH, LENGTH), np.uint8)
    for frame in counts:
        frame[:] = np.minimum(rng.poisson(E_PER_PX, frame.shape), RAW_FRAMES_PER_FRAME)
    n_electrons = int(counts.sum(dtype=np.int64))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "movie.eer"
        started = time.perf_counter()
        for _ in write_eer_frames(path, counts, pixel_size_angstrom=0.75):
            pass
        written_s, size = time.perf_counter() - started, path.stat().st_size
        del counts
        n_raw = n_frames * RAW_FRAMES_PER_FRAME
        print(
            f"{n_raw} raw frames of {LENGTH} x {LENGTH}, {n_electrons:,} electrons, {size / 1e6:.0f} MB, written in "
            f"{written_s:.1f} s; {thread_count()} threads"
        )
        check_complete(path)  # compiles
        print(
            f"header {1000 * _best(read_header, path)[0]:.0f} ms, check {1000 * _best(check_complete, path)[0]:.0f} ms"
        )
        ends = tuple(range(RAW_FRAMES_PER_FRAME, n_raw + 1, RAW_FRAMES_PER_FRAME))
        for upsampling in (1, 2):
            rendering = EerRendering(ends=ends, upsampling=upsampling)
            wall, cpu = _best(read_frames, path, rendering)
            print(
                f"{n_frames} frames, upsampling {upsampling}: {wall:.2f} s, {cpu:.2f} CPU s; "
                f"{size / 1e6 / wall:.0f} MB/s; per core {n_electrons / 1e6 / cpu:.0f} M electrons/s"
            )
        with tifffile.TiffFile(path) as tiff:
            pages = [tiff.pages[index] for index in range(FEW)]
            strips = list(tiff.filehandle.read_segments(*_where(pages)))
        for upsampling, superres in ((1, 0), (2, 1)):
            frame = np.zeros((upsampling * LENGTH,) * 2, np.uint8)
            _, cpu = _best(_peer, strips, frame, superres)
            share = n_electrons / n_raw * FEW / 1e6
            print(f"imagecodecs, upsampling {upsampling}: per core {share / cpu:.0f} M electrons/s")


def _best(work, *arguments: object) -> tuple[float, float]:
    """Least wall and processor time, s."""
    times = []
    for _ in range(N_REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work(*arguments)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def _where(pages: list[tifffile.TiffPage]) -> tuple[list[int], list[int]]:
    """(offsets, lengths) of the pages' strips."""
    return [page.dataoffsets[0] for page in pages], [page.databytecounts[0] for page in pages]


def _peer(strips: list[tuple[bytes, int]], frame: np.ndarray, superres: int) -> None:
    for strip, _ in strips:
        imagecodecs.eer_decode(strip, frame.shape, 7, 2, 2, superres=superres, out=frame)
