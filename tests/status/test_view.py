"""The view model against sums done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from komad.status.places import Place
from komad.status.view import build_view
from komad.store.growth import NO_GROWTH
from komad.store.overview import HeldGroup, Overview, Window
from tests.status.conftest import BUSY, DETECTOR, NOW, PLACES, SLOW

Facts = Callable[..., Overview]


def test_counts_movies_by_how_far_they_came(overview: Facts) -> None:
    """Found, archived, corrected, failed and backlog follow from the jobs by kind and state."""
    counts = build_view(overview(), PLACES, detector=DETECTOR, now=NOW).counts
    assert (counts.found, counts.archived, counts.corrected) == (1000, 980, 970)
    assert counts.failed == 2 + 1
    assert counts.backlog == 17 + 1 + 2


def test_held_leaves_out_jobs_that_only_wait_for_their_archive(overview: Facts) -> None:
    """27 correct jobs are held, 7 of them for a reason that a person must see."""
    assert build_view(overview(), PLACES, detector=DETECTOR, now=NOW).counts.held == 7


def test_last_movie_has_an_age(overview: Facts) -> None:
    """The age of the last movie counts from when it was found; none without a movie."""
    assert build_view(overview(), PLACES, detector=DETECTOR, now=NOW).last_movie_age_s == 12
    empty = build_view(
        overview(n_movies=0, last_found_at=None, first_found_at=None), PLACES, detector=DETECTOR, now=NOW
    )
    assert empty.last_movie_age_s is None


def test_rates_come_from_ten_minutes(overview: Facts) -> None:
    """30 movies found and 50 corrected in ten minutes are 180 and 300 per hour."""
    rates = build_view(overview(), PLACES, detector=DETECTOR, now=NOW).rates
    assert (rates.found_per_hour, rates.corrected_per_hour) == pytest.approx((180, 300))
    assert (rates.found_last_hour, rates.corrected_last_hour) == (240, 228)


def test_rates_of_a_young_session_count_from_its_start(overview: Facts) -> None:
    """30 movies in the first two minutes are 900 per hour, not 180."""
    view = build_view(overview(first_found_at=NOW - timedelta(minutes=2)), PLACES, detector=DETECTOR, now=NOW)
    assert view.rates.found_per_hour == pytest.approx(900)


def test_backlog_clears_at_the_difference_of_the_rates(overview: Facts) -> None:
    """20 movies at 300 - 180 per hour take ten minutes."""
    assert build_view(overview(), PLACES, detector=DETECTOR, now=NOW).clears_in_s == pytest.approx(600)


def test_backlog_that_grows_never_clears(overview: Facts) -> None:
    """More found than corrected: no time is given; without a backlog it is zero."""
    slow = Window(found=30, archived=0, corrected=10)
    assert build_view(overview(last_ten_minutes=slow), PLACES, detector=DETECTOR, now=NOW).clears_in_s is None
    assert (
        build_view(overview(jobs={("correct", "done"): 5}), PLACES, detector=DETECTOR, now=NOW).clears_in_s
        == 0
    )


def test_silent_worker_is_not_alive(overview: Facts) -> None:
    """One beat 90 s ago is a silent worker; komad runs as long as another one beats."""
    view = build_view(overview(), PLACES, detector=DETECTOR, now=NOW)
    assert [worker.alive for worker in view.workers] == [True, False]
    assert view.running
    assert not build_view(overview(), PLACES, detector=DETECTOR, now=NOW + timedelta(minutes=1)).running


def test_disk_hours_add_what_shares_a_file_system(overview: Facts) -> None:
    """500 GB at 60 + 40 GB per hour last 5 hours, and are one line."""
    (disk,) = build_view(overview(), PLACES, detector=DETECTOR, now=NOW).disks
    assert disk.hours_left == pytest.approx(5.0)
    assert disk.paths == (Path("/data/out"), Path("/data/archive"))


def test_disks_apart_are_counted_apart(overview: Facts) -> None:
    """An archive on a disk of its own fills at its own rate."""
    apart = (*PLACES[:2], replace(PLACES[2], device=10, free_bytes=80_000_000_000))
    hours = [disk.hours_left for disk in build_view(overview(), apart, detector=DETECTOR, now=NOW).disks]
    assert hours == pytest.approx([500 / 60, 2.0])


def test_disk_without_writing_has_no_end(overview: Facts) -> None:
    """Nothing written in the last hour: hours left are unknown."""
    (disk,) = build_view(overview(growth=NO_GROWTH), PLACES, detector=DETECTOR, now=NOW).disks
    assert disk.hours_left is None


def test_folders_as_the_daemon_sees_them(overview: Facts) -> None:
    """What the daemon last saw of a folder is shown for as long as it runs, beside the folder of the same path."""
    places = tuple(Place(role="watch", path=Path(path), reachable=True) for path in ("/data/k3", "/mnt/eer"))
    facts = overview(folders=(SLOW,))
    view = build_view(facts, places, detector=DETECTOR, now=NOW)
    assert [folder.state for folder in view.folders] == [None, SLOW]
    later = build_view(facts, places, detector=DETECTOR, now=NOW + timedelta(hours=1))
    assert [folder.state for folder in later.folders] == [None, None]


def test_held_groups_and_folders_are_passed_on(overview: Facts) -> None:
    """Reasons with their numbers, and the watched folders with whether they answer."""
    lost = (Place(role="watch", path=Path("/mnt/camera"), reachable=False),)
    group = HeldGroup(kind="correct", held_by="disk", reason="disk full", n_jobs=3)
    view = build_view(overview(held=(group,)), lost, detector=DETECTOR, now=NOW)
    assert view.held == (group,)
    assert not view.folders[0].reachable


def test_a_worker_is_silent_when_its_lease_is_over() -> None:
    """The limit is that of the configuration, not one of our own."""
    for lease_timeout_s, alive in ((15.0, [True, False]), (120.0, [True, True]), (0.5, [False, False])):
        view = build_view(BUSY, PLACES, detector=DETECTOR, now=NOW, lease_timeout_s=lease_timeout_s)
        assert [worker.alive for worker in view.workers] == alive
