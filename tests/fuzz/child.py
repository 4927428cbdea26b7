"""A process that reads damaged files, one after the other: its death is one of the things that are looked for.

`python -m tests.fuzz.child READER FIRST STEP END FOLDER` says on stdout what it found, a JSON object per line.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import komad
from komad.errors import KomadError
from komad.formats import limits
from tests.fuzz.corpus import CORPUS, File
from tests.fuzz.damage import SPECIAL, damaged
from tests.fuzz.readers import READERS

PLANTED = ("fine", "raise", "die", "leave", "slow", "fill", "outside", "shell", "hang")
HANG_S = 30
"""Wall time of one input before the process is ended by its alarm."""
SLOW_S = 2.0
"""Processor time of one input."""
PRETENDED_MEMORY_BYTES = 64 << 20
"""As much as the machine seems to have: the rules for what may be read then hold for small files."""
MOST_BYTES = PRETENDED_MEMORY_BYTES
"""Of Python's and NumPy's own allocations at a time, for one input; and this many times its length: parsed text."""
MOST_TIMES = 100
ADDRESS_SPACE_BYTES = 1 << 30
"""More than what the process had before; decoders that ask for more than that are found, too."""

FORBIDDEN = frozenset(
    {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class",
     "socket.connect", "socket.getaddrinfo", "urllib.Request", "os.remove", "os.rename", "os.mkdir", "os.symlink"}
)  # fmt: skip
"""What no reader does, as Python's audit events call it."""

_corpora: dict[str, list[File]] = {}


def make_input(reader: str, number: int) -> File:
    """The same file for the same number, in every process."""
    if reader == "planted":
        return File("planted", PLANTED[number].encode())
    if reader not in _corpora:
        _corpora[reader] = CORPUS[reader]()
    return damaged(_corpora[reader], SPECIAL[reader], Random(f"{reader} {number}"))


def main(reader: str, first: int, step: int, end: int, folder: Path) -> None:
    """Read every `step`th input from `first` to before `end`."""
    logging.disable()
    warnings.simplefilter("error")
    read = READERS[reader]
    _warm(reader, folder)
    limits.machine_memory_bytes = lambda: PRETENDED_MEMORY_BYTES  # type: ignore[assignment]
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESS_SPACE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    deeds = _watch_deeds(folder)
    tracemalloc.start()
    codes: Counter[str] = Counter()
    slowest, largest = 0.0, 0
    for number in range(first, end, step):
        file = make_input(reader, number)
        path = folder / file.name
        path.write_bytes(file.data)
        print(number, flush=True)  # noqa: T201 - to the parent
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        tracemalloc.reset_peak()
        before, started = tracemalloc.get_traced_memory()[0], time.process_time()
        fault = ""
        deeds.clear()
        try:
            read(path)
            codes["read"] += 1
        except KomadError as error:
            codes[error.code] += 1
            if _no_memory(error):
                fault = "memory: " + _last_line(error)
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            fault = "exception: " + _last_line(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds, used = time.process_time() - started, tracemalloc.get_traced_memory()[1] - before
        slowest, largest = max(slowest, seconds), max(largest, used)
        if deeds:
            fault = fault or f"deed: {deeds[0]}"
        if seconds > SLOW_S:
            fault = fault or f"slow: {seconds:.1f} s"
        if used > MOST_BYTES + MOST_TIMES * len(file.data):
            fault = fault or f"memory: {used >> 20} MiB for a file of {len(file.data)} bytes"
        if fault:
            print(json.dumps({"number": number, "fault": fault}), flush=True)  # noqa: T201
        path.unlink()
    print(json.dumps({"codes": codes, "slowest_s": slowest, "largest_bytes": largest}), flush=True)  # noqa: T201


def _warm(reader: str, folder: Path) -> None:
    """Read the valid files: what is imported and compiled on the way is not counted. They must be read."""
    for file in CORPUS[reader]() if reader in CORPUS else ():
        path = folder / file.name
        path.write_bytes(file.data)
        READERS[reader](path)
        path.unlink()


def _watch_deeds(folder: Path) -> list[str]:
    """A list that fills with what is done beyond reading in `folder`; what Python imports for itself is left out."""
    deeds: list[str] = []
    own = tuple(
        map(
            str,
            (
                folder,
                sys.prefix,
                sys.base_prefix,
                Path(komad.__file__).parent,
                "/proc/self",
                "/sys/fs/cgroup",
            ),
        )
    )

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in FORBIDDEN:
            deeds.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes | Path):
            path = os.fsdecode(arguments[0])
            if not path.startswith(own) or ".." in path:
                deeds.append(f"opens {path}")

    sys.addaudithook(note)
    return deeds


def _no_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _no_memory(error.__cause__))


def _last_line(error: BaseException) -> str:
    frames = [
        f"{Path(each.filename).name}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__}: {str(error)[:200]} at {' '.join(frames[-3:])}"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
