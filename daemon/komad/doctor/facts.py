"""Looks at the computer; judges nothing. What hangs or crashes does so in a thread or a process of its own."""

from __future__ import annotations

import getpass
import grp
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from komad.app import check_references
from komad.config import Settings, load_settings
from komad.doctor.trial import Trial
from komad.errors import DeviceError, KomadError
from komad.mounts import network_of, read_mounts
from komad.status.places import look
from komad.store import schema
from komad.store.health import DatabaseHealth, read_health
from komad.work.device import CPU
from komad.work.devices import Choice, Machine, WorkerDevice, choose, look_around

TRIAL_LIMIT_S = 180.0
"""The first compilation takes seconds; a GPU that does not answer in this time hangs."""
PLACE_LIMIT_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What runs."""

    python: str
    packages: Mapping[str, str]
    """Package -> version; '' where it is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computer:
    """What it runs on."""

    n_cores: int
    memory_bytes: int
    """That komad may use: of the computer, or of its container."""
    cpu_problem: str
    """What the probe of the CPU said; '' when it passed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder of the configuration."""

    role: str
    """watch, output, archive or state."""
    path: Path
    reachable: bool
    """It, or the folder in which komad makes it."""
    exists: bool = False
    usable: bool = False
    """Readable for a watched folder, writable for the others, by this user."""
    free_bytes: int = 0
    network: str = ""
    """Type of the network file system that it lies on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A device file of the driver."""

    path: str
    usable: bool
    """This user may read and write it."""
    group: str
    """Who may besides its owner."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """The chain from the card to the kernels."""

    wanted: str | tuple[str, ...]
    """workers.devices."""
    machine: Machine
    choice: Choice | None
    """None when it is an error."""
    choice_problem: str = ""
    n_cards: int = 0
    """NVIDIA's cards on the PCI bus."""
    module: str = ""
    """Version of the driver's kernel module; '' when it is not loaded."""
    nouveau: bool = False
    """The free driver is loaded, which knows no CUDA."""
    nodes: tuple[Node, ...] = ()
    trials: Mapping[str, Trial] = field(default_factory=dict)
    """`WorkerDevice.visible` -> what came of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All of it."""

    user: str
    program: Program
    computer: Computer
    configuration: Path | None
    """None when there is none."""
    configuration_problem: str
    """Why it cannot be used; '' when it can."""
    min_free_gb: float
    folders: tuple[Folder, ...]
    database: DatabaseHealth | None
    """None without a configuration."""
    newest_schema: str
    gpu: GpuFacts


def gather(configuration: Path | None, problem: str = "") -> Facts:
    """Look at everything; `problem` says why no configuration could be found.

    Without a configuration that can be used, GPUs are looked at with the defaults, and folders are not.
    """
    settings, problem = _settings(configuration, problem)
    known = settings or Settings()
    folders = () if settings is None else look_at_folders(settings)
    reachable = any(folder.role == "state" and folder.reachable for folder in folders)
    return Facts(
        user=_user(),
        program=Program(python=platform.python_version(), packages=installed_packages()),
        computer=Computer(
            n_cores=len(os.sched_getaffinity(0)), memory_bytes=memory_bytes(), cpu_problem=_cpu_problem()
        ),
        configuration=configuration,
        configuration_problem=problem,
        min_free_gb=known.output.min_free_gb,
        folders=folders,
        database=read_health(known.state_directory) if reachable else None,
        newest_schema=schema.REVISION,
        gpu=look_at_gpus(known),
    )


def _settings(configuration: Path | None, problem: str) -> tuple[Settings | None, str]:
    if configuration is None:
        return None, problem
    try:
        settings = load_settings(configuration)
        check_references(settings, None)
    except KomadError as error:
        return None, str(error)
    return settings, ""


def installed_packages() -> dict[str, str]:
    """What komad needs, and the version that is there."""
    try:
        wanted = [line for line in metadata.requires("komad") or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return {"komad": ""}
    found = {}
    for line in wanted:
        name = re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def memory_bytes() -> int:
    """Memory of the computer, or what its container (cgroup) may use of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(limit)
        if text.isdigit():
            total = min(total, int(text))
    return total


def _cpu_problem() -> str:
    try:
        CPU.probe()
    except DeviceError as error:
        return str(error)
    return ""


def look_at_folders(settings: Settings) -> tuple[Folder, ...]:
    """Every folder of the configuration, without waiting for file systems that do not answer."""
    wanted = [("watch", folder.directory) for folder in settings.watch]
    wanted.append(("output", settings.output.directory))
    if settings.archive_directory != settings.output.directory:
        wanted.append(("archive", settings.archive_directory))
    mounts = read_mounts()
    return tuple(
        _folder(place.role, place.path, place.free_bytes, mounts)
        for place in look([*wanted, ("state", settings.state_directory)], timeout_s=PLACE_LIMIT_S)
    )


def _folder(role: str, path: Path, free_bytes: int | None, mounts: str) -> Folder:
    if free_bytes is None:
        return Folder(role=role, path=path, reachable=False)
    there = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    mode = os.R_OK | os.X_OK if role == "watch" else os.W_OK | os.X_OK
    network = network_of(path, mounts)
    return Folder(
        role=role,
        path=path,
        reachable=True,
        exists=path.is_dir(),
        usable=there.is_dir() and os.access(there, mode),
        free_bytes=free_bytes,
        network="" if network is None else network[1],
    )


def look_at_gpus(settings: Settings) -> GpuFacts:
    """Cards, driver, CuPy, the choice that `komad run` would make, and a trial of each GPU of it."""
    machine = look_around()
    workers = settings.workers
    choice, problem = None, ""
    try:
        choice = choose(workers.devices, machine, memory_fraction=workers.gpu_memory_fraction)
    except KomadError as error:
        problem = str(error)
    chosen = {device.visible: device for device in (choice.devices if choice else ()) if device.is_gpu}
    return GpuFacts(
        wanted=workers.devices,
        machine=machine,
        choice=choice,
        choice_problem=problem,
        n_cards=_count_cards(Path("/sys/bus/pci/devices")),
        module=_text("/sys/module/nvidia/version"),
        nouveau=Path("/sys/module/nouveau").exists(),
        nodes=tuple(_node(path) for path in sorted(Path("/dev").glob("nvidia*")) if not path.is_dir()),
        trials={visible: try_gpu(device) for visible, device in chosen.items()},
    )


def try_gpu(device: WorkerDevice, command: Iterable[str] = ("-m", "komad.doctor.trial")) -> Trial:
    """Try a GPU in a process that sees it alone and compiles everything anew."""
    with tempfile.TemporaryDirectory(prefix="komad-doctor-") as cache:
        environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": device.visible,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUPY_CACHE_DIR": cache,
        }
        try:
            done = subprocess.run(
                [sys.executable, *command, device.device, f"{device.memory_fraction:g}"],
                capture_output=True,
                text=True,
                timeout=TRIAL_LIMIT_S,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial(failed="device", error=f"no answer for {TRIAL_LIMIT_S:g} s")
    try:
        return Trial(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        return Trial(failed="device", error=f"the process ended with status {done.returncode}: {last}")


def _count_cards(bus: Path) -> int:
    """NVIDIA's display and 3D controllers."""
    return sum(
        _text(card / "vendor") == "0x10de" and _text(card / "class").startswith("0x03")
        for card in (bus.iterdir() if bus.is_dir() else ())
    )


def _node(path: Path) -> Node:
    try:
        group = grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = ""
    return Node(path=str(path), usable=os.access(path, os.R_OK | os.W_OK), group=group)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, in a container
        return str(os.getuid())


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
