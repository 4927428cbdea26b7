"""Tries a GPU: `python -m komad.doctor.trial DEVICE MEMORY_FRACTION` prints what came of it as JSON.

In a process of its own, pinned like a worker, because a GPU that is not well may crash or hang whoever asks it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np

N_FRAMES, SIDE, COUNTS = 4, 64, 3


@dataclass(kw_only=True, slots=True)
class Trial:
    """How far it came."""

    failed: str = ""
    """The step that failed: import, device, kernels or transform; '' when all went well."""
    error: str = ""
    cuda: int = 0
    """CUDA that CuPy runs with, as 1000 major + 10 minor."""
    driver_cuda: int = 0
    """Newest CUDA that the driver runs."""
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    free_bytes: int = 0
    total_bytes: int = 0
    compile_s: float = 0.0
    """Time to compile and run the kernels of a movie."""


def run(device: str, memory_fraction: float) -> Trial:
    """Import CuPy, look at the device, run the kernels and a transform; ends at the first step that fails."""
    trial = Trial()
    steps: dict[str, Callable[[], None]] = {
        "import": lambda: _import(trial),
        "device": lambda: _look(trial),
        "kernels": lambda: _run_kernels(trial),
        "transform": lambda: _probe(device, memory_fraction),
    }
    for step, work in steps.items():
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told in the result
            trial.failed, trial.error = step, " ".join(str(error).split()) or type(error).__name__
            break
    return trial


def _import(trial: Trial) -> None:
    runtime = import_module("cupy").cuda.runtime
    trial.cuda, trial.driver_cuda = int(runtime.runtimeGetVersion()), int(runtime.driverGetVersion())


def _look(trial: Trial) -> None:
    cuda = import_module("cupy").cuda
    if not cuda.runtime.getDeviceCount():
        raise RuntimeError("CUDA finds no device")
    properties = cuda.runtime.getDeviceProperties(0)
    trial.name = properties["name"].decode()
    trial.capability = (int(properties["major"]), int(properties["minor"]))
    trial.free_bytes, trial.total_bytes = map(int, cuda.Device(0).mem_info)


def _run_kernels(trial: Trial) -> None:
    """Bin and add frames that are the same everywhere: what comes out is known."""
    from komad import kernels  # noqa: PLC0415 - what it imports is a part of what is tried
    from komad.arrays import to_host  # noqa: PLC0415
    from komad.model import OutlierPixels  # noqa: PLC0415

    start = perf_counter()
    cupy: Any = import_module("cupy")
    shape = (SIDE, SIDE)
    none = OutlierPixels(
        yx=np.zeros((0, 2), np.int32), keep=np.zeros(0, np.float32), frame=np.zeros(0, np.int32)
    )
    outliers = kernels.plan_outliers(none, shape)
    frames = cupy.asarray(np.full((N_FRAMES, *shape), COUNTS, np.uint8))
    gain, offset = (cupy.asarray(np.full(shape, value, np.float32)) for value in (2, 1))
    binned = kernels.reduce(frames, gain, offset, outliers, factor=4)
    nodes = tuple(map(len, kernels.node_positions(shape)))
    sums = kernels.correct(
        frames,
        gain,
        offset,
        outliers,
        shifts=np.zeros((N_FRAMES, *nodes, 2), np.float32),
        coefficients=np.ones((N_FRAMES, 1), np.float32),
    )
    pixel = 2 * COUNTS + 1
    for what, expected in ((binned, 16 * pixel), (sums, N_FRAMES * pixel)):
        wrong = float(np.abs(to_host(what) - expected).max())
        if not wrong < 1e-3:
            raise RuntimeError(f"they compute wrongly: {wrong:g} off from {expected}")
    trial.compile_s = perf_counter() - start


def _probe(device: str, memory_fraction: float) -> None:
    from komad.work.device import open_device  # noqa: PLC0415 - what it imports is a part of what is tried

    open_device(device, memory_fraction).probe()


if __name__ == "__main__":
    print(json.dumps(asdict(run(sys.argv[1], float(sys.argv[2])))))  # noqa: T201 - the answer
