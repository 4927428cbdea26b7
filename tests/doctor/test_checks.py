"""What facts mean: every mismatch has its sentence, and says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from komad.cli import doctor
from komad.doctor.checks import (
    Area,
    Check,
    Verdict,
    judge,
    judge_computer,
    judge_database,
    judge_folders,
    judge_gpus,
    judge_program,
)
from komad.doctor.facts import Computer, Facts, Folder, GpuFacts, Node, Program
from komad.doctor.trial import Trial
from komad.errors import KomadError
from komad.store.health import DatabaseHealth
from komad.work.devices import Cupy, Machine, choose
from komad.work.nvml import ListedGpu, Listing, Trouble

CUDA12 = Cupy(package="cupy-cuda12x", version="14.2.0", cuda=12)
CUDA13 = Cupy(package="cupy-cuda13x", version="14.2.0", cuda=13)
GPU = ListedGpu(number=0, uuid="GPU-aa", name="NVIDIA H200", total_bytes=150_000_000_000, capability=(9, 0))
NODES = tuple(
    Node(path=f"/dev/{name}", usable=True, group="root") for name in ("nvidia-uvm", "nvidia0", "nvidiactl")
)
PASSED = Trial(
    cuda=13020,
    driver_cuda=13000,
    name="NVIDIA H200",
    capability=(9, 0),
    free_bytes=149_000_000_000,
    total_bytes=150_000_000_000,
    compile_s=2.12,
)


def machine(trouble: Trouble | None = None, *, cupy: Iterable[Cupy] = (CUDA13,), **listed: Any) -> Machine:
    """A machine with one GPU whose driver answers, or does not."""
    values: dict[str, Any] = {"gpus": (GPU,), "driver": "580.65.06", "cuda": (13, 0)} if not trouble else {}
    return Machine(
        listing=Listing(trouble=trouble, detail="in its words", **(values | listed)), cupy=tuple(cupy)
    )


def gpu_facts(wanted: Any, there: Machine, trial: Trial = PASSED, **changes: Any) -> GpuFacts:
    """Facts whose choice is what komad would choose."""
    facts = GpuFacts(wanted=wanted, machine=there, choice=None, n_cards=1, module="580.65.06", nodes=NODES)
    try:
        choice = choose(wanted, there)
    except KomadError as error:
        return replace(facts, choice_problem=str(error), **changes)
    trials = {device.visible: trial for device in choice.devices}
    return replace(facts, choice=choice, trials=trials, **changes)


def last(facts: GpuFacts) -> Check:
    """What the chain ends with."""
    return list(judge_gpus(facts, "krios"))[-1]


NOTHING: dict[str, Any] = {"n_cards": 0, "module": "", "nodes": ()}
"""A computer without a GPU."""


def test_no_gpu() -> None:
    """A computer without one is all right, whatever is installed; it is told in one plain line."""
    for there in (machine(Trouble.NO_BINDING, cupy=()), machine(Trouble.NO_DRIVER)):
        (check,) = judge_gpus(gpu_facts("auto", there, **NOTHING), "krios")
        assert (check.verdict, check.text) == (Verdict.OK, "no GPU: komad computes on the CPU")


def test_no_gpu_though_one_is_configured() -> None:
    """Then it is missed."""
    check = last(gpu_facts(("cuda:0",), machine(Trouble.NO_DRIVER), **NOTHING))
    assert (check.verdict, check.area) == (Verdict.FAIL, Area.DEVICES)
    assert "no NVIDIA GPU is seen" in check.text


def test_gpus_that_nobody_wants() -> None:
    """Where the CPU alone is configured, nothing of CUDA is looked at."""
    check = last(gpu_facts(("cpu", "cpu"), machine(Trouble.OTHER)))
    assert (check.verdict, check.text) == (Verdict.OK, "not used: workers.devices names the CPU alone")


def test_all_is_well() -> None:
    """Driver, CuPy and the GPU have a line each, with what a person wants to know."""
    driver, cupy, gpu = judge_gpus(gpu_facts("auto", machine()), "krios")
    assert {check.verdict for check in (driver, cupy, gpu)} == {Verdict.OK}
    assert driver.text == "NVIDIA 580.65.06, runs CUDA 13.0; there is cuda:0 = NVIDIA H200 (GPU-aa)"
    assert cupy.text == "cupy-cuda13x 14.2.0"
    assert gpu.name == "cuda:0 (NVIDIA H200)"
    assert "compute capability 9.0, kernels compile in 2.1 s" in gpu.text
    assert "149 GB of 150 GB free" in gpu.text


CLOSED = (replace(NODES[1], usable=False, group="video"), NODES[2])
DRIVER_FAULTS: list[tuple[Machine, dict[str, Any], str]] = [
    (machine(Trouble.NO_DRIVER), {"nodes": (), "module": "", "nouveau": True}, "driven by nouveau"),
    (machine(Trouble.NO_DRIVER), {"nodes": (), "module": ""}, "no driver for it: install NVIDIA's driver, 580"),
    (machine(Trouble.NO_DRIVER), {}, "its libraries are not found: install them (libnvidia-compute"),
    (machine(Trouble.MISMATCH), {}, "still loaded: start the computer anew"),
    (machine(Trouble.NO_PERMISSION), {"nodes": CLOSED}, "may not open /dev/nvidia0: add this user to the group video"),
    (machine(Trouble.NO_PERMISSION), {}, "krios may not open /dev/nvidiactl: give this user the right to"),
    (machine(), {"nodes": CLOSED}, "krios may not open /dev/nvidia0: add this user to the group video"),
    (machine(Trouble.OTHER), {}, "does not answer (in its words): look for NVRM or Xid"),
    (machine(Trouble.NO_BINDING, cupy=()), {}, "nvidia-ml-py is not installed, so nobody can tell"),
    (machine(gpus=()), {}, "finds no GPU that answers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("there", "changes", "text"), DRIVER_FAULTS, ids=[it[2][:30] for it in DRIVER_FAULTS]
)
def test_driver(there: Machine, changes: dict[str, Any], text: str) -> None:
    """Each fault of the driver is told apart; with `auto` komad goes on with the CPU, so it is a warning."""
    (check,) = judge_gpus(gpu_facts("auto", there, **changes), "krios")
    assert (check.name, check.verdict) == ("driver", Verdict.WARN)
    assert text in check.text
    assert check.text.endswith("; until then komad computes on the CPU")
    if there.listing.trouble is not Trouble.NO_BINDING:
        assert last(gpu_facts(("cuda:0",), there, **changes)).verdict is Verdict.FAIL


def test_without_nvidia_ml_py() -> None:
    """A GPU that is configured works all the same: it is tried."""
    checks = list(judge_gpus(gpu_facts(("cuda:0",), machine(Trouble.NO_BINDING)), "krios"))
    assert [check.name for check in checks] == ["driver", "CuPy", "cuda:0"]
    assert [check.verdict for check in checks] == [Verdict.WARN, Verdict.OK, Verdict.OK]


@pytest.mark.parametrize(
    ("there", "text"),
    [
        (machine(cupy=()), "CuPy is not installed: pip install 'komad[cuda13]'"),
        (machine(cupy=(), cuda=(12, 4)), "CuPy is not installed: pip install 'komad[cuda12]'"),
        (machine(cupy=(CUDA12, CUDA13)), "overwrite one another: uninstall all of them, then install one"),
        (machine(cuda=(12, 4)), "12.4 at most: install komad[cuda12] in place of it or update the driver to 580"),
    ],
)  # fmt: skip
def test_cupy(there: Machine, text: str) -> None:
    """Whether it is there, alone, and of a CUDA that the driver runs."""
    check = last(gpu_facts("auto", there))
    assert (check.name, check.verdict) == ("CuPy", Verdict.WARN)
    assert text in check.text
    assert last(gpu_facts(("cuda:0",), there)).verdict is Verdict.FAIL


def test_gpu_that_is_too_old() -> None:
    """What CUDA 13 has dropped works with CUDA 12."""
    old = replace(GPU, name="Tesla V100", capability=(7, 0))
    check = last(gpu_facts("auto", machine(gpus=(old,))))
    assert check.verdict is Verdict.WARN
    assert "CUDA 13 needs 7.5: install komad[cuda12] in place of cupy-cuda13x" in check.text
    assert last(gpu_facts("auto", machine(gpus=(old,), cupy=(CUDA12,)))).verdict is Verdict.OK


def test_gpu_that_is_not_there() -> None:
    """What is configured and missing is a failure that lists what there is."""
    check = last(gpu_facts(("cuda:3",), machine()))
    assert check.verdict is Verdict.FAIL
    assert "names cuda:3, but there is no such GPU. There is cuda:0 = NVIDIA H200 (GPU-aa)" in check.text


WITHOUT_UVM = {"nodes": NODES[1:]}


@pytest.mark.parametrize(
    ("trial", "changes", "text"),
    [
        (Trial(failed="import", error="libcublas.so.13"), {}, "(libcublas.so.13): pip install --force"),
        (Trial(failed="device", error="too old", cuda=13020, driver_cuda=12040), {}, "driver runs CUDA 12 at most"),
        (Trial(failed="device", error="unknown error", cuda=13020), WITHOUT_UVM, "`nvidia-modprobe -u -c=0` as root"),
        (Trial(failed="device", error="unknown error", cuda=13020), {}, "cannot use it (unknown error): look for NVRM"),
        (Trial(failed="kernels", error="no libnvrtc.so.13"), {}, "compiler comes with pip install 'komad[cuda13]'"),
        (Trial(failed="transform", error="off by 3"), {}, "a small transform fails (off by 3): cuFFT comes with"),
    ],
)  # fmt: skip
def test_trial_that_fails(trial: Trial, changes: dict[str, Any], text: str) -> None:
    """The step at which it failed has its own advice."""
    check = last(gpu_facts(("cuda:0",), machine(), trial, **changes))
    assert check.verdict is Verdict.FAIL
    assert text in check.text
    assert last(gpu_facts("auto", machine(), trial, **changes)).verdict is Verdict.WARN


def test_memory_that_others_hold() -> None:
    """Free memory is compared with what all workers of the GPU may take together."""
    trial = replace(PASSED, free_bytes=100_000_000_000)
    check = last(gpu_facts(("cuda:0", "cuda:0"), machine(), trial))
    assert check.verdict is Verdict.WARN
    assert "komad may take 135 GB, and other programs" in check.text


def test_program() -> None:
    """A package that is missing, or a Python that is too old, is a failure."""
    whole = Program(python="3.12.3", packages={"numpy": "2.3", "scipy": "1.16", "pydantic": "2.10"})
    (check,) = judge_program(whole)
    assert (check.verdict, check.text) == (
        Verdict.OK,
        "Python 3.12.3, all 3 packages (numpy 2.3, scipy 1.16)",
    )
    (check,) = judge_program(replace(whole, packages={"numpy": "2.3", "blosc": ""}))
    assert (check.verdict, "blosc missing" in check.text) == (Verdict.FAIL, True)
    (check,) = judge_program(replace(whole, python="3.9.2"))
    assert check.verdict is Verdict.FAIL


def test_computer() -> None:
    """Little memory is a warning, a CPU that computes wrongly a failure."""
    good = Computer(n_cores=1, memory_bytes=25_000_000_000, cpu_problem="")
    assert [check.text for check in judge_computer(good)] == [
        "1 core, 25 GB of memory",
        "a small transform is right",
    ]
    small, _ = judge_computer(replace(good, memory_bytes=2_000_000_000))
    assert small.verdict is Verdict.WARN
    assert "workers.read_ahead" in small.text
    _, wrong = judge_computer(replace(good, cpu_problem="cpu computes wrongly"))
    assert (wrong.verdict, wrong.text) == (Verdict.FAIL, "cpu computes wrongly")


def folder(role: str, **changes: Any) -> Folder:
    """A local folder that can be used."""
    values: dict[str, Any] = {"reachable": True, "exists": True, "usable": True, "free_bytes": 80_000_000_000}
    return Folder(role=role, path=Path("/data"), **(values | changes))


@pytest.mark.parametrize(
    ("looked_at", "verdict", "text"),
    [
        (folder("output"), "ok", "/data: can be written, 80 GB free"),
        (folder("output", exists=False), "ok", "will be made, 80 GB free"),
        (folder("output", usable=False), "fail", "krios may not write there"),
        (folder("output", reachable=False), "fail", "make or mount it"),
        (folder("archive", free_bytes=3_000_000_000), "fail", "no job starts below 5 GB (output.min_free_gb)"),
        (folder("output", network="nfs4"), "ok", "can be written"),
        (folder("state", network="nfs4"), "fail", "(nfs4), where the database would be damaged"),
        (folder("watch"), "ok", "can be read"),
        (folder("watch", network="cifs"), "ok", "can be read, on cifs"),
        (folder("watch", usable=False), "fail", "krios may not read it"),
        (folder("watch", reachable=False), "warn", "komad waits for it"),
    ],
)  # fmt: skip
def test_folders(looked_at: Folder, verdict: str, text: str) -> None:
    """What komad reads must be readable, what it writes writable and roomy, the database on a local disk."""
    (check,) = judge_folders((looked_at,), 5.0, "krios")
    assert (check.verdict, text in check.text) == (verdict, True), check.text


@pytest.mark.parametrize(
    ("database", "verdict", "text"),
    [
        (DatabaseHealth(there=False), "ok", "none yet"),
        (DatabaseHealth(there=True, revision="0003"), "ok", "sound, schema 0003"),
        (DatabaseHealth(there=True, revision="0001"), "ok", "brings it to 0003"),
        (DatabaseHealth(there=True, revision="0009"), "fail", "knows 0003: install the newer komad"),
        (DatabaseHealth(there=True, damage="row 3 missing from index"), "fail", "row 3 missing from index: restore"),
    ],
)  # fmt: skip
def test_database(database: DatabaseHealth, verdict: str, text: str) -> None:
    """Sound, and of a schema that this komad knows or can bring up to date."""
    (check,) = judge_database(database, "0003")
    assert (check.verdict, text in check.text) == (verdict, True), check.text


SOUND = Facts(
    user="krios",
    program=Program(python="3.12.3", packages={"numpy": "2.3"}),
    computer=Computer(n_cores=8, memory_bytes=64_000_000_000, cpu_problem=""),
    configuration=Path("komad.toml"),
    configuration_problem="",
    min_free_gb=5.0,
    folders=(folder("watch"), folder("output"), folder("state")),
    database=DatabaseHealth(there=False),
    newest_schema="0003",
    gpu=gpu_facts("auto", machine(Trouble.NO_BINDING, cupy=()), **NOTHING),
)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"configuration": None, "configuration_problem": "there is none"}, 0),
        ({"configuration_problem": "processing.skip_first: too low"}, 3),
        ({"folders": (folder("output"), folder("state"))}, 3),
        ({"folders": (folder("watch"), folder("output", usable=False))}, 6),
        ({"database": DatabaseHealth(there=True, damage="no")}, 5),
        ({"gpu": gpu_facts(("cuda:0",), machine(Trouble.NO_DRIVER))}, 8),
        ({"gpu": gpu_facts("auto", machine(Trouble.NO_DRIVER))}, 0),
        ({"program": Program(python="3.9", packages={})}, 8),
        ({"configuration_problem": "wrong", "database": DatabaseHealth(there=True, damage="no")}, 3),
    ],
)
def test_exit_code(changes: dict[str, Any], code: int) -> None:
    """That of the first failure; warnings are none."""
    assert doctor.exit_code(judge(replace(SOUND, **changes))) == code
