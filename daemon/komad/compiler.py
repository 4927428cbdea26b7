"""Compilation of hot loops, kept on disk from run to run. With `kernels.cpu.vector` the only importer of numba."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config as _numba_config

config: Any = _numba_config
"""numba's settings; its attributes are made at run time."""

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
    return numba.njit(**options)


def _find_room() -> None:
    """Choose where compiled code is kept, where numba itself would give up.

    It takes NUMBA_CACHE_DIR (the daemon sets it to its state directory), the folder of the code, or the user's cache.
    A system user without a home, running an installation of root's, has none of these: it compiles into a private
    folder that goes with the process.
    """
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if config.CACHE_DIR or _is_writable(Path(__file__).parent) or _is_writable(user_cache):
        return
    private = tempfile.mkdtemp(prefix="komad-numba-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    config.CACHE_DIR = private


def _is_writable(folder: Path) -> bool:
    """Whether files can be made there, or it can be made itself; permissions alone do not tell of read-only disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
