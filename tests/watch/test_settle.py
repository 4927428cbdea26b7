"""The decision when a file is finished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from komad.watch.settle import Observation, is_settled, observe

SEEN = Observation(size_bytes=10, mtime_ns=1, ctime_ns=2)


def test_settles_after_one_interval_unchanged() -> None:
    """Unchanged for one interval of our clock is settled, a moment less is not."""
    first = observe(None, SEEN, now_s=50.0)
    second = observe(first, SEEN, now_s=52.9)
    assert not is_settled(second, now_s=52.9, interval_s=3.0)
    assert is_settled(second, now_s=53.0, interval_s=3.0)


@pytest.mark.parametrize("change", [{"size_bytes": 11}, {"mtime_ns": 3}, {"ctime_ns": 3}])
def test_any_change_starts_anew(change: dict[str, int]) -> None:
    """A change of size, mtime or ctime alone starts the wait again."""
    first = observe(None, SEEN, now_s=50.0)
    second = observe(first, replace(SEEN, **change), now_s=53.0)
    assert not is_settled(second, now_s=55.9, interval_s=3.0)
    assert is_settled(second, now_s=56.0, interval_s=3.0)


def test_rename_settles_at_once_until_it_changes() -> None:
    """A rename settles at once, also of a file seen before; a later change takes that back."""
    seen_before = observe(None, SEEN, now_s=50.0)
    renamed = observe(seen_before, SEEN, now_s=50.1, renamed=True)
    assert is_settled(renamed, now_s=50.1, interval_s=3.0)
    written_to = observe(renamed, replace(SEEN, size_bytes=11), now_s=50.2)
    assert not is_settled(written_to, now_s=50.2, interval_s=3.0)


def test_times_of_the_file_are_never_compared_with_now() -> None:
    """A file from a clock far in the future or past settles like any other."""
    for time_ns in (0, 4_000_000_000 * 10**9):
        waiting = observe(None, Observation(size_bytes=1, mtime_ns=time_ns, ctime_ns=time_ns), now_s=5.0)
        assert not is_settled(waiting, now_s=5.0, interval_s=3.0)
        assert is_settled(waiting, now_s=8.0, interval_s=3.0)


def test_a_change_clears_what_was_said() -> None:
    """After a change a file that was reported is looked at again."""
    reported = replace(observe(None, SEEN, now_s=50.0), reported=True, trouble="x")
    assert observe(reported, SEEN, now_s=51.0).reported
    changed = observe(reported, replace(SEEN, size_bytes=11), now_s=51.0)
    assert not changed.reported
    assert changed.trouble == ""
