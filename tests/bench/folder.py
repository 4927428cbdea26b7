"""`komad run` on a folder into which a 4096 x 4096 x 40 movie is renamed every 20 s."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from komad.simulate import MovieSpec
from tests.bench.measure import resident_bytes
from tests.bench.programs import prepare

CONFIG = """
state_directory = "state"
[[watch]]
directory = "camera"
[watch.acquisition]
pixel_size_angstrom = {pixel}
voltage_kv = {voltage}
dose_per_frame = {dose}
[watch.references]
gain = "gain.mrc"
[output]
directory = "out"
[log]
format = "json"
"""


def main(folder: Path, spec: MovieSpec, *, n_movies: int = 6, interval_s: float = 20.0) -> None:
    """Print the time from rename to the last file of each movie, and what the daemon used."""
    source = prepare(folder, spec)
    work = folder / "run"
    shutil.rmtree(work, ignore_errors=True)
    (work / "camera").mkdir(parents=True)
    shutil.copy(folder / "gain.mrc", work)
    (work / "komad.toml").write_text(
        CONFIG.format(pixel=spec.pixel_size_angstrom, voltage=spec.voltage_kv, dose=spec.dose_per_frame)
    )
    log = (work / "komad.log").open("w")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "komad", "run", "--config", str(work / "komad.toml")], stdout=log, stderr=log
    )
    family, renamed, finished, peak = psutil.Process(daemon.pid), {}, {}, 0
    time.sleep(8)
    start = time.monotonic()
    while len(finished) < n_movies and time.monotonic() - start < interval_s * n_movies + 120:
        due = min(n_movies, int((time.monotonic() - start) / interval_s) + 1)
        if len(renamed) < due:
            stem = f"movie_{len(renamed):03d}"
            temporary = work / "camera" / f".{stem}.mrc.tmp"
            shutil.copy(source, temporary)
            # Every movie has other bytes at its end, so that none is taken for a copy of another.
            with temporary.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([len(renamed)]))
            temporary.rename(work / "camera" / f"{stem}.mrc")
            renamed[stem] = time.monotonic()
        for stem, at in renamed.items():
            if stem not in finished and (work / "out" / f"{stem}.star").exists():
                finished[stem] = time.monotonic() - at
        peak = max(peak, resident_bytes(family))
        time.sleep(0.1)
    cpu = sum(sum(member.cpu_times()[:2]) for member in [family, *family.children(recursive=True)])
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(60)
    latency = list(finished.values())
    size = f"{spec.nx} x {spec.ny} x {spec.n_frames}"
    print(f"a folder, {n_movies} movies of {size}, one every {interval_s:g} s, with archive")
    if not latency:
        raise SystemExit((work / "komad.log").read_text()[-3000:])
    later = np.median(latency[1:])
    print(
        f"finished {len(latency)}; rename to last file: first {latency[0]:.1f} s, then median {later:.1f} s"
    )
    print(
        f"CPU {cpu / len(latency):.1f} s per movie; peak memory of daemon and worker {peak / 1e9:.2f} GB",
        flush=True,
    )
