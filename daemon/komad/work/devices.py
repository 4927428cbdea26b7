"""Which devices are computed on: one worker process for each. Pure, but for `look_around`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from komad.errors import ConfigError, DeviceError
from komad.work.nvml import ListedGpu, Listing, Trouble, list_gpus

MIN_GPU_BYTES = 5e9
"""Smaller ones drive a screen: `auto` leaves them out."""

OLDEST_CAPABILITY = {12: (5, 0), 13: (7, 5)}
"""Compute capability that a version of CUDA needs."""
OLDEST_DRIVER = {12: "525", 13: "580"}
"""The driver's version that runs programs of a version of CUDA."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cupy:
    """An installed CuPy, as its package says; it is not imported."""

    package: str
    version: str
    cuda: int | None
    """Version of CUDA that it was built for; None when its name does not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the choice depends on."""

    listing: Listing
    cupy: tuple[Cupy, ...]
    """More than one is a mistake: they overwrite one another."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES as it was inherited; None when it is not set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerDevice:
    """What a worker computes on."""

    device: str
    """cpu, or cuda:N with the number by which people know the GPU; for its process it is CUDA's number 0."""
    memory_fraction: float = 0.0
    """The part of the GPU's memory that this worker may take."""
    visible: str = ""
    """CUDA_VISIBLE_DEVICES of the process: its GPU alone, nothing for the CPU."""
    name: str = ""
    """For people: the GPU's model."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return bool(self.visible)

    def __str__(self) -> str:
        return f"{self.device} ({self.name})" if self.name else self.device


CPU = WorkerDevice(device="cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One device per worker, and why."""

    devices: tuple[WorkerDevice, ...]
    reason: str


def look_around() -> Machine:
    """Ask driver and packages; imports neither CuPy nor anything of CUDA."""
    return Machine(listing=list_gpus(), cupy=installed_cupy(), visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def installed_cupy() -> tuple[Cupy, ...]:
    """Every package that brings CuPy for NVIDIA's GPUs."""
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if match := re.fullmatch(r"cupy(?:-cuda(\d\d)\dx?|-cuda(\d\d)x)?", name):
            cuda = match[1] or match[2]
            found[name] = Cupy(
                package=name, version=distribution.version, cuda=None if cuda is None else int(cuda)
            )
    return tuple(found.values())


def choose(
    wanted: Literal["auto"] | Sequence[str], machine: Machine, *, memory_fraction: float = 0.9
) -> Choice:
    """One device for each worker.

    Parameters
    ----------
    wanted
        `config.Workers.devices`.
    machine
        What there is.
    memory_fraction
        The part of each GPU's memory that is used; workers on one GPU share it.

    Raises
    ------
    ConfigError
        A GPU is named that is not there or that the installed CuPy cannot use; says what there is.
    DeviceError
        A GPU is named, and the driver does not answer: it may be loaded later.
    """
    if wanted == "auto":
        return _automatic(machine, memory_fraction)
    if all(entry == "cpu" for entry in wanted):
        return Choice(devices=(CPU,) * len(wanted), reason="as configured")
    if problem := cupy_problem(machine):
        raise ConfigError(f"workers.devices names a GPU, but {problem}")
    places = [CPU if entry == "cpu" else _named(entry, machine) for entry in wanted]
    return Choice(devices=_shared(places, memory_fraction), reason="as configured")


def visible_gpus(machine: Machine) -> tuple[ListedGpu, ...]:
    """GPUs in the order in which CUDA_VISIBLE_DEVICES shows them; nothing after an entry that names none."""
    if machine.visible is None:
        return machine.listing.gpus
    seen: list[ListedGpu] = []
    for entry in machine.visible.split(","):
        name = entry.strip()
        found = [gpu for gpu in machine.listing.gpus if _is_named(gpu, name)]
        if not found:
            break
        seen += found
    return tuple(dict.fromkeys(seen))


def cupy_problem(machine: Machine) -> str:
    """Why the installed CuPy can use no GPU of this driver, with what to do; '' when it can."""
    if not machine.cupy:
        return f"CuPy is not installed: pip install '{advised_extra(machine)}'"
    if len(machine.cupy) > 1:
        packages = " and ".join(sorted(it.package for it in machine.cupy))
        return (
            f"{packages} are installed, which overwrite one another: uninstall all of them, then install one"
        )
    (cupy,) = machine.cupy
    cuda, driver = cupy.cuda, machine.listing.cuda
    if cuda is not None and driver is not None and driver[0] < cuda:
        update = f"update the driver to {OLDEST_DRIVER[cuda]} or newer" if cuda in OLDEST_DRIVER else ""
        other = f"install {advised_extra(machine)} in place of it" if driver[0] in OLDEST_DRIVER else ""
        advice = " or ".join(filter(None, (other, update))) or "update the driver"
        return (
            f"{cupy.package} needs CUDA {cuda} and the driver {machine.listing.driver} runs "
            f"CUDA {_dotted(driver)} at most: {advice}"
        )
    return ""


def gpu_problem(gpu: ListedGpu, cupy: Cupy) -> str:
    """Why this CuPy cannot compute on this GPU, with what to do; '' when it can."""
    oldest = OLDEST_CAPABILITY.get(cupy.cuda or 0)
    if oldest is None or gpu.capability is None or gpu.capability >= oldest:
        return ""
    what = f"has compute capability {_dotted(gpu.capability)}, CUDA {cupy.cuda} needs {_dotted(oldest)}"
    if gpu.capability >= OLDEST_CAPABILITY[12]:
        return f"{what}: install komad[cuda12] in place of {cupy.package}"
    return f"{what}: it is too old"


def advised_extra(machine: Machine) -> str:
    """The extra of komad that fits driver and GPUs."""
    driver, gpus = machine.listing.cuda, machine.listing.gpus
    is_new = driver is not None and driver[0] >= 13
    is_old = any(gpu.capability is not None and gpu.capability < OLDEST_CAPABILITY[13] for gpu in gpus)
    return "komad[cuda13]" if is_new and not is_old else "komad[cuda12]"


def what_there_is(machine: Machine) -> str:
    """The GPUs as they may be named in the configuration, for people."""
    gpus = visible_gpus(machine)
    if gpus:
        return ", ".join(f"cuda:{number} = {gpu.name} ({gpu.uuid})" for number, gpu in enumerate(gpus))
    if machine.listing.gpus:
        return f"none: CUDA_VISIBLE_DEVICES={machine.visible!r} hides all {len(machine.listing.gpus)}"
    return "none"


def _automatic(machine: Machine, memory_fraction: float) -> Choice:
    """Every GPU that can be used; else one CPU worker, with the first thing that is in the way."""
    gpus, trouble = visible_gpus(machine), machine.listing.trouble
    if not machine.cupy:
        why = "CuPy is not installed"
    elif trouble is not None:
        why = f"no GPU can be listed: {trouble}"
    elif not gpus:
        why = f"NVIDIA GPUs: {what_there_is(machine)}"
    else:
        why = cupy_problem(machine)
    if why:
        return Choice(devices=(CPU,), reason=why)
    chosen, left_out = [], []
    for number, gpu in enumerate(gpus):
        problem = gpu_problem(gpu, machine.cupy[0]) or (
            f"has {gpu.total_bytes / 1e9:.0f} GB" if gpu.total_bytes < MIN_GPU_BYTES else ""
        )
        if problem:
            left_out.append(f"cuda:{number} ({gpu.name}) {problem}")
        else:
            chosen.append(_place(number, gpu))
    without = f"; not used: {'; '.join(left_out)}" if left_out else ""
    if not chosen:
        return Choice(devices=(CPU,), reason=f"no GPU can be used{without}")
    return Choice(devices=_shared(chosen, memory_fraction), reason=f"every GPU that CuPy can use{without}")


def _named(entry: str, machine: Machine) -> WorkerDevice:
    trouble = machine.listing.trouble
    if trouble is Trouble.NO_BINDING:
        return _unlisted(entry, machine.visible)
    if trouble is not None:
        detail = f" ({machine.listing.detail})" if machine.listing.detail else ""
        raise DeviceError(f"workers.devices names {entry}, but {trouble}{detail}; `komad doctor` says more")
    found = [
        (number, gpu)
        for number, gpu in enumerate(visible_gpus(machine))
        if entry == f"cuda:{number}" or _is_named(gpu, entry)
    ]
    if len(found) != 1:
        what = "more than one GPU begins with that" if found else "there is no such GPU"
        raise ConfigError(f"workers.devices names {entry}, but {what}. There is {what_there_is(machine)}")
    number, gpu = found[0]
    if problem := gpu_problem(gpu, machine.cupy[0]):
        raise ConfigError(f"workers.devices names {entry}, but it ({gpu.name}) {problem}")
    return _place(number, gpu)


def _unlisted(entry: str, visible: str | None) -> WorkerDevice:
    """A GPU as it is configured, where nobody can say whether it is there: the worker's probe does."""
    name = entry.removeprefix("cuda:")
    if not name.isdigit():
        return WorkerDevice(device="cuda:0", visible=name)
    shown = [it.strip() for it in visible.split(",") if it.strip()] if visible is not None else None
    if shown is not None and int(name) >= len(shown):
        raise ConfigError(f"workers.devices names {entry}, but CUDA_VISIBLE_DEVICES={visible!r} hides it")
    return WorkerDevice(device=entry, visible=name if shown is None else shown[int(name)])


def _is_named(gpu: ListedGpu, name: str) -> bool:
    """Whether this is the GPU of that number or UUID; the beginning of a UUID is enough for CUDA, and for us."""
    if name.isdigit():
        return gpu.number == int(name)
    return name.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(name)


def _place(number: int, gpu: ListedGpu) -> WorkerDevice:
    return WorkerDevice(device=f"cuda:{number}", visible=gpu.uuid, name=gpu.name)


def _shared(places: Sequence[WorkerDevice], memory_fraction: float) -> tuple[WorkerDevice, ...]:
    """Workers on one GPU get equal parts of its memory."""
    workers_on = Counter(place.visible for place in places)
    return tuple(
        WorkerDevice(
            device=place.device,
            visible=place.visible,
            name=place.name,
            memory_fraction=memory_fraction / workers_on[place.visible] if place.is_gpu else 0.0,
        )
        for place in places
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
