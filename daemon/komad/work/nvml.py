"""What the driver says of the GPUs (NVML, through nvidia-ml-py): which there are, and how one is doing.

Reading costs no memory on a GPU and needs no CUDA, so the supervisor may do it. Everything works without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from time import monotonic
from typing import Any

from komad.store.overview import GpuState

READ_INTERVAL_S = 2.0
STALE_S = 10.0
"""What was read longer ago is not told any more."""


class Trouble(StrEnum):
    """Why no GPU can be listed."""

    NO_BINDING = "nvidia-ml-py is not installed"
    NO_DRIVER = "NVIDIA's driver is not installed or not loaded"
    MISMATCH = "the loaded driver and its libraries are of two versions"
    NO_PERMISSION = "this user may not open the driver's devices"
    OTHER = "NVIDIA's driver does not answer"


_TROUBLES = {
    "NVMLError_LibraryNotFound": Trouble.NO_DRIVER,
    "NVMLError_DriverNotLoaded": Trouble.NO_DRIVER,
    "NVMLError_LibRmVersionMismatch": Trouble.MISMATCH,
    "NVMLError_NoPermission": Trouble.NO_PERMISSION,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedGpu:
    """A GPU, or a part of one that is split (MIG)."""

    number: int
    """As nvidia-smi counts; parts have that of the whole."""
    uuid: str
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    """CUDA's compute capability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """All GPUs that the driver knows and that answer."""

    gpus: tuple[ListedGpu, ...] = ()
    driver: str = ""
    """Version of the driver; '' when it does not say."""
    cuda: tuple[int, int] | None = None
    """Newest CUDA that the driver runs."""
    trouble: Trouble | None = None
    detail: str = ""
    """The driver's own words."""


def list_gpus() -> Listing:
    """Ask the driver; nothing is raised whatever it says."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return Listing(trouble=Trouble.NO_BINDING)
    try:
        nvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - what a driver that is half installed raises is not foreseeable
        trouble = _TROUBLES.get(type(error).__name__, Trouble.OTHER)
        return Listing(trouble=trouble, detail=str(error))
    try:
        cuda = _asked(nvml.nvmlSystemGetCudaDriverVersion)
        return Listing(
            gpus=tuple(_gpus(nvml)),
            driver=_asked(nvml.nvmlSystemGetDriverVersion) or "",
            cuda=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
        )
    finally:
        _asked(nvml.nvmlShutdown)


def _gpus(nvml: Any) -> Iterator[ListedGpu]:
    for number in range(_asked(nvml.nvmlDeviceGetCount) or 0):
        handle = _asked(nvml.nvmlDeviceGetHandleByIndex, number)
        for part in _parts(nvml, handle):
            gpu = _asked(_listed, nvml, number, part)  # one that is lost answers nothing: it is not there
            if gpu is not None:
                yield gpu


def _parts(nvml: Any, handle: Any) -> list[Any]:
    """The GPU itself, or the instances into which it is split: then CUDA sees only those."""
    mode = _asked(nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        return [handle]
    count = _asked(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    parts = [_asked(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index) for index in range(count)]
    return [part for part in parts if part is not None]


def _listed(nvml: Any, number: int, handle: Any) -> ListedGpu:
    capability = _asked(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return ListedGpu(
        number=number,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        total_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
        capability=None if capability is None else tuple(capability),
    )


def _asked(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None: no GPU knows everything."""
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, there is no answer
        return None


class GpuWatch:
    """Reads how one GPU is doing, in a thread of its own: a sick one may not answer, and a worker has to beat.

    Parameters
    ----------
    visible
        The worker's CUDA_VISIBLE_DEVICES: UUID or number of its GPU; '' watches none.
    """

    def __init__(self, visible: str) -> None:
        self._visible = visible
        self._last: tuple[float, GpuState] | None = None

    def start(self) -> None:
        """Begin to read."""
        if self._visible:
            threading.Thread(target=self._read, name="komad-gpu", daemon=True).start()

    def state(self) -> GpuState | None:
        """What was read last; None when nothing is known."""
        last = self._last
        return None if last is None or monotonic() - last[0] > STALE_S else last[1]

    def _read(self) -> None:
        pause = threading.Event()
        try:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
            while True:
                state = _asked(_state, nvml, self._visible)
                self._last = None if state is None else (monotonic(), state)
                pause.wait(READ_INTERVAL_S)
        except Exception:  # noqa: BLE001 - the work does not depend on it
            return


def _state(nvml: Any, visible: str) -> GpuState:
    find = nvml.nvmlDeviceGetHandleByIndex if visible.isdigit() else nvml.nvmlDeviceGetHandleByUUID
    handle = find(int(visible) if visible.isdigit() else visible)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _asked(nvml.nvmlDeviceGetUtilizationRates, handle)
    return GpuState(
        name=nvml.nvmlDeviceGetName(handle),
        uuid=nvml.nvmlDeviceGetUUID(handle),
        memory_used_bytes=memory.used,
        memory_total_bytes=memory.total,
        utilisation=None if rates is None else rates.gpu / 100,
        temperature_celsius=_asked(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
    )
