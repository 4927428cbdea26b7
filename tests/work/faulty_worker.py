"""A worker that fails as movies named so tell it to; started by the supervisor in place of the real one."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from komad.work import assembly_line, device, worker

read_source, make_micrographs = assembly_line.read_source, assembly_line.make_micrographs


def once(stem: str, what: str) -> bool:
    """Tell whether this happens for the first time."""
    marker = Path(os.environ["MARKERS"]) / f"{stem}.{what}"
    if marker.exists():
        return False
    marker.touch()
    return True


def fail_as_told(stem: str, where: str) -> None:
    """Fail at this place if the movie's name asks for it."""
    if f"dies-in-{where}" in stem:
        os.kill(os.getpid(), signal.SIGKILL)
    if f"stops-in-{where}" in stem and once(stem, where):
        os.kill(os.getpid(), signal.SIGSTOP)
    if f"hangs-in-{where}" in stem and once(stem, where):
        time.sleep(1000)
    if f"waits-in-{where}" in stem and once(stem, where):
        time.sleep(3)
    if f"raises-once-in-{where}" in stem and once(stem, where):
        raise RuntimeError("a bug")
    if f"raises-in-{where}" in stem:
        raise RuntimeError("a bug")
    if f"fills-memory-in-{where}" in stem and once(stem, where):
        raise MemoryError("cannot allocate 9 GB")
    if f"breaks-device-in-{where}" in stem and once(stem, where):
        device.rfft2 = lambda picture: picture[:, :129]
        raise RuntimeError("the device gave nonsense")


def faulty_read(movie: Any, **settings: Any) -> Any:
    """Read, or fail."""
    fail_as_told(movie.stem, "read")
    return read_source(movie, **settings)


def faulty_micrographs(movie: Any, *arguments: Any, **settings: Any) -> Any:
    """Compute, or fail."""
    fail_as_told(movie.stem, "correct")
    return make_micrographs(movie, *arguments, **settings)


assembly_line.read_source = faulty_read
assembly_line.make_micrographs = faulty_micrographs
os._exit(worker.main(sys.argv[1:]))
