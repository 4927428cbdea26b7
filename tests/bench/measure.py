"""Wall time, CPU time and peak memory of a command and all its children."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command used."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Largest resident memory of the command and its children together, sampled."""
    returncode: int
    output: str


def resident_bytes(process: psutil.Process) -> int:
    """Memory of a process and all its children."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end and measure it."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            try:
                peak = max(peak, resident_bytes(psutil.Process(process.pid)))
            except psutil.Error:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall_s=wall, cpu_s=cpu, peak_bytes=peak, returncode=process.returncode, output=output)
