"""Many movies at a time: where each goes, whether there is room for it, and one that fails stops no other."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from komad.errors import DiskFullError, InterruptedWorkError, KomadError, OutputLostError, ParameterError
from komad.model.frame_names import as_one_file

Result = TypeVar("Result")

FrameDone = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A movie, and the file that it becomes."""

    source: Path
    target: Path
    problem: str = ""
    """Why it cannot be done, if that is known beforehand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[Result]):
    """What became of a movie: a result or an error."""

    source: Path
    result: Result | None = None
    error: KomadError | None = None


def plan(sources: Sequence[Path], suffix: str, *, output: Path | None, overwrite: bool) -> list[Task]:
    """Say where each movie goes: `<stem><suffix>` in `output` or beside it. Nothing that was given is ever replaced."""
    given = {Path(os.path.realpath(source)) for source in sources}
    taken: dict[Path, Path] = {}
    tasks = []
    for source in sources:
        target = (output or source.parent) / f"{as_one_file(source).stem}{suffix}"
        real = Path(os.path.realpath(target))
        if real in given:
            problem = f"{target} is one of the files that you gave: choose another folder with --output"
        elif real in taken:
            problem = f"{target} is made of {taken[real]} already: choose another folder for one of them with --output"
        elif target.exists() and not (overwrite and target.is_file()):
            problem = (
                f"{target} is there already: --overwrite replaces it"
                if target.is_file()
                else f"{target} is no file"
            )
        else:
            problem = ""
            taken[real] = source
        tasks.append(Task(source=source, target=target, problem=problem))
    return tasks


class Room:
    """Free space of file systems, and what was promised of it to movies that are being written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._promised: Counter[int] = Counter()

    @contextmanager
    def take(self, folder: Path, n_bytes: int) -> Iterator[None]:
        """Promise bytes of the file system of a folder, for as long as the block lasts.

        Raises
        ------
        DiskFullError
            So many are not free.
        """
        device = folder.stat().st_dev
        with self._lock:
            free = shutil.disk_usage(folder).free - self._promised[device]
            if n_bytes > free:
                raise DiskFullError(
                    f"{folder} has {max(0, free) / 1e9:.2f} GB free, and up to {n_bytes / 1e9:.2f} GB are needed: free "
                    "space, or choose another folder with --output"
                )
            self._promised[device] += n_bytes
        try:
            yield
        finally:
            with self._lock:
                self._promised[device] -= n_bytes


def run(
    sources: Sequence[Path],
    work: Callable[[Path, FrameDone], Result],
    *,
    jobs: int,
    on_frame: Callable[[Path, int], None] = lambda _, __: None,
) -> Generator[Outcome[Result], None, None]:
    """Do `work(source, frame_done)` for each movie, `jobs` at a time; gives what became of each as it ends.

    All share the process's thread pool for their frames, so more jobs take no more cores. When the consumer stops, by
    Ctrl-C too, those that are being written end at their next frame and leave nothing.

    Raises
    ------
    DiskFullError, OutputLostError
        Nothing more can be written; movies that were not begun are not begun.
    """
    stop = threading.Event()

    def one(source: Path) -> Outcome[Result]:
        def frame_done(index: int) -> None:
            if stop.is_set():
                raise InterruptedWorkError(f"{source}: stopped")
            on_frame(source, index)

        try:
            if stop.is_set():
                raise InterruptedWorkError(f"{source}: not begun")
            return Outcome(source=source, result=work(source, frame_done))
        except KomadError as error:
            return Outcome(source=source, error=error)
        except OSError as error:
            return Outcome(source=source, error=ParameterError(f"{source}: {error}"))

    pool = ThreadPoolExecutor(jobs, "komad-repack")
    try:
        for future in as_completed([pool.submit(one, source) for source in sources]):
            outcome = future.result()
            if isinstance(outcome.error, (DiskFullError, OutputLostError)):
                raise outcome.error
            yield outcome
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
