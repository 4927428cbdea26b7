"""Calls that fail on command (failing_calls.c), and what is left of a small session after it."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from komad.formats.mrcz import read_metadata

SOURCE = Path(__file__).with_name("failing_calls.c")
NUMBERS = struct.Struct("<4Q")
KINDS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
ENDLESS = 2**63


def compile_library(directory: Path) -> Path:
    """Compile the library; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = directory / "failing_calls.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Faults:
    """Counts the calls of processes that were started with `environment`, and says which of them fail."""

    def __init__(self, library: Path, counter: Path, directories: tuple[Path, ...], number: int) -> None:
        counter.write_bytes(bytes(NUMBERS.size))
        self._file = counter.open("r+b")
        self._memory = mmap.mmap(self._file.fileno(), NUMBERS.size)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULT_COUNTER": str(counter),
            "FAULT_DIRECTORIES": ":".join(map(str, directories)),
            "FAULT_ERRNO": str(number),
        }

    def arm(self, first: int = 0, n: int = ENDLESS - 1) -> None:
        """Count anew, from 0; `n` calls fail from number `first` on."""
        NUMBERS.pack_into(self._memory, 0, 0, first, min(first + n, ENDLESS), 0)

    def disarm(self) -> None:
        """Let no more calls fail."""
        struct.pack_into("<2Q", self._memory, 8, 0, 0)

    @property
    def n_calls(self) -> int:
        """Calls so far."""
        return int(NUMBERS.unpack_from(self._memory)[0])

    @property
    def n_failed(self) -> int:
        """Calls that failed so far."""
        return int(NUMBERS.unpack_from(self._memory)[3])

    def close(self) -> None:
        """Let go of the counter."""
        self._memory.close()
        self._file.close()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that processes inherit."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def results(output: Path) -> dict[str, object]:
    """Name -> content of every file of a session; times and what they take left out."""
    found: dict[str, object] = {}
    for path in sorted(output.iterdir()):
        assert not path.name.startswith("."), f"{path.name} was left behind"
        if path.suffix in {".mrc", ".png", ".star"}:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".mrcz":
            found[path.name] = {
                key: value for key, value in read_metadata(path).items() if key in {"movie", "stem", "crc32"}
            }
        elif path.suffix == ".jsonl":
            lines = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
            # An archive that was made again has another line in the manifest, and the last one counts.
            found[path.name] = lines[-1:] if path.name == "archives.jsonl" else lines
        else:
            found[path.name] = _timeless(json.loads(path.read_text()))
    return found


def _timeless(values: dict[str, object]) -> dict[str, object]:
    changing = {
        "at",
        "boot_id",
        "boottime_s",
        "timings_s",
        "written_at",
        "first_written_at",
        "last_written_at",
        "file_sizes_bytes",
    }
    return {key: value for key, value in values.items() if key not in changing}
