"""Compilation of hot loops, kept on disk from run to run. With `kernels.cpu.vector` the only importer of numba."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config as _numba_config
from numba.core.compiler_lock import global_compiler_lock

config: Any = _numba_config
"""numba's settings; its attributes are made at run time."""

KERNELS = Path(__file__).parent / "kernels"
"""Where loops of several files are compiled into one another."""

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(*, fastmath: Collection[str] = (), inline: bool = False) -> Callable[[Loop], Loop]:
    """Decorate a loop over NumPy arrays: compiled at its first call, without the interpreter lock.

    Parameters
    ----------
    fastmath
        LLVM's liberties with floating-point numbers that the loop can bear.
    inline
        Part of the loops that call it, never called from Python.
    """
    _find_room()
    options: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": set(fastmath)}
    if inline:
        options["inline"] = "always"
    return lambda loop: _compiled_once(numba.njit(**options)(loop))


def _compiled_once(dispatcher: Any) -> Any:
    """Have one process compile while others that need the same loop wait, and find it on the disk then."""
    compile_loop = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        # Numba's own lock first, as threads of this process take them in this order everywhere.
        with global_compiler_lock, _only_process(dispatcher):
            return compile_loop(signature)

    dispatcher.compile = compile_alone
    return dispatcher


@contextmanager
def _only_process(dispatcher: Any) -> Iterator[None]:
    """Hold the lock of a loop; a process that dies lets go of it. Where files cannot be locked there is none."""
    name = f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__qualname__}.lock"
    try:
        Path(config.CACHE_DIR).mkdir(parents=True, exist_ok=True)
        lock = os.open(Path(config.CACHE_DIR, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _find_room() -> None:
    """Choose where compiled code is kept.

    In NUMBA_CACHE_DIR (the daemon sets it to its state directory), beside the code, or in the user's cache. A system
    user without a home, running an installation of root's, has none of these: it compiles into a private folder that
    goes with the process.

    There, a folder for each version of the kernels. Numba looks for changes only in the file of the loop that is called
    from Python; loops and constants of other files that are compiled into it would stay those of the version before.
    """
    version = digest(KERNELS)
    if Path(config.CACHE_DIR).name != version:
        config.CACHE_DIR = str((Path(config.CACHE_DIR) if config.CACHE_DIR else _default_place()) / version)


def digest(folder: Path) -> str:
    """Twelve letters that tell the Python sources below a folder from those of any other version."""
    sources = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        sources.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return sources.hexdigest()[:12]


def _default_place() -> Path:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for place in (Path(__file__).parent / "__pycache__", user_cache / "komad"):
        if _is_writable(place):
            return place
    private = tempfile.mkdtemp(prefix="komad-numba-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Path(private)


def _is_writable(folder: Path) -> bool:
    """Whether files can be made there, or it can be made itself; permissions alone do not tell of read-only disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
