"""The wall clock is set back or forward while jobs wait: nothing stands still for longer than a minute or two."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from komad.errors import ArchiveError, WorkerLostError
from komad.model import JobKind, JobState, Movie
from komad.model.job import MAX_DELAY_S
from komad.store import Store, rows
from tests.store.conftest import movie_at
from tests.store.test_jobs import archived, claim

DAY_S = 86400.0
YEARS_S = 20 * 365 * DAY_S


class WallClock:
    """Stands in for `datetime` where the tables get their times."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self, zone: tzinfo) -> datetime:
        return self.moment.astimezone(zone)

    def jump(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """A wall clock that is set by hand."""
    clock = WallClock()
    monkeypatch.setattr(rows, "datetime", clock)
    return clock


@pytest.mark.parametrize("jump_s", [-YEARS_S, -DAY_S, -3600.0, DAY_S, YEARS_S])
def test_a_retry_is_not_lost_in_time(store: Store, clock: WallClock, jump_s: float) -> None:
    """A job that is tried again in 2 s is due when the clock jumps by an hour, a day or years, either way."""
    store.add_movie(movie_at())
    store.fail(store.begin(claim(store)), ArchiveError("x"), 3)
    assert store.claim("w") is None, "its delay is kept while the clock goes as it should"
    clock.jump(jump_s)
    assert claim(store).job_id == 1


def test_a_small_step_back_costs_no_more_than_the_delay(store: Store, clock: WallClock) -> None:
    """Set back by less than the longest delay, the job waits that much longer: two minutes at most."""
    store.add_movie(movie_at())
    store.fail(store.begin(claim(store)), ArchiveError("x"), 3)
    clock.jump(-50)
    assert store.claim("w") is None
    clock.jump(MAX_DELAY_S)
    assert claim(store).job_id == 1


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
def test_attempts_end_whatever_the_clock_says(store: Store, clock: WallClock, jump_s: float) -> None:
    """A job fails for good after its attempts, with the clock jumping at each."""
    store.add_movie(movie_at())
    for _ in range(3):
        store.fail(store.begin(claim(store)), ArchiveError("x"), 3)
        clock.jump(jump_s)
    archive = store.jobs_of(1)[JobKind.ARCHIVE]
    assert (archive.state, archive.attempt) == (JobState.FAILED, 3)


@pytest.mark.parametrize(("jump_s", "n_released"), [(-DAY_S, 1), (-30.0, 0), (99.0, 0), (101.0, 1)])
def test_neighbours_are_not_waited_for_until_yesterday_has_passed(
    store: Store, clock: WallClock, jump_s: float, n_released: int
) -> None:
    """A movie held for KOMA goes on when its time is over, and when the clock was set back behind its start."""
    koma = {"mode": "trailing", "radius": 2, "max_wait_s": 100.0}
    for name in "ab":
        store.add_movie(movie_at(f"/data/{name}.mrc", series="s", koma=koma))
    claim(store)
    store.finish(store.begin(claim(store)), {}, 1.0)
    assert store.jobs_of(2)[JobKind.CORRECT].reason.startswith("KOMA waits for the archive of a")
    clock.jump(jump_s)
    assert store.release_koma_held() == n_released


def test_order_is_that_of_numbers(store: Store, clock: WallClock, make_movie: Callable[..., Movie]) -> None:
    """Movies found after the clock went back are claimed and published after those found before."""
    for name in "abc":
        job = archived(store, make_movie(f"/data/{name}.mrc"))
        store.finish(job, {"stem": name}, 1.0)
        clock.jump(-DAY_S)
    assert [done.stem for done in store.finished_since(0)] == ["a", "b", "c"]
    for name in "de":
        store.add_movie(make_movie(f"/data/{name}.mrc"))
        clock.jump(-DAY_S)
    assert [claim(store).movie_id for _ in range(2)] == [4, 5]


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
def test_leases_do_not_know_the_wall_clock(store: Store, clock: WallClock, jump_s: float) -> None:
    """A worker that beats goes on beating, and a lost one gives back its jobs."""
    store.register_worker("w", boot_id="b", pid=1, device="cpu")
    store.add_movie(movie_at())
    claim(store)
    clock.jump(jump_s)
    assert store.beat("w", "archive of a")
    [job] = store.return_jobs("w", WorkerLostError("x"), 3)
    assert job.state is JobState.QUEUED
    assert claim(store).suspect
