"""Chooses NumPy or CuPy from the arrays given. The only importer of cupy."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from types import ModuleType

Array = npt.NDArray[Any]


def namespace(*arrays: Array) -> ModuleType:
    """`cupy` when any of `arrays` lives on a GPU, else `numpy`.

    CuPy is looked up only when something already imported it: without it no array can live on a GPU.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(array, cupy.ndarray) for array in arrays):
        return cupy
    return np


def thread_count() -> int:
    """Threads that array code of this process may use: KOMAD_THREADS (set by the supervisor), else all cores."""
    return int(os.environ.get("KOMAD_THREADS", "0")) or len(os.sched_getaffinity(0))


@cache
def thread_pool() -> ThreadPoolExecutor:
    """The process's pool for loops that release the interpreter lock (numba kernels, codecs)."""
    return ThreadPoolExecutor(max_workers=thread_count(), thread_name_prefix="komad-array")
