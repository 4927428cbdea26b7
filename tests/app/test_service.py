"""The systemd unit."""

import configparser
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from komad import app
from komad.work.worker import GRACE_S

UNIT = Path(__file__).parents[2] / "systemd" / "komad.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    """Parse the [Service] section."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_unit_fits_the_daemon(service: configparser.SectionProxy) -> None:
    """The daemon notifies and runs without root; systemd waits longer than the daemon, and that than its workers."""
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert service["User"] not in {"", "root"}
    assert service["StateDirectory"] == "komad"
    assert GRACE_S < app.STOP_LIMIT_S < float(service["TimeoutStopSec"])
    assert float(service["WatchdogSec"]) > 10 * app.TICK_S
    assert service["NoNewPrivileges"] == "yes"


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
        systemd = app.notifier()
        assert systemd is not None

        def ping() -> None:
            for _ in range(10_000):
                systemd.notify("WATCHDOG=1")

        pinging = threading.Thread(target=ping, daemon=True)
        pinging.start()
        pinging.join(10)
        assert not pinging.is_alive()
        assert deaf.recv(100) == b"WATCHDOG=1"
        systemd.socket.close()
