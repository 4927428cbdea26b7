"""The systemd unit."""

import configparser
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from komad import app, service
from komad.work.worker import GRACE_S

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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_unit_is_valid() -> None:
    """The unit passes: systemd itself finds nothing wrong with the unit."""
    checked = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


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
