"""Small decisions: when a worker is silent, whether there is room, whether a device is sound."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from komad.errors import DeviceError
from komad.work import device, disk
from komad.work.lease import STARTUP_S, Pulse, follow, is_silent, respawn_delay_s


def test_silence_is_counted_from_the_last_new_beat() -> None:
    """A worker is silent when its number has not changed for the time allowed, by our own clock."""
    pulse = Pulse(beat=None, seen_at=100.0)
    pulse = follow(pulse, 7, now=101.0)
    assert not is_silent(pulse, now=116.0, timeout_s=15)
    pulse = follow(pulse, 7, now=116.5)
    assert is_silent(pulse, now=116.5, timeout_s=15)
    pulse = follow(pulse, 8, now=116.5)
    assert not is_silent(pulse, now=120.0, timeout_s=15)


def test_beats_are_numbers_not_times() -> None:
    """A number that falls is a sign of life as well; a row that vanished is none."""
    pulse = follow(Pulse(beat=9, seen_at=0.0), 3, now=50.0)
    assert pulse == Pulse(beat=3, seen_at=50.0)
    assert follow(pulse, None, now=90.0) == pulse


def test_starting_takes_its_time() -> None:
    """A worker that has not registered yet is given longer."""
    pulse = Pulse(beat=None, seen_at=0.0)
    assert not is_silent(pulse, now=STARTUP_S, timeout_s=15)
    assert is_silent(pulse, now=STARTUP_S + 1, timeout_s=15)


def test_respawn_delay_grows() -> None:
    """A worker that fails over and over is started less and less often."""
    assert [respawn_delay_s(n) for n in (0, 1, 2, 3, 10)] == [0.0, 1.0, 2.0, 4.0, 60.0]


def test_shortage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first directory that is low is named, with both figures and the setting."""
    free = {"/": 3.2e9, str(tmp_path): 50e9}
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[str(path)]))
    assert disk.shortage([tmp_path, tmp_path / "not" / "made"], min_free_gb=5) == ""
    reason = disk.shortage([tmp_path, Path("/")], min_free_gb=5)
    assert "3.2 GB free for /, 5 GB are wanted (output.min_free_gb)" in reason


def test_disk_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk that was mounted read-only after an error counts as no room, also before a folder on it is made."""
    monkeypatch.setattr(disk.os, "access", lambda path, mode: path != tmp_path)
    reason = disk.shortage([tmp_path.parent, tmp_path / "not" / "made"], min_free_gb=0)
    assert f"{tmp_path}/not/made cannot be written" in reason


def test_absence(tmp_path: Path) -> None:
    """A watched folder is lost when it is not there, or empty as a mount point without its mount."""
    assert "out of reach (No such file" in disk.absence(tmp_path / "camera")
    assert "is empty" in disk.absence(tmp_path)
    (tmp_path / "a.mrc").touch()
    assert disk.absence(tmp_path) == ""


def test_disk_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mount that is lost counts as no room."""

    def lost(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(disk.shutil, "disk_usage", lost)
    assert "out of reach (Input/output error)" in disk.shortage([tmp_path], min_free_gb=0)


def test_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound CPU passes; one that computes wrongly does not."""
    device.CPU.probe()
    monkeypatch.setattr(device, "rfft2", lambda picture: np.fft.rfft2(picture) * 1.01)
    with pytest.raises(DeviceError, match="computes wrongly"):
        device.CPU.probe()
