"""What the facts mean, and what to do: one plain sentence each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from komad.doctor.facts import Computer, Facts, Folder, GpuFacts, Program
from komad.doctor.trial import Trial
from komad.store.health import DatabaseHealth
from komad.work.devices import WorkerDevice, advised_extra, cupy_problem, what_there_is
from komad.work.nvml import Trouble

SMALL_MEMORY_BYTES = 4e9
"""A movie of 4096 x 4096 x 40 takes 1.7 GB, and the next one is read meanwhile."""
OLDEST_PYTHON = (3, 11)
CONTROL_NODE, UNIFIED_MEMORY_NODE = "/dev/nvidiactl", "/dev/nvidia-uvm"


class Verdict(StrEnum):
    """From good to bad."""

    OK = "ok"
    WARN = "warn"
    """komad runs, though not as it could."""
    FAIL = "fail"
    """komad does not start, or does nothing."""


class Area(StrEnum):
    """What a check is about; the exit code of `komad doctor` follows from it."""

    INSTALLATION = "installation"
    CONFIGURATION = "configuration"
    DATABASE = "database"
    FOLDERS = "folders"
    DEVICES = "devices"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    area: Area
    verdict: Verdict
    text: str


def judge(facts: Facts) -> tuple[Check, ...]:
    """Every check, in the order in which things depend on one another."""
    return (
        *judge_program(facts.program),
        *judge_computer(facts.computer),
        *judge_configuration(facts),
        *judge_folders(facts.folders, facts.min_free_gb, facts.user),
        *judge_database(facts.database, facts.newest_schema),
        *judge_gpus(facts.gpu, facts.user),
    )


def judge_program(program: Program) -> Iterator[Check]:
    """Python, and the packages that komad needs."""
    missing = [name for name, version in program.packages.items() if not version]
    version = tuple(int(part) for part in program.python.split(".")[:2])
    if version < OLDEST_PYTHON:
        verdict, text = Verdict.FAIL, f"this is Python {program.python}, komad needs 3.11 or newer"
    elif missing:
        verdict, text = Verdict.FAIL, f"{', '.join(missing)} missing: install komad anew with pip"
    else:
        named = [name for name in ("numpy", "scipy", "numba") if name in program.packages]
        versions = ", ".join(f"{name} {program.packages[name]}" for name in named)
        verdict, text = (
            Verdict.OK,
            f"Python {program.python}, all {len(program.packages)} packages ({versions})",
        )
    yield Check(name="program", area=Area.INSTALLATION, verdict=verdict, text=text)


def judge_computer(computer: Computer) -> Iterator[Check]:
    """Cores and memory, and whether the CPU computes rightly."""
    text = f"{_n(computer.n_cores, 'core')}, {computer.memory_bytes / 1e9:.0f} GB of memory"
    is_small = computer.memory_bytes < SMALL_MEMORY_BYTES
    if is_small:
        text += ": little for large movies; workers.read_ahead = false keeps one at a time in memory"
    yield Check(
        name="computer", area=Area.DEVICES, verdict=Verdict.WARN if is_small else Verdict.OK, text=text
    )
    yield Check(
        name="CPU",
        area=Area.DEVICES,
        verdict=Verdict.FAIL if computer.cpu_problem else Verdict.OK,
        text=computer.cpu_problem or "a small transform is right",
    )


def judge_configuration(facts: Facts) -> Iterator[Check]:
    """Whether there is one, and every value and reference in it can be used."""
    if facts.configuration is None:
        verdict, text = Verdict.WARN, facts.configuration_problem
    elif facts.configuration_problem:
        verdict, text = Verdict.FAIL, facts.configuration_problem
    else:
        verdict, text = Verdict.OK, f"{facts.configuration} is right"
    yield Check(name="configuration", area=Area.CONFIGURATION, verdict=verdict, text=text)
    is_right = facts.configuration is not None and not facts.configuration_problem
    if is_right and not any(folder.role == "watch" for folder in facts.folders):
        text = "nothing is watched: add a [[watch]] table"
        yield Check(name="configuration", area=Area.CONFIGURATION, verdict=Verdict.FAIL, text=text)


def judge_folders(folders: tuple[Folder, ...], min_free_gb: float, user: str) -> Iterator[Check]:
    """Whether komad can read where movies come and write where results go."""
    for folder in folders:
        verdict, text = (
            _watched(folder, user) if folder.role == "watch" else _written(folder, min_free_gb, user)
        )
        yield Check(name=folder.role, area=Area.FOLDERS, verdict=verdict, text=f"{folder.path}: {text}")


def _watched(folder: Folder, user: str) -> tuple[Verdict, str]:
    if not folder.reachable:
        return Verdict.WARN, "is not there, or does not answer; komad waits for it"
    if not folder.usable:
        return Verdict.FAIL, f"{user} may not read it: give this user the right to"
    how = f", on {folder.network}: found by looking every few seconds" if folder.network else ""
    return Verdict.OK, f"can be read{how}"


def _written(folder: Folder, min_free_gb: float, user: str) -> tuple[Verdict, str]:
    if not folder.reachable:
        return (
            Verdict.FAIL,
            "neither it nor the folder above is there, or it does not answer: make or mount it",
        )
    if not folder.usable:
        return (
            Verdict.FAIL,
            f"{user} may not write there: give this user the right to, or choose another folder",
        )
    if folder.role == "state" and folder.network:
        where = f"lies on a network file system ({folder.network}), where the database would be damaged"
        return Verdict.FAIL, f"{where}: set state_directory to a folder on a local disk"
    free = f"{folder.free_bytes / 1e9:.0f} GB free"
    if folder.free_bytes < min_free_gb * 1e9:
        return (
            Verdict.FAIL,
            f"{free}, and no job starts below {min_free_gb:g} GB (output.min_free_gb): make room",
        )
    return Verdict.OK, f"{'can be written' if folder.exists else 'will be made'}, {free}"


def judge_database(database: DatabaseHealth | None, newest: str) -> Iterator[Check]:
    """Whether it is sound and of a schema that this komad knows."""
    if database is None:
        return
    if not database.there:
        verdict, text = Verdict.OK, "none yet: `komad run` makes it"
    elif database.damage:
        verdict, text = (
            Verdict.FAIL,
            f"{database.damage}: restore a copy, or move it away and start anew; results stay as they are",
        )
    elif database.revision > newest:
        verdict, text = (
            Verdict.FAIL,
            f"it has schema {database.revision}, this komad knows {newest}: install the newer komad that made it",
        )
    elif database.revision < newest:
        verdict, text = (
            Verdict.OK,
            f"sound, schema {database.revision}: the next `komad run` brings it to {newest}",
        )
    else:
        verdict, text = Verdict.OK, f"sound, schema {database.revision}"
    yield Check(name="database", area=Area.DATABASE, verdict=verdict, text=text)


def judge_gpus(facts: GpuFacts, user: str) -> Iterator[Check]:
    """The chain from the card to the kernels, up to the first link that is broken.

    A broken link is a failure when the configuration asks for a GPU, else a warning: the CPU does the work.
    """
    is_automatic = facts.wanted == "auto"
    if not is_automatic and all(entry == "cpu" for entry in facts.wanted):
        yield _gpu(Verdict.OK, "GPU", "not used: workers.devices names the CPU alone")
        return
    there = facts.n_cards or facts.machine.listing.gpus or facts.nodes
    if is_automatic and not there:
        yield _gpu(Verdict.OK, "GPU", "no GPU: komad computes on the CPU")
        return
    broken = Verdict.WARN if is_automatic else Verdict.FAIL
    meanwhile = "; until then komad computes on the CPU" if is_automatic else ""
    problem = driver_problem(facts, user)
    if problem:
        # Without nvidia-ml-py a GPU that is named works all the same.
        is_named = not is_automatic and facts.machine.listing.trouble is Trouble.NO_BINDING
        yield _gpu(Verdict.WARN if is_named else broken, "driver", problem + meanwhile)
        if not is_named:
            return
    else:
        listing = facts.machine.listing
        cuda = "" if listing.cuda is None else f", runs CUDA {listing.cuda[0]}.{listing.cuda[1]}"
        yield _gpu(
            Verdict.OK, "driver", f"NVIDIA {listing.driver}{cuda}; there is {what_there_is(facts.machine)}"
        )
    if problem := cupy_problem(facts.machine):
        yield _gpu(broken, "CuPy", problem + meanwhile)
        return
    (cupy,) = facts.machine.cupy
    yield _gpu(Verdict.OK, "CuPy", f"{cupy.package} {cupy.version}")
    if facts.choice is None:
        yield _gpu(Verdict.FAIL, "GPU", facts.choice_problem)
        return
    if not any(device.is_gpu for device in facts.choice.devices):
        yield _gpu(Verdict.WARN, "GPU", f"{facts.choice.reason}; komad computes on the CPU")
        return
    used = {device.visible: device for device in facts.choice.devices if device.is_gpu}
    for visible, device in used.items():
        fraction = sum(it.memory_fraction for it in facts.choice.devices if it.visible == visible)
        yield judge_trial(device, facts.trials[visible], facts, fraction)


def driver_problem(facts: GpuFacts, user: str) -> str:
    """Why the driver does not list its GPUs, with what to do; '' when it does."""
    trouble, detail = facts.machine.listing.trouble, facts.machine.listing.detail
    closed = next((it for it in facts.nodes if not it.usable and it.path != UNIFIED_MEMORY_NODE), None)
    group = closed.group if closed is not None else ""
    return _first(
        (
            trouble is Trouble.NO_BINDING,
            (
                "nvidia-ml-py is not installed, so nobody can tell which GPUs there are: "
                f"pip install '{advised_extra(facts.machine)}'"
            ),
        ),
        (
            facts.nouveau and not facts.module,
            (
                "the GPU is driven by nouveau, which knows no CUDA: install NVIDIA's driver, which shuts it out, "
                "and start the computer anew"
            ),
        ),
        (
            trouble is Trouble.MISMATCH,
            "the driver was updated while the old one is still loaded: start the computer anew",
        ),
        (
            closed is not None or trouble is Trouble.NO_PERMISSION,
            f"{user} may not open {closed.path if closed is not None else CONTROL_NODE}: "
            + (
                f"add this user to the group {group}"
                if group not in {"", "root"}
                else "give this user the right to"
            ),
        ),
        (
            trouble is Trouble.NO_DRIVER and bool(facts.module or facts.nodes),
            (
                "the driver is loaded and its libraries are not found: install them (libnvidia-compute, "
                "nvidia-utils); a container has to be started with --gpus all"
            ),
        ),
        (
            trouble is Trouble.NO_DRIVER and facts.n_cards > 0,
            (
                "there is an NVIDIA GPU and no driver for it: install NVIDIA's driver, 580 or newer (525 is enough for "
                "komad[cuda12])"
            ),
        ),
        (
            trouble is Trouble.NO_DRIVER,
            "no NVIDIA GPU is seen and no driver is loaded: put a GPU in, or set workers.devices to auto",
        ),
        (
            trouble is not None,
            f"the driver does not answer ({detail}): look for NVRM or Xid in `dmesg`, and start the computer anew",
        ),
        (
            not facts.machine.listing.gpus,
            "the driver is loaded and finds no GPU that answers: look for NVRM or Xid in `dmesg`",
        ),
    )


def judge_trial(device: WorkerDevice, trial: Trial, facts: GpuFacts, fraction: float) -> Check:
    """What a trial says; `fraction` is the part of the memory that all workers of this GPU may take together."""
    if problem := trial_problem(trial, facts):
        return _gpu(Verdict.WARN if facts.wanted == "auto" else Verdict.FAIL, str(device), problem)
    wanted, free = fraction * trial.total_bytes, trial.free_bytes
    text = (
        f"compute capability {trial.capability[0]}.{trial.capability[1]}, kernels compile in {trial.compile_s:.1f} s, "
        f"a small transform is right, {_gb(free)} of {_gb(trial.total_bytes)} free"
    )
    if free >= wanted:
        return _gpu(Verdict.OK, str(device), text)
    return _gpu(
        Verdict.WARN,
        str(device),
        f"{text}; komad may take {_gb(wanted)}, and other programs (or a komad that runs) hold the rest: end them, or "
        "lower workers.gpu_memory_fraction",
    )


def trial_problem(trial: Trial, facts: GpuFacts) -> str:
    """Where a trial failed and what to do; '' when it did not."""
    extra, why = advised_extra(facts.machine), trial.error
    paths = {node.path for node in facts.nodes}
    cuda, driver_cuda = trial.cuda // 1000, trial.driver_cuda // 1000
    return _first(
        (
            trial.failed == "import",
            f"CuPy cannot be imported ({why}): pip install --force-reinstall '{extra}'",
        ),
        (
            trial.failed == "device" and 0 < driver_cuda < cuda,
            f"CuPy needs CUDA {cuda} and the driver runs CUDA {driver_cuda} at most: update it, or install {extra}",
        ),
        (
            trial.failed == "device" and CONTROL_NODE in paths and UNIFIED_MEMORY_NODE not in paths,
            (
                f"CUDA cannot begin ({why}), for {UNIFIED_MEMORY_NODE} is missing: run "
                "`nvidia-modprobe -u -c=0` as root, as komad.service does"
            ),
        ),
        (
            trial.failed == "device",
            f"CUDA cannot use it ({why}): look for NVRM or Xid in `dmesg`, and start the computer anew",
        ),
        (
            trial.failed == "kernels",
            f"komad's kernels do not compile or run ({why}): CUDA's compiler comes with pip install '{extra}'",
        ),
        (
            trial.failed == "transform",
            (
                f"a small transform fails ({why}): cuFFT comes with pip install '{extra}'; if that is there, do not "
                "trust this GPU"
            ),
        ),
    )


def _first(*reasons: tuple[bool, str]) -> str:
    """The sentence of the first reason that holds; '' when none does."""
    return next((text for holds, text in reasons if holds), "")


def _gpu(verdict: Verdict, name: str, text: str) -> Check:
    return Check(name=name, area=Area.DEVICES, verdict=verdict, text=text)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.3g} GB"


def _n(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
