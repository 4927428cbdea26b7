"""Many inputs for one reader, in child processes that may die."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import make_input


@dataclass(slots=True)
class Result:
    """What came of the inputs of one reader."""

    reader: str
    n_inputs: int = 0
    seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    """'read', or the code of the error -> how many."""
    faults: dict[int, str] = field(default_factory=dict)
    """Number of an input -> what is wrong."""
    slowest_s: float = 0.0
    largest_bytes: int = 0

    def __str__(self) -> str:
        """One line of a table."""
        codes = ", ".join(f"{code} {count}" for code, count in self.codes.most_common())
        return (
            f"{self.reader:8} {self.n_inputs:7} inputs {self.seconds:6.0f} s, {len(self.faults)} faults; slowest "
            f"{1000 * self.slowest_s:.0f} ms, largest {self.largest_bytes / 2**20:.0f} MiB; {codes}"
        )


def run(reader: str, first: int, end: int, *, n_processes: int = 1, keep: Path | None = None) -> Result:
    """Read inputs `first` to before `end`; those with faults are left in `keep`."""
    started = time.monotonic()
    result = Result(reader)
    with ThreadPoolExecutor(n_processes) as pool:
        shares = [pool.submit(_share, reader, first + one, n_processes, end) for one in range(n_processes)]
    for share in shares:
        part = share.result()
        result.codes += part.codes
        result.faults |= part.faults
        result.slowest_s = max(result.slowest_s, part.slowest_s)
        result.largest_bytes = max(result.largest_bytes, part.largest_bytes)
    result.n_inputs, result.seconds = end - first, time.monotonic() - started
    for number in result.faults if keep else ():
        file = make_input(reader, number)
        keep.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
        (keep / f"{reader}_{number}_{file.name}").write_bytes(file.data)  # type: ignore[operator]
    return result


def _share(reader: str, first: int, step: int, end: int) -> Result:
    """One process after the other: the next one begins behind the input that ended the last."""
    result = Result(reader)
    while first < end:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            command = [
                sys.executable,
                "-m",
                "tests.fuzz.child",
                reader,
                str(first),
                str(step),
                str(end),
                folder,
            ]
            child = subprocess.run(command, capture_output=True, text=True, check=False)
        last = first - step
        for line in map(json.loads, child.stdout.splitlines()):
            if isinstance(line, int):
                last = line
            elif "fault" in line:
                result.faults[line["number"]] = line["fault"]
            else:
                result.codes += Counter(line["codes"])
                result.slowest_s, result.largest_bytes = line["slowest_s"], line["largest_bytes"]
        if child.returncode == 0:
            break
        if last < first:
            raise RuntimeError(f"the process for {reader} did not start:\n{child.stderr}")
        result.faults[last] = _ending(child.returncode)
        first = last + step
    return result


def _ending(code: int) -> str:
    if code == -signal.SIGALRM:
        return "hangs"
    return (
        f"ends the process by {signal.Signals(-code).name}" if code < 0 else f"ends the process with {code}"
    )
