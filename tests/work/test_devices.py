"""Which devices are computed on."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from komad.config import Settings, Workers
from komad.errors import ConfigError, DeviceError
from komad.store.growth import NO_GROWTH
from komad.work import devices, supervisor
from komad.work.devices import CPU, Choice, Cupy, Machine, WorkerDevice, choose
from komad.work.exits import Exit
from komad.work.nvml import ListedGpu, Listing, Trouble
from komad.work.supervisor import Supervisor

CUDA12 = Cupy(package="cupy-cuda12x", version="14.2.0", cuda=12)
CUDA13 = Cupy(package="cupy-cuda13x", version="14.2.0", cuda=13)


def listed(number: int, uuid: str, **changes: Any) -> ListedGpu:
    """A large GPU of today, unless changed."""
    values: dict[str, Any] = {"name": "NVIDIA H200", "total_bytes": 150_000_000_000, "capability": (9, 0)}
    return ListedGpu(number=number, uuid=uuid, **(values | changes))


A, B, C = listed(0, "GPU-aa11"), listed(1, "GPU-bb22"), listed(2, "GPU-bb33")
SMALL = listed(3, "GPU-dd", name="T400", total_bytes=2_000_000_000, capability=(7, 5))
PASCAL = listed(4, "GPU-ee", name="Quadro P6000", total_bytes=24_000_000_000, capability=(6, 1))


def machine(
    *gpus: ListedGpu,
    cupy: tuple[Cupy, ...] = (CUDA13,),
    cuda: tuple[int, int] = (13, 0),
    visible: str | None = None,
) -> Machine:
    """A machine whose driver answers."""
    return Machine(listing=Listing(gpus=gpus, driver="580.65.06", cuda=cuda), cupy=cupy, visible=visible)


def troubled(trouble: Trouble, *, visible: str | None = None) -> Machine:
    """A machine whose driver does not."""
    return Machine(listing=Listing(trouble=trouble, detail="in its words"), cupy=(CUDA13,), visible=visible)


def names(choice: Choice) -> list[str]:
    """What the workers of a choice compute on."""
    return [device.visible or device.device for device in choice.devices]


def test_automatic_choice() -> None:
    """Every GPU gets one worker, pinned by UUID, which may take the configured part of its memory."""
    choice = choose("auto", machine(A, B), memory_fraction=0.8)
    assert choice.devices == (
        WorkerDevice(device="cuda:0", memory_fraction=0.8, visible="GPU-aa11", name="NVIDIA H200"),
        WorkerDevice(device="cuda:1", memory_fraction=0.8, visible="GPU-bb22", name="NVIDIA H200"),
    )
    assert choice.reason == "every GPU that CuPy can use"


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (machine(cupy=()), "CuPy is not installed"),
        (machine(A, cupy=()), "CuPy is not installed"),
        (machine(), "NVIDIA GPUs: none"),
        (machine(A, B, visible=""), "CUDA_VISIBLE_DEVICES='' hides all 2"),
        (troubled(Trouble.NO_DRIVER), "driver is not installed or not loaded"),
        (troubled(Trouble.NO_BINDING), "nvidia-ml-py is not installed"),
        (machine(A, cuda=(12, 4)), "cupy-cuda13x needs CUDA 13 and the driver 580.65.06 runs CUDA 12.4"),
        (machine(A, cupy=(CUDA12, CUDA13)), "cupy-cuda12x and cupy-cuda13x are installed"),
        (machine(SMALL), "cuda:0 (T400) has 2 GB"),
    ],
)
def test_automatic_choice_without_a_gpu(there: Machine, reason: str) -> None:
    """One worker on the CPU, and why in one sentence."""
    choice = choose("auto", there)
    assert choice.devices == (CPU,)
    assert reason in choice.reason


def test_automatic_choice_leaves_out_what_cannot_be_used() -> None:
    """A screen's card and one that is too old for this CUDA are named; numbers stay those of all GPUs."""
    choice = choose("auto", machine(SMALL, A, PASCAL))
    assert [device.device for device in choice.devices] == ["cuda:1"]
    assert "cuda:0 (T400) has 2 GB" in choice.reason
    assert "cuda:2 (Quadro P6000) has compute capability 6.1, CUDA 13 needs 7.5" in choice.reason
    assert "komad[cuda12] in place of cupy-cuda13x" in choice.reason
    assert names(choose("auto", machine(PASCAL, cupy=(CUDA12,)))) == ["GPU-ee"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aa11", "GPU-bb22", "GPU-bb33"]),
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-bb22", ["GPU-bb22"]),
        ("1, GPU-aa11", ["GPU-bb22", "GPU-aa11"]),
        ("1,-1,0", ["GPU-bb22"]),
        ("1,7,0", ["GPU-bb22"]),
        ("-1", ["cpu"]),
    ],
)
def test_inherited_cuda_visible_devices(visible: str | None, expected: list[str]) -> None:
    """It is obeyed as CUDA does: its order, numbers or UUIDs, nothing after an entry that names no GPU."""
    assert names(choose("auto", machine(A, B, C, visible=visible))) == expected


def test_numbers_count_what_is_visible() -> None:
    """As in any program with CUDA, number 0 is the first of those that are left."""
    choice = choose(("cuda:0", "cpu"), machine(A, B, C, visible="2,1"))
    assert names(choice) == ["GPU-bb33", "cpu"]


def test_configured_devices() -> None:
    """Numbers and UUIDs (also the beginning of one), mixed with the CPU, in their order."""
    choice = choose(("cpu", "GPU-bb33", "cuda:0", "GPU-bb2", "cpu"), machine(A, B, C))
    assert names(choice) == ["cpu", "GPU-bb33", "GPU-aa11", "GPU-bb22", "cpu"]
    assert [device.device for device in choice.devices] == ["cpu", "cuda:2", "cuda:0", "cuda:1", "cpu"]
    assert choice.reason == "as configured"


def test_gpu_that_is_named_twice() -> None:
    """It gets two workers, which share its part of the memory, however it is named; others are not touched."""
    choice = choose(("cuda:0", "GPU-aa11", "cuda:1", "cpu"), machine(A, B), memory_fraction=0.9)
    assert [device.memory_fraction for device in choice.devices] == [0.45, 0.45, 0.9, 0.0]


@pytest.mark.parametrize(
    ("wanted", "there", "message"),
    [
        ("cuda:2", machine(A, B), "names cuda:2, but there is no such GPU. There is cuda:0 = NVIDIA H200 (GPU-aa11)"),
        ("cuda:2", machine(A, B), "(GPU-aa11), cuda:1 = NVIDIA H200 (GPU-bb22)"),
        ("GPU-ff", machine(A), "names GPU-ff, but there is no such GPU"),
        ("GPU-bb", machine(A, B, C), "more than one GPU begins with that"),
        ("cuda:0", machine(), "There is none"),
        ("cuda:1", machine(A, B, visible="0"), "There is cuda:0 = NVIDIA H200 (GPU-aa11)"),
        ("cuda:0", machine(A, cupy=()), "CuPy is not installed: pip install 'komad[cuda13]'"),
        ("cuda:0", machine(A, cupy=(), cuda=(12, 4)), "pip install 'komad[cuda12]'"),
        ("cuda:0", machine(PASCAL, cupy=()), "pip install 'komad[cuda12]'"),
        ("cuda:0", machine(A, cuda=(12, 4)), "install komad[cuda12] in place of it or update the driver to 580"),
        ("cuda:0", machine(A, cupy=(CUDA12,), cuda=(11, 4)), "at most: update the driver to 525 or newer"),
        ("cuda:0", machine(PASCAL), "it (Quadro P6000) has compute capability 6.1"),
    ],
)  # fmt: skip
def test_gpu_that_cannot_be_used(wanted: str, there: Machine, message: str) -> None:
    """What is configured and does not go is an error at start that says what there is, and what to do."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        choose((wanted,), there)


def test_driver_that_may_come_later() -> None:
    """A driver that is not loaded (yet) stops komad with an error after which systemd tries again."""
    with pytest.raises(DeviceError, match=r"cuda:0, but NVIDIA's driver is not .* \(in its words\)"):
        choose(("cuda:0",), troubled(Trouble.NO_DRIVER))


def test_without_nvidia_ml_py() -> None:
    """Nobody can say whether the GPU is there, so the worker has to: it is pinned as it was named."""
    choice = choose(("cuda:1", "GPU-zz"), troubled(Trouble.NO_BINDING))
    assert names(choice) == ["1", "GPU-zz"]
    assert names(choose(("cuda:1",), troubled(Trouble.NO_BINDING, visible="3,GPU-b"))) == ["GPU-b"]
    with pytest.raises(ConfigError, match="'3' hides it"):
        choose(("cuda:1",), troubled(Trouble.NO_BINDING, visible="3"))


def test_cpu_alone_asks_nobody() -> None:
    """Several workers on the CPU need neither CuPy nor a driver."""
    assert choose(("cpu", "cpu"), troubled(Trouble.OTHER)).devices == (CPU, CPU)


def test_installed_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages tell for which CUDA they were built; those for other makers' GPUs are none of ours."""
    packages = ["numpy", "cupy-cuda12x", "cupy-cuda117", "cupy", "cupy-rocm-5-0", "cupy-xarray"]
    found = [SimpleNamespace(metadata={"Name": name}, version="14.2") for name in packages]
    monkeypatch.setattr(metadata, "distributions", lambda: found)
    assert {it.package: it.cuda for it in devices.installed_cupy()} == {
        "cupy-cuda12x": 12,
        "cupy-cuda117": 11,
        "cupy": None,
    }


class Store(SimpleNamespace):
    """A store without movies."""

    def __init__(self) -> None:
        super().__init__(
            paused=lambda _: "",
            workers=list,
            leases=set,
            bad_devices=dict,
            forget_devices=lambda: None,
            release_disk_held=int,
            growth=lambda: NO_GROWTH,
            return_jobs=lambda *_: [],
        )


def start(settings: Settings, choice: Choice, script: str, clock: Any = None) -> Supervisor:
    """A supervisor whose workers run a script."""
    command = (sys.executable, "-c", script)
    store: Any = Store()
    extra = {} if clock is None else {"clock": clock}
    return Supervisor(store, settings, command=command, choice=choice, **extra)


def test_environment_of_a_worker_with_a_gpu(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees its GPU alone, counted by bus; the cores are divided among all workers, and so is the memory."""
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setattr(supervisor.os, "sched_getaffinity", lambda _: range(12))
    script = (
        "import os, sys, pathlib\n"
        "names = 'CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER', 'KOMAD_THREADS', 'CUPY_CACHE_DIR'\n"
        f"pathlib.Path({str(tmp_path)!r}, sys.argv[2].replace(':', '')).write_text("
        "'\\n'.join([*sys.argv[2:], *(os.environ[name] for name in names)]))"
    )
    changed = settings.model_copy(update={"workers": Workers()})
    choice = choose(("cuda:1", "cpu", "cuda:0", "GPU-bb22"), machine(A, B))
    supervised = start(changed, choice, script)
    supervised.tick()
    for worker in supervised._workers:
        assert worker.process is not None
        worker.process.wait(30)
    cache = str(settings.state_directory / "cupy-cache")
    told = {name: (tmp_path / name).read_text().splitlines() for name in ("cuda0", "cuda1", "cpu")}
    assert told["cuda0"] == ["cuda:0", "0.9", "GPU-aa11", "PCI_BUS_ID", "3", cache]
    assert told["cuda1"] == ["cuda:1", "0.45", "GPU-bb22", "PCI_BUS_ID", "3", cache]
    assert told["cpu"] == ["cpu", "0", "", "PCI_BUS_ID", "3", cache]


@pytest.mark.parametrize(("wanted", "helps"), [("auto", True), (("cuda:0", "cuda:1"), False)])
def test_cpu_helps_out(settings: Settings, wanted: Any, helps: bool) -> None:
    """When all GPUs fail their probe over and over, a session goes on with the CPU, unless only GPUs were asked for."""
    now = [0.0]
    changed = settings.model_copy(update={"workers": Workers(devices=wanted)})
    supervised = start(
        changed, choose("auto", machine(A, B)), f"raise SystemExit({Exit.BAD_DEVICE:d})", lambda: now[0]
    )
    devices_then = []
    for _ in range(2 * supervisor.N_BAD_PROBES):
        supervised.tick()
        for worker in supervised._workers:
            if worker.process is not None:
                worker.process.wait(30)
        devices_then.append([worker.device.device for worker in supervised._workers])
        now[0] += 10
    assert devices_then[supervisor.N_BAD_PROBES - 1] == ["cuda:0", "cuda:1"]
    assert devices_then[-1] == ["cuda:0", "cuda:1", *(["cpu"] if helps else [])]


def test_devices_are_told_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line at the start: which devices, and why."""
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        supervisor, "logger", SimpleNamespace(info=lambda text, **values: said.append((text, values)))
    )
    start(settings, choose("auto", machine(A)), "").start()
    start(settings, choose("auto", machine(cupy=())), "").start()
    assert said == [
        ("devices chosen", {"devices": ["cuda:0 (NVIDIA H200)"], "why": "every GPU that CuPy can use"}),
        ("devices chosen", {"devices": ["cpu"], "why": "CuPy is not installed"}),
    ]
