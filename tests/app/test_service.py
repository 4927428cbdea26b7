"""The systemd unit."""

import configparser
import grp
import os
import shutil
import socket
import stat
import subprocess
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from komad import service
from komad.app.daemon import STOP_LIMIT_S, TICK_S
from komad.app.state import close_to_others, locked
from komad.cli.locate import config_path, read_places
from komad.errors import KomadError
from komad.store import Store
from komad.store.overview import read_overview
from komad.work.worker import GRACE_S

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
NOBODY = 65534
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
    assert GRACE_S < STOP_LIMIT_S < float(unit["TimeoutStopSec"])
    assert float(unit["WatchdogSec"]) > 10 * TICK_S
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


def as_nobody(work: Callable[[], object]) -> str:
    """Do something in a child as the user nobody; gives what komad said was wrong, or the traceback."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            said = "all is well"
        except KomadError as error:
            said = str(error)
        except Exception:  # noqa: BLE001 - the child has no other way to tell
            said = traceback.format_exc()
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said_by_child:
        said = said_by_child.read()
    os.wait()
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not in komad's group may neither look nor change anything, and is told which group that is."""
    state = tmp_path / "state"
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and not folder.stat().st_mode & stat.S_ISVTX and folder != Path("/"):
            folder.chmod(0o755)  # nobody gets as far as komad's own folder
    with locked(state), Store(state).open():
        close_to_others(state)
        looks = as_nobody(lambda: read_overview(state, now=datetime.now(UTC)))
        changes = as_nobody(lambda: Store(state).open(create=False))
    group = grp.getgrgid(state.stat().st_gid).gr_name
    for said in (looks, changes):
        assert said.startswith(f"this user may not look into {state}")
        assert f"members of the group {group} may" in said
    config = tmp_path / "closed" / "komad.toml"
    config.parent.mkdir(mode=0o750)
    config.touch(mode=0o640)
    monkeypatch.delenv("KOMAD_CONFIG", raising=False)
    monkeypatch.setattr("komad.cli.locate.STANDARD_PLACES", (config,))
    said = as_nobody(lambda: read_places(config_path(None)))
    assert f"cannot read the configuration {config}: Permission denied" in said
