"""A device without a device: what komad uses of CuPy, played by the host, with CuPy's strictness.

Arrays of the device are a type of their own that does not mix with NumPy's, as CuPy's do not: what forgets to bring an
array to the other side fails here as it would there. Kernels are the real sources, compiled for the host. Memory is
counted, and ends where the test says. What CuPy really has is checked in tests/gpu/test_names.py where it is installed.
"""

from __future__ import annotations

import re
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy as np
import numpy.lib.mixins
import scipy.fft

from tests.kernels import host_cuda

FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
    abs absolute add all angle any arange argmax argmin argsort array array_equal asarray
    ascontiguousarray astype atleast_1d bincount broadcast_to ceil clip concatenate conj convolve copy
    cos count_nonzero cumsum diag diff divide dot dtype einsum empty empty_like equal exp expand_dims
    eye flatnonzero flip float32 float64 floor full full_like greater hypot imag int32 int64 intp
    isfinite isnan less linspace log log1p logical_and logical_not logical_or matmul max maximum mean
    median meshgrid min minimum moveaxis multiply nan nan_to_num negative newaxis nonzero not_equal ones
    ones_like outer pad pi power prod ptp ravel real reciprocal remainder repeat reshape rint roll rot90
    round sin sort sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tensordot
    tile transpose trunc uint16 uint32 uint8 unique unravel_index var vstack where zeros zeros_like
    complex64 bool_ inf int8 int16 floor_divide less_equal greater_equal invert bitwise_and bitwise_or
    true_divide
    """,
    )
)
"""What of NumPy may be used; each must exist in CuPy with the same meaning."""


class ImplicitTransferError(TypeError):
    """An array of one side was used on the other."""


class OutOfMemoryError(MemoryError):
    """The device has no memory left."""


class Memory:
    """What the arrays that live take."""

    def __init__(self) -> None:
        self.used = self.peak = 0
        self.limit: int | None = None
        self._counted: set[int] = set()

    def take(self, array: np.ndarray[Any, Any]) -> None:
        """Count an array that owns its memory, once and for as long as it lives."""
        if array.base is not None or not array.nbytes or id(array) in self._counted:
            return
        if self.limit is not None and self.used + array.nbytes > self.limit:
            raise OutOfMemoryError(f"{array.nbytes} bytes asked, {self.used} of {self.limit} used")
        self.used += array.nbytes
        self.peak = max(self.peak, self.used)
        self._counted.add(id(array))
        weakref.finalize(array, self._free, id(array), array.nbytes)

    def _free(self, array: int, n_bytes: int) -> None:
        self._counted.remove(array)
        self.used -= n_bytes


MEMORY = Memory()
COUNTS: Counter[str] = Counter()
"""What a real device would be asked for: `kernels` of komad, `operations` of CuPy that launch something (at least one
kernel each), transfers and their bytes, and `waits` of the host."""
VIEWS = frozenset(
    re.findall(
        r"\w+",
        """
    reshape ravel view swapaxes squeeze moveaxis expand_dims transpose broadcast_to dtype atleast_1d empty empty_like
    arange asarray ascontiguousarray
    """,
    )
)
"""Launch nothing, or hardly ever."""
WAITING = {"bincount": 2, "nonzero": 1, "flatnonzero": 1}
"""How often CuPy itself waits for a number."""


def _count(what: str, n: int = 1) -> None:
    COUNTS[what] += n


def _count_function(name: str) -> None:
    COUNTS["operations"] += name not in VIEWS
    COUNTS["waits"] += WAITING.get(name, 0)


class DeviceArray(numpy.lib.mixins.NDArrayOperatorsMixin):
    """An array of the device."""

    __slots__ = ("__weakref__", "host")

    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)
        MEMORY.take(self.host)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ImplicitTransferError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        _strict(inputs)
        _strict(kwargs.get("out", ()))
        assert "where" not in kwargs, "CuPy's ufuncs have no where="
        assert ufunc.__name__ in FUNCTIONS, f"{ufunc.__name__} is not in tests/device.py"
        _count("operations")
        return _wrapped(getattr(ufunc, method)(*map(_bare, inputs), **_bare(kwargs)), kwargs.get("out"))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        assert function.__name__ in FUNCTIONS, f"{function.__name__} is not in tests/device.py"
        _count_function(function.__name__)
        if function.__name__ == "where":
            assert len(args) in {1, 3}
        _strict(args)
        return _wrapped(function(*_bare(args), **_bare(kwargs)), kwargs.get("out"))

    def __getitem__(self, key: Any) -> Any:
        found = self.host[_bare(key)]
        _count(
            "operations",
            isinstance(found, np.ndarray) and found.size > 0 and not np.may_share_memory(found, self.host),
        )
        return DeviceArray(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        _strict([value])
        _count("operations")
        self.host[_bare(key)] = _bare(value)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (DeviceArray(row) for row in self.host)

    def __float__(self) -> float:
        self._told()
        return float(self.host)

    def __int__(self) -> int:
        self._told()
        return int(self.host)

    def __bool__(self) -> bool:
        self._told()
        return bool(self.host)

    def _told(self) -> None:
        COUNTS.update({"transfers from": 1, "bytes from": self.nbytes, "waits": 1})

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        """The array on the host."""
        self._told()
        if out is None:
            return self.host.copy()
        assert out.shape == self.shape
        assert out.dtype == self.dtype
        out[...] = self.host
        return out

    def set(self, array: Any) -> None:
        """Copy from the host."""
        self.host[...] = array

    @property
    def data(self) -> Any:
        """Its address."""
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        if name in {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "strides"}:
            return getattr(self.host, name)
        if name in {"T", "real", "imag"}:
            return DeviceArray(getattr(self.host, name))
        if name in METHODS:
            return lambda *args, **kwargs: _method(self, name, args, kwargs)
        raise AttributeError(f"{name} is not in tests/device.py")


METHODS = frozenset(
    re.findall(
        r"\w+",
        """
    all any argmax argmin argsort astype clip conj copy cumsum dot fill flatten max mean min nonzero
    prod ravel repeat reshape round sort squeeze std sum swapaxes take transpose var view
    """,
    )
)


def _method(array: DeviceArray, name: str, args: Any, kwargs: Any) -> Any:
    _strict(args)
    _count_function(name)
    return _wrapped(getattr(array.host, name)(*_bare(args), **_bare(kwargs)), kwargs.get("out"))


def _bare(it: Any) -> Any:
    """The same with host arrays in place of those of the device."""
    if isinstance(it, DeviceArray):
        return it.host
    if isinstance(it, (tuple, list)):
        return type(it)(map(_bare, it))
    if isinstance(it, dict):
        return {key: _bare(value) for key, value in it.items()}
    return it


def _wrapped(it: Any, out: Any = None) -> Any:
    """Results are of the device, numbers too."""
    if out is not None:
        return out[0] if isinstance(out, tuple) else out
    if isinstance(it, (tuple, list)):
        return type(it)(map(_wrapped, it))
    return DeviceArray(it) if isinstance(it, (np.ndarray, np.generic)) else it


def _strict(arguments: Any) -> None:
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            raise ImplicitTransferError("an array of the host among those of the device")
        if isinstance(argument, (tuple, list)):
            _strict(argument)


class _RawModule:
    """The real source, compiled for the host."""

    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        self._library = host_cuda.library(code, tuple(it for it in options if it.startswith("-D")))

    def get_function(self, name: str) -> Any:
        """A kernel; the grid is one loop."""

        def run(_grid: Any, _block: Any, arguments: tuple[Any, ...]) -> None:
            for argument in arguments:
                assert not isinstance(argument, np.ndarray), "a kernel was given an array of the host"
            _count("kernels")
            host_cuda.call(self._library, name, *_bare(arguments))

        return run


class _Event:
    """The work of a stream up to where it was recorded."""

    _stream: _Stream | None = None

    def synchronize(self) -> None:
        if self._stream is not None:
            self._stream._run(self._place)

    def record(self, stream: Any = None) -> None:
        self._stream = stream or _current()
        self._place = len(self._stream._queue) + self._stream._n_done
        self._at = perf_counter()


class _Stream:
    """What is computed is done at once, but copies as late as events and waits allow: nobody may count on less."""

    def __init__(self, **_: Any) -> None:
        self.ptr = id(self)
        self._queue: list[Any] = []
        self._n_done = 0
        _STREAMS[self.ptr] = self

    def __enter__(self) -> Self:
        _THREAD.streams = [*getattr(_THREAD, "streams", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        assert _THREAD.streams.pop() is self

    def synchronize(self) -> None:
        COUNTS["waits"] += 1
        _device_synchronize()
        self._run(len(self._queue) + self._n_done)

    def wait_event(self, event: Any) -> None:
        event.synchronize()

    def record(self, event: Any = None) -> _Event:
        event = event or _Event()
        event.record(self)
        return event

    def _run(self, place: int) -> None:
        while self._n_done < place:
            self._queue.pop(0)()
            self._n_done += 1


_STREAMS: weakref.WeakValueDictionary[int, _Stream] = weakref.WeakValueDictionary()
_THREAD = threading.local()
_DEFAULT_STREAM = _Stream()


def _current() -> _Stream:
    return (getattr(_THREAD, "streams", None) or [_DEFAULT_STREAM])[-1]


class _Device:
    id = 0
    mem_info = (2**33, 2**33)

    def __init__(self, *_: Any) -> None: ...
    def use(self) -> None: ...


STICKY = frozenset({214, 700, 702, 710, 714, 715, 716, 717, 718, 719})
"""Errors after which every call fails, until the process ends."""
_LOST: list[int] = []


class CUDARuntimeError(RuntimeError):
    """CUDA failed."""

    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status
        if status in STICKY:
            _LOST.append(status)


class CUDADriverError(CUDARuntimeError):
    """The driver failed."""


def _device_synchronize() -> None:
    if _LOST:
        raise CUDARuntimeError(_LOST[0])


def _memcpy(target: int, source: int, n_bytes: int, kind: int, stream: int) -> None:
    import ctypes

    COUNTS["transfers to"] += 1
    COUNTS["bytes to"] += n_bytes
    _STREAMS[stream]._queue.append(lambda: ctypes.memmove(target, source, n_bytes))


class _PlanCache:
    """cuFFT's plans by shape; a plan that needs more than may be kept is refused, as CuPy does it."""

    WORK_BYTES_PER_BYTE = 1

    def __init__(self) -> None:
        self._memsize = -1

    def set_size(self, size: int) -> None: ...
    def clear(self) -> None: ...

    def set_memsize(self, memsize: int) -> None:
        self._memsize = memsize

    def planned(self, array: Any) -> None:
        if array.nbytes * self.WORK_BYTES_PER_BYTE > self._memsize > 0:
            raise RuntimeError("the plan memsize is too large")


def _created(name: str) -> Any:
    function = getattr(np, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        # CuPy's own functions take arrays of the device; only these bring one there.
        if name not in {"asarray", "array"}:
            _strict(args)
        _count_function(name)
        if name == "ascontiguousarray":
            assert isinstance(args[0], DeviceArray)
        return _wrapped(function(*_bare(args), **_bare(kwargs)), kwargs.get("out"))

    return run


def _asarray(array: Any, dtype: Any = None) -> DeviceArray:
    if isinstance(array, DeviceArray) and (dtype is None or np.dtype(dtype) == array.dtype):
        return array
    if not isinstance(array, DeviceArray):
        COUNTS.update({"transfers to": 1, "bytes to": np.asarray(array).nbytes})
    return DeviceArray(np.array(_bare(array), dtype))  # always a copy: another memory


class _Cupy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(f"{name} is not in tests/device.py")
        it = getattr(np, name)
        return _created(name) if callable(it) and not isinstance(it, type) else it


def _fake() -> tuple[ModuleType, ModuleType]:
    cupy: Any = _Cupy("cupy")
    cupy.__version__ = "0"
    cupy.ndarray = DeviceArray
    cupy.asarray = _asarray
    plans = _PlanCache()

    def rfft2(a: DeviceArray) -> DeviceArray:
        plans.planned(a)
        _count("operations")
        return DeviceArray(scipy.fft.rfft2(a.host))

    def irfft2(a: DeviceArray, s: tuple[int, int]) -> DeviceArray:
        plans.planned(a)
        _count("operations", 2)  # CuPy's copy, which cuFFT overwrites
        return DeviceArray(scipy.fft.irfft2(a.host, s=s))

    cupy.fft = SimpleNamespace(
        rfft2=rfft2,
        irfft2=irfft2,
        config=SimpleNamespace(get_plan_cache=lambda: plans),
    )
    cupy.RawModule = _RawModule
    runtime = SimpleNamespace(
        memcpyAsync=_memcpy,
        memcpyHostToDevice=1,
        deviceSynchronize=_device_synchronize,
        getDeviceProperties=lambda _: {"name": b"host", "major": 9, "minor": 0},
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12040,
        CUDARuntimeError=CUDARuntimeError,
    )
    cupy.cuda = SimpleNamespace(
        Device=_Device,
        Stream=_Stream,
        Event=lambda **_: _Event(),
        get_current_stream=_current,
        get_elapsed_time=lambda begin, end: 1e3 * (end._at - begin._at),
        alloc_pinned_memory=bytearray,
        runtime=runtime,
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    pool = SimpleNamespace(
        set_limit=lambda size: setattr(MEMORY, "limit", size),
        free_all_blocks=lambda: None,
        used_bytes=lambda: MEMORY.used,
        free_bytes=lambda: 0,
        total_bytes=lambda: MEMORY.peak,
    )
    cupy.get_default_memory_pool = lambda: pool
    pinned = SimpleNamespace(free_all_blocks=lambda: _count("page-locked memory given back"))
    cupy.get_default_pinned_memory_pool = lambda: pinned
    cupyx: Any = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    return cupy, cupyx


@contextmanager
def device_on_the_host(limit_bytes: int | None = None) -> Iterator[Any]:
    """Put the device in CuPy's place; gives the module that stands for cupy."""
    cupy, cupyx = _fake()
    before = {name: sys.modules.get(name) for name in ("cupy", "cupyx")}
    sys.modules["cupy"], sys.modules["cupyx"] = cupy, cupyx
    MEMORY.limit, MEMORY.peak = limit_bytes, MEMORY.used
    _LOST.clear()
    COUNTS.clear()
    try:
        yield cupy
    finally:
        MEMORY.limit = None
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
