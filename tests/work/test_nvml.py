"""What the driver says of the GPUs."""

from __future__ import annotations

import sys
import time

import pynvml
import pytest

from komad.work import nvml
from komad.work.nvml import GpuWatch, ListedGpu, Trouble, list_gpus
from tests.work.conftest import wait_until
from tests.work.nvml import P2000, Driver, Gpu, install


def test_the_imitation_has_only_what_is_really_there() -> None:
    """Every name that the tests' driver has is one of nvidia-ml-py."""
    names = [name for name in dir(Driver) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 10
    assert [name for name in names if not hasattr(pynvml, name)] == []


def test_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU with its number, UUID, memory and capability, and what the driver runs; without one that is lost."""
    lost, old = Gpu("GPU-b", is_lost=True), Gpu("GPU-c", *P2000)
    driver = install(monkeypatch, Driver((Gpu("GPU-a"), lost, old), cuda=12040))
    listing = list_gpus()
    assert listing.gpus == (
        ListedGpu(number=0, uuid="GPU-a", name="NVIDIA H200", total_bytes=150_754_820_096, capability=(9, 0)),
        ListedGpu(number=2, uuid="GPU-c", name="Quadro P2000", total_bytes=5_301_600_256, capability=(6, 1)),
    )
    assert (listing.driver, listing.cuda, listing.trouble) == ("580.65.06", (12, 4), None)
    assert driver.calls == ["init", "shutdown"]


def test_split_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that is split, the instances are listed in its place: CUDA sees nothing else of it."""
    parts = (Gpu("MIG-1", "NVIDIA H200 MIG 1g.18gb", 18 * 2**30), Gpu("MIG-2"))
    install(monkeypatch, Driver((Gpu("GPU-a", parts=parts), Gpu("GPU-b"))))
    assert [(gpu.number, gpu.uuid) for gpu in list_gpus().gpus] == [(0, "MIG-1"), (0, "MIG-2"), (1, "GPU-b")]


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, Trouble.NO_DRIVER),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, Trouble.NO_DRIVER),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, Trouble.MISMATCH),
        (pynvml.NVML_ERROR_NO_PERMISSION, Trouble.NO_PERMISSION),
        (pynvml.NVML_ERROR_UNKNOWN, Trouble.OTHER),
    ],
)
def test_driver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, status: int, trouble: Trouble) -> None:
    """Why not is told apart, and nothing is raised."""
    install(monkeypatch, Driver((Gpu("GPU-a"),), init_error=status))
    listing = list_gpus()
    assert (listing.gpus, listing.trouble) == ((), trouble)
    assert listing.detail


def test_without_nvidia_ml_py(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is listed, and a worker beats without its state."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert list_gpus().trouble is Trouble.NO_BINDING
    watch = GpuWatch("GPU-a")
    watch._read()
    assert watch.state() is None


def test_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's GPU is found by UUID or number; what it does not tell is None."""
    install(monkeypatch, Driver((Gpu("GPU-a"), Gpu("GPU-b", rates=None))))
    by_uuid, by_number = GpuWatch("GPU-a"), GpuWatch("1")
    for watch in (by_uuid, by_number):
        watch.start()
    wait_until(lambda: None not in {by_uuid.state(), by_number.state()}, limit_s=10)
    first, second = by_uuid.state(), by_number.state()
    assert first is not None
    assert second is not None
    assert (first.utilisation, first.temperature_celsius) == (0.87, 61)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (12_300_000_000, 150_754_820_096)
    assert (second.uuid, second.utilisation) == ("GPU-b", None)


def test_what_is_old_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs leaves the last state behind: after ten seconds nothing is known."""
    install(monkeypatch, Driver((Gpu("GPU-a"),)))
    watch = GpuWatch("GPU-a")
    watch.start()
    wait_until(lambda: watch.state() is not None, limit_s=10)
    later = time.monotonic() + 11
    monkeypatch.setattr(nvml, "monotonic", lambda: later)
    assert watch.state() is None


def test_gpu_that_falls_off_its_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch goes on, and knows nothing."""
    gpu = Gpu("GPU-a")
    install(monkeypatch, Driver((gpu,)))
    monkeypatch.setattr(nvml, "READ_INTERVAL_S", 0.01)
    watch = GpuWatch("GPU-a")
    watch.start()
    wait_until(lambda: watch.state() is not None, limit_s=10)
    gpu.is_lost = True
    wait_until(lambda: watch.state() is None, limit_s=10)
    gpu.is_lost = False
    wait_until(lambda: watch.state() is not None, limit_s=10)
