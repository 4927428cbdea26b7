"""Archives: compress, write, sync and verify counts, per core; and how much smaller they get."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import blosc
import numpy as np

from komad.arrays import thread_count
from komad.formats.movies import read_frames
from komad.formats.mrcz import write_mrcz

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


def _write(path: Path, frames: np.ndarray) -> None:
    write_mrcz(path, frames, pixel_size_angstrom=0.83, voltage_kv=300.0, cs_mm=2.7, metadata={})
