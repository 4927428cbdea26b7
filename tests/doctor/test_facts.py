"""Looking at this computer."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from komad.doctor import facts, trial
from komad.doctor.facts import look_at_folders, try_gpu
from komad.store import Store, schema
from komad.store.health import read_health
from komad.work.devices import WorkerDevice
from tests.cli.conftest import Komad, config, komad
from tests.device import device_on_the_host
from tests.work.nvml import Driver, Gpu, install

__all__ = ["config", "komad"]

GPU = WorkerDevice(device="cuda:1", memory_fraction=0.45, visible="GPU-bb")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this computer has."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(facts, "_count_cards", lambda _: 0)
    monkeypatch.setattr(facts.Path, "glob", lambda *_: iter(()))


def test_on_this_computer(komad: Komad, config: Path) -> None:
    """A computer without a GPU and with a good configuration passes, and nothing is made or changed."""
    before = sorted(config.parent.rglob("*"))
    done = komad("doctor", "--config", config)
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(maxsplit=2)[1:] for line in done.out.splitlines())
    assert lines["GPU"] == "no GPU: komad computes on the CPU"
    assert lines["configuration"] == f"{config} is right"
    assert lines["state"].startswith(f"{config.parent / 'komad-state'}: will be made, ")
    assert {line[:4] for line in done.out.splitlines()} == {"OK  "}
    assert sorted(config.parent.rglob("*")) == before


def test_json(komad: Komad, config: Path) -> None:
    """The same for scripts, with the exit code of the first failure."""
    config.write_text('[workers]\ndevices = [3]\n[[watch]]\ndirectory = "camera"\n')
    done = komad("doctor", "--config", config, "--json")
    assert done.code == 8
    document = json.loads(done.out)
    assert document["schema_version"] == 1
    assert {tuple(check) for check in document["checks"]} == {("name", "area", "verdict", "text")}
    assert [check["area"] for check in document["checks"] if check["verdict"] == "fail"] == ["devices"]


def test_without_a_configuration(komad: Komad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fresh machine all else is looked at."""
    monkeypatch.chdir(tmp_path)
    done = komad("doctor")
    assert done.code == 0
    assert "WARN configuration" in done.out
    assert "no GPU: komad computes on the CPU" in done.out


def test_configuration_that_is_wrong(komad: Komad, config: Path) -> None:
    """What is wrong is said, and the rest is looked at with the defaults."""
    config.write_text("[output]\nfloat61 = true\n")
    done = komad("doctor", "--config", config)
    assert done.code == 3
    assert "output.float61" in done.out
    assert "OK   CPU" in done.out


def test_folders(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder of the configuration once: whether it is there, who may use it, on what it lies."""
    settings = facts.load_settings(config)
    mounts = f"30 22 0:31 / {config.parent / 'camera'} rw - nfs4 server:/x rw"
    monkeypatch.setattr(facts, "read_mounts", lambda: mounts)
    monkeypatch.setattr(os, "access", lambda path, _: path != config.parent)
    found = {folder.role: folder for folder in look_at_folders(settings)}
    assert list(found) == ["watch", "output", "state"]
    assert (found["watch"].network, found["watch"].usable, found["watch"].exists) == ("nfs4", True, True)
    assert (found["state"].network, found["state"].usable, found["state"].exists) == ("", False, False)
    assert found["output"].free_bytes > 0
    (config.parent / "camera").rmdir()
    assert not look_at_folders(settings)[0].reachable


def test_database(tmp_path: Path) -> None:
    """None, a sound one, one of another schema, a damaged one; it is not touched."""
    assert not read_health(tmp_path).there
    Store(tmp_path).open().close()
    assert (read_health(tmp_path).revision, read_health(tmp_path).damage) == (schema.REVISION, "")
    path = tmp_path / "komad.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    assert read_health(tmp_path).revision == "0001"
    assert path.read_bytes() == before
    page = before.index(b"CREATE TABLE jobs")
    path.write_bytes(before[: page - 200] + b"\xff" * 400 + before[page + 200 :])
    assert read_health(tmp_path).damage
    path.write_bytes(b"nonsense" * 1000)
    assert "not a database" in read_health(tmp_path).damage


def test_trial_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees its GPU alone and compiles everything anew, whatever a worker compiled before."""
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    script = (
        "import json, os, sys; print('a word of some library')\n"
        "print(json.dumps({'name': ' '.join([*sys.argv[1:], os.environ['CUDA_VISIBLE_DEVICES'],"
        " os.environ['CUDA_DEVICE_ORDER']]), 'error': os.environ['CUPY_CACHE_DIR']}))"
    )
    done = try_gpu(GPU, ("-c", script))
    assert done.name == "cuda:1 0.45 GPU-bb PCI_BUS_ID"
    assert done.error != str(tmp_path)
    assert not Path(done.error).exists()


def test_trial_as_it_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real process: without CuPy it says so, and nothing else."""
    (tmp_path / "cupy.py").write_text("raise ImportError('no CuPy here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    done = try_gpu(GPU)
    assert (done.failed, done.error) == ("import", "no CuPy here")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import os; os.abort()", "status -6"),
        ("raise RuntimeError('deep in the driver')", "deep in the driver"),
        ("import time; time.sleep(60)", "no answer for 1 s"),
    ],
)
def test_trial_that_crashes_or_hangs(monkeypatch: pytest.MonkeyPatch, script: str, error: str) -> None:
    """Whatever a GPU does to the process that asks it, the doctor goes on."""
    monkeypatch.setattr(facts, "TRIAL_LIMIT_S", 1.0 if "sleep" in script else 30.0)
    done = try_gpu(GPU, ("-c", script))
    assert done.failed == "device"
    assert error in done.error


def run_trial(monkeypatch: pytest.MonkeyPatch, cupy: Any, n_devices: int = 1) -> trial.Trial:
    """A trial on the device that the host plays."""
    runtime = cupy.cuda.runtime
    for name, value in (
        ("getDeviceCount", n_devices),
        ("runtimeGetVersion", 13020),
        ("driverGetVersion", 13000),
    ):
        monkeypatch.setattr(runtime, name, lambda value=value: value, raising=False)
    return trial.run("cuda:0", 0.5)


def test_trial_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real kernels are compiled and run, a transform is compared, and memory is told."""
    with device_on_the_host() as cupy:
        done = run_trial(monkeypatch, cupy)
    assert (done.failed, done.error) == ("", "")
    assert (done.name, done.capability, done.cuda, done.driver_cuda) == ("host", (9, 0), 13020, 13000)
    assert done.compile_s > 0
    assert 0 < done.free_bytes <= done.total_bytes


@pytest.mark.parametrize("step", ["import", "device", "kernels", "transform"])
def test_trial_names_the_step_that_fails(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """What comes after it is not tried."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in two\n  lines")

    with device_on_the_host() as cupy:
        if step == "import":
            with monkeypatch.context() as within:  # undone before the device goes
                within.setitem(sys.modules, "cupy", None)
                done = trial.run("cuda:0", 0.5)
            assert done.failed == "import"
            return
        if step == "kernels":
            monkeypatch.setattr(cupy, "RawModule", fail)
            monkeypatch.setattr("komad.kernels.cuda.device._module", fail)
        if step == "transform":
            monkeypatch.setattr(cupy.fft, "rfft2", fail)
        done = run_trial(monkeypatch, cupy, n_devices=step != "device")
    assert done.failed == step
    assert done.error.endswith("CUDA finds no device" if step == "device" else "in two lines")


def test_cards_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's display and 3D controllers count, their sound devices and other makers' cards do not."""
    monkeypatch.undo()
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x10de", "0x030200"), ("0x8086", "0x030000")]
    ):
        card = tmp_path / f"0000:0{number}:00.0"
        card.mkdir()
        (card / "vendor").write_text(f"{vendor}\n")
        (card / "class").write_text(f"{kind}\n")
    assert facts._count_cards(tmp_path) == 2
    assert facts._count_cards(tmp_path / "none") == 0


def test_gpu_that_would_be_chosen_is_tried(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """Each GPU of the choice once, though it has two workers."""
    install(monkeypatch, Driver((Gpu("GPU-aa"), Gpu("GPU-bb"))))
    cupy = facts.look_around().cupy or (facts_cupy(),)
    monkeypatch.setattr("komad.work.devices.installed_cupy", lambda: cupy[:1])
    config.write_text('[workers]\ndevices = [1, 1]\n[[watch]]\ndirectory = "camera"\n')
    tried: list[WorkerDevice] = []
    monkeypatch.setattr(facts, "try_gpu", lambda device: tried.append(device) or trial.Trial())
    found = facts.look_at_gpus(facts.load_settings(config))
    assert [device.visible for device in tried] == ["GPU-bb"]
    assert found.choice is not None
    assert [device.memory_fraction for device in found.choice.devices] == [0.45, 0.45]


def facts_cupy() -> Any:
    """A CuPy for CUDA 13."""
    from komad.work.devices import Cupy

    return Cupy(package="cupy-cuda13x", version="14.2.0", cuda=13)
