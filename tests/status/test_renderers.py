"""Text and JSON of the status."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from komad.status.json import to_json
from komad.status.places import Place
from komad.status.text import duration, render, size
from komad.status.view import StatusView, build_view
from komad.store.detector import DetectorFacts, GainCheck
from komad.store.overview import CleanupState, Overview
from tests.status.conftest import BUSY, DETECTOR, GPU, NOW, PLACES, SET_ASIDE, SLOW

Facts = Callable[..., Overview]


def screen(view: StatusView) -> list[str]:
    """Lines of an 80-column terminal."""
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(view))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_screen_holds_the_numbers(overview: Facts) -> None:
    """Every fact that an operator looks for is on the screen."""
    text = "\n".join(screen(build_view(overview(), PLACES, detector=DETECTOR, now=NOW)))
    for wanted in (
        "running",
        "12 s ago",
        "FoilHole_7_Data_8",
        "970",
        "clears in 10 min",
        "correct FoilHole_6",
    ):
        assert wanted in text
    for wanted in (
        "silent for 2 min",
        "500 GB free, full in 5.0 h",
        "/mnt/camera",
        "7 correct the pixel size",
        "movie_truncated",
        "12 movies, last FoilHole_4: 2.1 % of the pixels are",
    ):
        assert wanted in text


def test_screen_fits_80_by_24_however_much_there_is(overview: Facts) -> None:
    """Many workers, disks, folders, reasons and errors are cut, with how many were left out."""
    crowd = overview(
        workers=BUSY.workers * 8,
        held=tuple(replace(BUSY.held[0], reason=f"reason {n} " + "long " * 30) for n in range(9)),
        errors=BUSY.errors * 9,
        last_found="stem" * 40,
        cleanup=CleanupState(
            n_removed=1, removed_bytes=1, n_due=0, due_bytes=0, n_kept=1, kept={"a": "long " * 30}
        ),
    )
    places = tuple(
        replace(place, path=Path(f"{place.path}/{n}"), device=n) for place in PLACES for n in range(5)
    )
    lines = screen(build_view(crowd, places, detector=DETECTOR, now=NOW))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "and 13 more" in [line.strip() for line in lines]


def test_slow_folder(overview: Facts) -> None:
    """A folder without events says how often it is looked at, what is not finished, what is unreadable and why."""
    places = (Place(role="watch", path=Path("/mnt/eer"), reachable=True),)
    view = build_view(overview(folders=(SLOW,)), places, detector=DETECTOR, now=NOW)
    [line] = [line for line in screen(view) if "/mnt/eer" in line]
    assert "/mnt/eer  3 not finished  1 unreadable  looked at every 2 min  /mnt" in line
    [folder] = json.loads(json.dumps(to_json(view)))["folders"]
    assert folder == {**asdict(SLOW), "reachable": True}


def test_screen_says_when_nothing_runs(overview: Facts) -> None:
    """Old beats, no movie yet, a pause: said in words."""
    stopped = build_view(overview(), PLACES, detector=DETECTOR, now=NOW + timedelta(hours=1))
    assert "not running" in screen(stopped)[0]
    empty = build_view(
        overview(workers=(), n_movies=0, last_found_at=None), PLACES, detector=DETECTOR, now=NOW
    )
    assert any("none yet" in line for line in screen(empty))
    assert any("komad run" in line for line in screen(empty))
    assert (
        "paused: disk"
        in screen(build_view(overview(paused_by_disk="disk"), PLACES, detector=DETECTOR, now=NOW))[0]
    )


def test_screen_shows_the_detector(overview: Facts) -> None:
    """Noise in three stages, its change, outliers, KOMA with who waits and why, the gain, the disk."""
    text = "\n".join(screen(build_view(overview(), PLACES, detector=DETECTOR, now=NOW)))
    for wanted in (
        "correlated noise raw 0.4 %, outliers filled 0.08 %, KOMA <0.001 %",
        "trend raw 0.4 -> 0.4 %, outliers 1,240 -> 1,240, gain 0.6 -> 0.6 %",
        "1,240 outliers, 14 x-rays   123 stack sums, 1.4 GB",
        "KOMA trailing 24 of 24 stacks, 2 held: KOMA waits for the archive",
        "gain lies the right way (31 sigma)",
    ):
        assert wanted in text


def test_screen_of_a_wrong_gain_and_an_alarm(overview: Facts) -> None:
    """Each has its line, with what to do; nothing is measured yet is said, too."""
    check = GainCheck(verdict="other", best=(1, 2), confidence=18.0, sentence="", accepted=False)
    aged = tuple(replace(movie, pattern_spread=0.02) for movie in DETECTOR.last)
    facts = replace(DETECTOR, gain_check=check, last=aged)
    text = "\n".join(screen(build_view(overview(), PLACES, detector=facts, now=NOW)))
    assert "gain WRONG: try gain_rot = 1, gain_flip = 2 (18 sigma)" in text
    assert "gain ages: leaves 2 %, at first 0.6 %; take a new gain reference" in text
    nothing = "\n".join(screen(build_view(overview(), PLACES, detector=DetectorFacts(), now=NOW)))
    assert "KOMA no movie yet" in nothing


def test_screen_shows_what_a_gpu_does(overview: Facts) -> None:
    """How busy, how much memory, how hot; what the driver does not tell is left out."""
    assert GPU.gpu is not None
    untold = replace(GPU, gpu=replace(GPU.gpu, utilisation=None, temperature_celsius=None))
    view = build_view(overview(workers=(GPU, untold)), PLACES, detector=DETECTOR, now=NOW)
    lines = [line for line in screen(view) if "cuda1-" in line]
    assert (
        lines[0].split("workers   ")[1]
        == "cuda1-1a2b3c4d 87 %, 12.3/151 GB, 61 °C  correcting FoilHole_6 beat 1…"
    )
    assert "cuda1-1a2b3c4d 12.3/151 GB  correcting FoilHole_6 beat 1 s ago" in lines[1]


def test_json_of_a_gpu(overview: Facts) -> None:
    """Each worker has its GPU, null for a CPU."""
    view = build_view(overview(workers=(GPU, BUSY.workers[0])), PLACES, detector=DETECTOR, now=NOW)
    workers = json.loads(json.dumps(to_json(view)))["workers"]
    assert workers[0]["gpu"] == {
        "name": "NVIDIA H200", "uuid": "GPU-5a1c", "memory_used_bytes": 12_300_000_000,
        "memory_total_bytes": 150_800_000_000, "utilisation": 0.87, "temperature_celsius": 61,
    }  # fmt: skip
    assert workers[1]["gpu"] is None


def test_json_of_the_detector(overview: Facts) -> None:
    """Numbers for scripts, shares as parts of one, times as text."""
    document = json.loads(json.dumps(to_json(build_view(overview(), PLACES, detector=DETECTOR, now=NOW))))
    detector = document["detector"]
    assert detector["last"]["correlation_raw"] == 4e-3
    assert detector["last"]["found_at"] == "2026-03-04T11:30:00.000+00:00"
    assert detector["trend"]["n_outliers"] == [1240, 1240]
    assert detector["alarm"] is None
    assert detector["gain"]["state"] == "ok"
    assert detector["koma"]["n_waiting"] == 2
    nothing = to_json(build_view(overview(), PLACES, detector=DetectorFacts(), now=NOW))
    assert json.loads(json.dumps(nothing, allow_nan=False))["detector"]["last"] is None


def test_cleanup(overview: Facts) -> None:
    """What was removed, is due and is kept has a line where movies are removed, and none where they stay."""
    state = CleanupState(
        n_removed=1200,
        removed_bytes=800_000_000_000,
        n_due=3,
        due_bytes=2_000_000_000,
        n_kept=2,
        kept={"FoilHole_1": "it is a link, not a file", "FoilHole_2": "its archive is missing"},
    )
    view = build_view(overview(cleanup=state), PLACES, detector=DETECTOR, now=NOW)
    (line,) = [line for line in screen(view) if line.startswith("clean-up")]
    assert line.startswith("clean-up  1,200 movies removed, 800 GB; 3 due, 2 GB; 2 kept: FoilHole_2: it")
    document: Any = to_json(view)
    assert document["cleanup"]["kept"]["FoilHole_1"] == "it is a link, not a file"
    without = build_view(overview(), PLACES, detector=DETECTOR, now=NOW)
    assert to_json(without)["cleanup"] is None
    assert not any("clean-up" in line for line in screen(without))


def test_json_has_the_documented_keys_and_plain_values(overview: Facts) -> None:
    """The document survives JSON and holds every key of the module's description."""
    document = json.loads(
        json.dumps(to_json(build_view(overview(), PLACES, detector=DETECTOR, now=NOW)), allow_nan=False)
    )
    assert document["schema_version"] == 1
    assert set(document) == {
        "schema_version", "taken_at", "running", "paused", "paused_by", "last_movie", "counts", "rates", "clears_in_s",
        "workers", "bad_devices", "disks", "cleanup", "folders", "detector", "held", "errors", "warnings",
    }  # fmt: skip
    assert document["counts"] == {
        "found": 1000, "archived": 980, "corrected": 970, "failed": 3, "held": 7, "backlog": 20,
    }  # fmt: skip
    assert document["last_movie"] == {"stem": "FoilHole_7_Data_8", "age_s": 12.0}
    assert document["disks"][0]["paths"] == ["/data/out", "/data/archive"]
    assert document["workers"][0]["pid"] == 4711
    assert document["paused"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2.5 h"), (259200, "3 d")],
)
def test_duration_uses_the_unit_that_fits(seconds: float, text: str) -> None:
    """Seconds, minutes, hours, days."""
    assert duration(seconds) == text


def test_size_uses_the_unit_that_fits() -> None:
    """Decimal units, three digits."""
    assert [size(n) for n in (4.2e12, 123e9, 1.5e6, 2000)] == ["4.2 TB", "123 GB", "1.5 MB", "2 kB"]


def test_screen_shows_who_pauses(overview: Facts) -> None:
    """A person's pause stands first, with the command that ends it, and does not hide that of the disk."""
    facts = overview(paused_by_person="ask Ann", paused_by_disk="disk: full")
    view = build_view(facts, PLACES, detector=DETECTOR, now=NOW)
    assert view.paused == "by a person (ask Ann); `komad resume` lets jobs go on; disk: full"
    assert screen(view)[0].startswith("komad paused: by a person (ask Ann); `komad resume`")
    assert to_json(view)["paused_by"] == ["person", "disk"]


def test_screen_shows_devices_that_are_set_aside(overview: Facts) -> None:
    """Which, for how long still, why; the daemon runs though no worker of it does."""
    view = build_view(overview(workers=(), bad_devices=(SET_ASIDE,)), PLACES, detector=DETECTOR, now=NOW)
    assert any("cuda:1 is set aside, tried again in 40 s: cuda:1 is lost" in line for line in screen(view))
    assert view.running
