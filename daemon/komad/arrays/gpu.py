"""The GPU that this process computes on, through CuPy: how much memory it may take, and how counts get there.

A process sees one device only (CUDA_VISIBLE_DEVICES, set by the supervisor), number 0 for CUDA.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_count, thread_pool
from komad.errors import DeviceError

BUFFER_BYTES = 2**26
"""Of each page-locked buffer: long enough for the full speed of the bus."""
N_BUFFERS = 3
"""One is filled while another crosses the bus, and one more so that neither waits."""
CACHED_PLANS = 16
"""Of cuFFT: a movie has transforms of some ten shapes. Their work space is the pool's; a limit in bytes would not leave
a large plan out of the cache but refuse the transform."""
NO_MEMORY = 2
"""Status of the runtime and of the driver alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """What there is on the device."""

    name: str
    total_bytes: int
    budget_bytes: int
    """What this process may take."""


def open_gpu(memory_fraction: float) -> Gpu:
    """Make the device ready, and take no more than `memory_fraction` of its memory from now on.

    Raises
    ------
    DeviceError
        CuPy is missing, or it finds no device that it can use; says what to do.
    """
    cupy = _cupy()
    try:
        device = cupy.cuda.Device(0)
        device.use()
        total = int(device.mem_info[1])
        properties = cupy.cuda.runtime.getDeviceProperties(0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"the GPU cannot be used: {error}") from error
    budget = int(total * memory_fraction)
    cupy.get_default_memory_pool().set_limit(size=budget)
    return Gpu(name=properties["name"].decode(), total_bytes=total, budget_bytes=budget)


def available_bytes(gpu: Gpu) -> int:
    """What this process may still take; less than its budget when other programs hold the memory."""
    cupy = _cupy()
    pool = cupy.get_default_memory_pool()
    free = int(cupy.cuda.Device(0).mem_info[0]) + pool.free_bytes()
    return min(gpu.budget_bytes - pool.used_bytes(), free)


def computing() -> Any:
    """A context in which this thread's work is queued on a stream of its own; at its end all of it has been done.

    To be entered as often as one likes: memory that was freed on one stream does not serve another.
    """
    return _Computing(_cupy())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or page-locked memory, has nothing left for what was asked."""
    if isinstance(error, _cupy().cuda.memory.OutOfMemoryError):
        return True
    if type(error).__name__ == "CuFFTError":
        return "ALLOC_FAILED" in str(error)
    return _is_of_cuda(error) and getattr(error, "status", None) == NO_MEMORY


def is_broken(error: BaseException) -> bool:
    """Whether CUDA failed so that this process cannot use the device any more.

    Every later call then fails as well. After a call with wrong arguments it does not: the device is not to blame.
    """
    if not _is_of_cuda(error) or is_out_of_memory(error):
        return False
    try:
        _cupy().cuda.runtime.deviceSynchronize()
    except _cupy().cuda.runtime.CUDARuntimeError:
        return True
    return False


def _is_of_cuda(error: BaseException) -> bool:
    cuda = _cupy().cuda
    return isinstance(error, (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError))


def free_unused() -> None:
    """Give memory that is kept for later, page-locked memory too, and the plans of transforms back."""
    cupy = _cupy()
    cupy.fft.config.get_plan_cache().clear()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(
            f"CuPy cannot be imported ({error}): install it with `pip install 'komad[cuda12]'` or 'komad[cuda13]', "
            'as the driver allows, or set workers.devices = "cpu"'
        ) from error


class _Computing:
    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)

    def __enter__(self) -> None:
        # Plans are kept by each thread for itself.
        self._cupy.fft.config.get_plan_cache().set_size(CACHED_PLANS)
        self._stream.__enter__()

    def __exit__(self, *how: object) -> None:
        try:
            self._stream.synchronize()
        finally:
            self._stream.__exit__(*how)


class PinnedUploader:
    """Copies counts to the device on a stream of its own, through a ring of page-locked buffers.

    Pageable memory crosses the bus at a fraction of its speed, and only while the host waits. Filling a buffer is the
    host's work, by all threads; crossing the bus and computing go on beside it.
    """

    def __init__(self) -> None:
        """Take the page-locked memory. Raises DeviceError when there is none."""
        self._cupy = _cupy()
        try:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._ring = [self._new_buffer() for _ in range(N_BUFFERS)]
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(f"no page-locked memory for transfers to the GPU: {error}") from error
        self._turn = 0

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """New memory on the device."""
        return self._cupy.empty(shape, dtype)

    def asarray(self, array: npt.NDArray[Any]) -> Any:
        """A copy on the device."""
        return self._cupy.asarray(array)

    def mark(self) -> Any:
        """Stands for all that has been launched until now."""
        return self._cupy.cuda.get_current_stream().record()

    def copy(self, source: npt.NDArray[Any], target: Any, *, after: Any) -> None:
        """Queue a copy, both C-contiguous, that waits for a mark; what is launched from now on waits for it."""
        self._stream.wait_event(after)
        counts = source.reshape(-1).view(np.uint8)
        start = target.data.ptr
        try:
            for first in range(0, counts.size, BUFFER_BYTES):
                part = counts[first : first + BUFFER_BYTES]
                buffer, left = self._ring[self._turn]
                left.synchronize()
                _fill(buffer, part)
                self._cupy.cuda.runtime.memcpyAsync(
                    start + first,
                    buffer.ctypes.data,
                    part.size,
                    self._cupy.cuda.runtime.memcpyHostToDevice,
                    self._stream.ptr,
                )
                left.record(self._stream)
                self._turn = (self._turn + 1) % N_BUFFERS
        finally:
            # Also when it fails half-way: the memory of `target` may be given to something else then.
            self._cupy.cuda.get_current_stream().wait_event(self._stream.record())

    def _new_buffer(self) -> tuple[npt.NDArray[np.uint8], Any]:
        """Page-locked memory, and the event after which it is free again."""
        memory = self._cupy.cuda.alloc_pinned_memory(BUFFER_BYTES)
        buffer = np.frombuffer(memory, np.uint8, BUFFER_BYTES)
        return buffer, self._cupy.cuda.Event(disable_timing=True)


def _fill(buffer: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint8]) -> None:
    """Copy with all threads: one alone is slower than the bus."""
    step = -(-counts.size // thread_count())

    def part(first: int) -> None:
        np.copyto(buffer[: counts.size][first : first + step], counts[first : first + step])

    list(thread_pool().map(part, range(0, counts.size, step)))
