"""The systemd unit."""

import configparser
import shutil
import subprocess
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
