"""How much has to stay free, when claims stop and go on, and what is told before."""

from __future__ import annotations

from pathlib import Path

import pytest

from komad.store.growth import Growth
from komad.work.disk import Forecast, Volume, low, reserve_bytes, volumes

GROWTH = Growth(
    bytes_per_movie={"output": 300e6, "archive": 200e6, "state": 0.0}, movies_per_hour=100, n_in_hand=2
)


def volume(free_gb: float) -> Volume:
    """One for everything."""
    return Volume(
        directories=(Path("/data"),), roles=("output", "archive", "state"), free_bytes=1e9 * free_gb
    )


def test_reserve() -> None:
    """What has to be free: the limit, what two movies in hand write, and the next of each worker."""
    assert reserve_bytes(volume(9), GROWTH, min_free_gb=5, n_workers=1, paused=False) == 5e9 + 3 * 500e6
    only_archives = Volume(directories=(Path("/a"),), roles=("archive",), free_bytes=0)
    assert reserve_bytes(only_archives, GROWTH, min_free_gb=5, n_workers=1, paused=False) == 5e9 + 3 * 200e6


def test_hysteresis() -> None:
    """Claims stop below one limit and go on above a higher one, which the reason names."""
    limits = {"min_free_gb": 5.0, "n_workers": 1}
    assert low(volume(6.6), GROWTH, **limits, paused=False) == ""  # type: ignore[arg-type]
    reason = low(volume(6.4), GROWTH, **limits, paused=False)  # type: ignore[arg-type]
    assert "6.4 GB free for /data" in reason
    assert "from 12.0 GB on" in reason
    assert low(volume(11.9), GROWTH, **limits, paused=True)  # type: ignore[arg-type]
    assert low(volume(12.1), GROWTH, **limits, paused=True) == ""  # type: ignore[arg-type]


def test_forecast() -> None:
    """Hours until claims stop, news once below 12 h and once below 2 h; again after room was made."""
    forecast = Forecast()
    looked = [
        forecast.look(volume(free_gb), GROWTH, min_free_gb=5)
        for free_gb in (705, 505, 500, 95, 90, 2000, 500)
    ]
    assert looked == [
        (pytest.approx(14), False),
        (pytest.approx(10), True),
        (pytest.approx(9.9), False),
        (pytest.approx(1.8), True),
        (pytest.approx(1.7), False),
        (pytest.approx(39.9), False),
        (pytest.approx(9.9), True),
    ]
    assert (
        forecast.look(volume(1), Growth(bytes_per_movie={}, movies_per_hour=0, n_in_hand=0), min_free_gb=5)
        is None
    )


def test_volumes(tmp_path: Path) -> None:
    """Folders on one file system are one volume, also those that are not made yet."""
    (found,) = volumes({"output": tmp_path / "o" / "p", "archive": tmp_path / "a", "state": tmp_path})
    assert found.roles == ("output", "archive", "state")
    assert len(found.directories) == 3
