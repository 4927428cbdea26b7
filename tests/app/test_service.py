"""The systemd unit."""

import configparser
import os
import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from komad import app, service
from komad.work.worker import GRACE_S

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
UNIT = Path(__file__).parents[2] / "systemd" / "komad.service"


@pytest.fixture
def unit() -> configparser.SectionProxy:
    """Parse the [Service] section."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_unit_fits_the_daemon(unit: configparser.SectionProxy) -> None:
    """The daemon notifies and runs without root; systemd waits longer than the daemon, and that than its workers."""
    assert (unit["Type"], unit["KillMode"]) == ("notify", "mixed")
    assert unit["User"] not in {"", "root"}
    assert unit["StateDirectory"] == "komad"
    assert GRACE_S < app.STOP_LIMIT_S < float(unit["TimeoutStopSec"])
    assert float(unit["WatchdogSec"]) > 10 * app.TICK_S
    assert unit["NoNewPrivileges"] == "yes"


def test_gpus_stay_open(unit: configparser.SectionProxy) -> None:
    """Nothing in the unit closes the devices: one DeviceAllow, also an implied one, would close all others."""
    closing = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"}
    assert closing & set(unit) == set()
    assert unit["ExecStartPre"].startswith("+-"), "as root, and no failure without a GPU"


def test_reload(unit: configparser.SectionProxy) -> None:
    """A signal asks the daemon to read its configuration again."""
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"


@needs_systemd
def test_unit_is_valid() -> None:
    """The unit passes: systemd itself finds nothing wrong with the unit."""
    checked = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@needs_systemd
def test_unit_is_hardened() -> None:
    """What systemd says an attacker could do with the service stays below 2 of 10."""
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="files are given away")
def test_user_and_folders(unit: configparser.SectionProxy, tmp_path: Path) -> None:
    """The user of the unit is made with its folder, which is closed to others."""
    shipped = UNIT.parent
    systemd_root = f"--root={tmp_path}"
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", systemd_root, shipped / "sysusers.d" / "komad.conf"], check=True)
    names = [line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    assert unit["User"] in names
    said = subprocess.run(
        ["systemd-tmpfiles", systemd_root, "--create", shipped / "tmpfiles.d" / "komad.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stderr == ""
    assert stat.S_IMODE((tmp_path / "var/lib/komad").stat().st_mode) == 0o750


def test_a_systemd_that_does_not_listen_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel keeps few messages; the next one is dropped instead of waited with."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def ping() -> None:
            for _ in range(10_000):
                service.notify("WATCHDOG=1")

        pinging = threading.Thread(target=ping, daemon=True)
        pinging.start()
        pinging.join(10)
        assert not pinging.is_alive()
        assert deaf.recv(100) == b"WATCHDOG=1"
