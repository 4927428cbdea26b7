# ruff: noqa: N802 - the names are the driver's
"""A driver's library (pynvml) without a driver: GPUs as the test says, with the answers and errors of the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

H200 = ("NVIDIA H200", 150_754_820_096, (9, 0))
P2000 = ("Quadro P2000", 5_301_600_256, (6, 1))


@dataclass
class Gpu:
    """One GPU; `parts` are the instances into which it is split."""

    uuid: str
    name: str = H200[0]
    total: int = H200[1]
    capability: tuple[int, int] = H200[2]
    parts: tuple[Any, ...] | None = None
    is_lost: bool = False
    used: int = 12_300_000_000
    rates: int | None = 87


@dataclass
class Driver:
    """What is put in the place of `pynvml`."""

    gpus: tuple[Gpu, ...] = ()
    cuda: int = 13000
    version: str = "580.65.06"
    init_error: int | None = None
    calls: list[str] = field(default_factory=list)
    NVML_TEMPERATURE_GPU: int = pynvml.NVML_TEMPERATURE_GPU

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.version

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if self.gpus[index].is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        parts = [part for gpu in self.gpus for part in gpu.parts or ()]
        for gpu in (*self.gpus, *parts):
            if gpu.uuid == uuid:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> tuple[int, int]:
        if gpu.capability[0] < 8:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (int(gpu.parts is not None),) * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Gpu:
        if gpu.parts is None or index >= len(gpu.parts):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu.parts[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        if gpu.is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Gpu) -> tuple[int, int]:
        return gpu.capability

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> Any:
        if gpu.rates is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=gpu.rates, memory=3)

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    """Let komad find this driver."""
    monkeypatch.setitem(__import__("sys").modules, "pynvml", driver)
    return driver
