"""Chooses NumPy or CuPy from the arrays given, and does once what the two do differently.

The science is written for both: NumPy's functions follow the arrays that they are given (CuPy implements NEP 13 and
18), and what does not follow is here: where arrays come from and go to, Fourier transforms, threads. With
`komad.arrays.gpu` the only importer of cupy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.fft

from komad.arrays.device_frames import DeviceFrames

__all__ = [
    "POOL_NAME",
    "Array",
    "DeviceFrames",
    "beside",
    "irfft2",
    "namespace",
    "parallel_map",
    "portions",
    "rfft2",
    "some_frames",
    "thread_count",
    "thread_pool",
    "to_host",
    "wait_for",
]

POOL_NAME = "komad-array"
"""Names of the threads of the process's pool begin so."""

CPU_PORTION_BYTES, GPU_PORTION_BYTES = 2**22, 2**28
"""What is computed in one go: what stays in a core's cache, and what keeps a GPU busy."""

Array = npt.NDArray[Any]
Result = TypeVar("Result")


def namespace(*arrays: Any) -> Any:
    """`cupy` when any of `arrays` lives on a GPU or is to be computed there, else `numpy`.

    CuPy is looked up only when something already imported it: without it no array can live on a GPU.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(array, (cupy.ndarray, DeviceFrames)) for array in arrays):
        return cupy
    return np


def beside(like: Any, array: Any, dtype: npt.DTypeLike | None = None) -> Any:
    """`array`, moved to where `like` is if it is not there; contiguous."""
    xp = namespace(like)
    return xp.ascontiguousarray(xp.asarray(array, dtype))


def to_host(array: Any) -> Any:
    """`array` as one of NumPy, waiting for what has still to be computed; one of NumPy is given as it is."""
    if namespace(array) is np:
        return array
    # Page-locked memory: a copy from the device is several times faster, and its pool serves the next movie.
    from cupyx import empty_pinned  # noqa: PLC0415 - the device is there only now

    return array.get(out=empty_pinned(array.shape, array.dtype), order="C") if array.ndim else array.get()


def wait_for(like: Any) -> None:
    """Return when all has been computed that was asked for where `like` is: on a GPU, calls return before."""
    if namespace(like) is not np:
        namespace(like).cuda.get_current_stream().synchronize()


def some_frames(frames: Any, first: int, last: int) -> Any:
    """Frames `first` to `last` - 1, contiguous and where they are computed; on a GPU valid until the next call."""
    if isinstance(frames, DeviceFrames):
        return frames.on_device(first, last)
    return namespace(frames).ascontiguousarray(frames[first:last])


def rfft2(pictures: Any, *, workers: int = 1) -> Any:
    """Fourier transform of real pictures (..., y, x) float32: (..., y, x // 2 + 1) complex64."""
    if namespace(pictures) is np:
        return scipy.fft.rfft2(pictures, workers=workers)
    return namespace(pictures).fft.rfft2(pictures)


def irfft2(spectra: Any, shape: tuple[int, int], *, workers: int = 1) -> Any:
    """Real pictures (..., *shape) from what `rfft2` gives; the spectra are overwritten."""
    if namespace(spectra) is np:
        return scipy.fft.irfft2(spectra, s=shape, workers=workers, overwrite_x=True)
    return namespace(spectra).fft.irfft2(spectra, s=shape)


def parallel_map(like: Any, function: Callable[..., Result], *items: Iterable[Any]) -> Iterator[Result]:
    """Results in order: computed by all threads for NumPy arrays, one after the other for those of a GPU.

    A GPU is itself the parallel machine, and a call returns before the device has finished.
    """
    if namespace(like) is np:
        return thread_pool().map(function, *items)
    return map(function, *items)


def portions(like: Any, n_items: int, bytes_each: int) -> list[slice]:
    """`range(n_items)` in pieces that are computed in one go where `like` is.

    `bytes_each` is what an item takes while it is computed. The pieces do not depend on the number of threads.
    """
    size = CPU_PORTION_BYTES if namespace(like) is np else GPU_PORTION_BYTES
    step = max(1, size // bytes_each)
    return [slice(first, min(first + step, n_items)) for first in range(0, n_items, step)]


def thread_count() -> int:
    """Threads that array code of this process may use: KOMAD_THREADS (set by the supervisor), else all cores."""
    return int(os.environ.get("KOMAD_THREADS", "0")) or len(os.sched_getaffinity(0))


@cache
def thread_pool() -> ThreadPoolExecutor:
    """The process's pool for loops that release the interpreter lock (numba kernels, codecs)."""
    return ThreadPoolExecutor(max_workers=thread_count(), thread_name_prefix=POOL_NAME)
