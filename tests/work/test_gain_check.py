"""The check of the gain reference in the daemon: once for each series, loud when it is wrong, and it can hold jobs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from komad.config import GainCheck, Settings
from komad.detector import calibrate, stack_facts
from komad.formats.images import write_mrc
from komad.model import JobKind, JobState, StackSum, outliers_at, series_of
from komad.store import Store
from komad.work import gain_check, stack_sums
from komad.work.gain_check import GainChecker
from tests.work.conftest import SHAPE, MakeMovie

N_MOVIES = 3
AddMovie = Callable[..., int]


@pytest.fixture(scope="module")
def response() -> np.ndarray[Any, Any]:
    """What each pixel of the camera makes of an electron."""
    return np.random.default_rng(0).normal(1, 0.03, SHAPE[1:]).astype(np.float32)


@pytest.fixture
def gain(tmp_path: Path, response: np.ndarray[Any, Any]) -> Path:
    """The right gain reference."""
    path = tmp_path / "gain.mrc"
    write_mrc(path, 1 / response, pixel_size_angstrom=1.0)
    return path


@pytest.fixture
def add_movie(
    make_movie: MakeMovie, settings: Settings, store: Store, response: np.ndarray[Any, Any]
) -> AddMovie:
    """Archive a movie of this camera, whose gain lies as told; gives its number."""

    def add(gain: Path | None, **turned: int) -> int:
        number = len(store.known_files())
        found = make_movie(f"m{number}", seed=number, gain=gain, **turned)
        movie = store.add_movie(replace(found, series=series_of(found, settings.watch[0].directory)))
        assert movie is not None
        total = np.random.default_rng(number).poisson(120 * response).astype(np.uint16)
        calibration = calibrate(total.shape, gain=None, dark=None)
        facts = stack_facts(total, calibration, outliers_at([]), n_frames=6)
        stack_sum = StackSum(total=total, frame_means=np.full(6, 20.0), outliers=outliers_at([]), facts=facts)
        job = store.claim("w")
        assert job is not None
        assert job.kind is JobKind.ARCHIVE
        row = stack_sums.save(store.stack_sum_directory, movie, stack_sum)
        store.finish(store.begin(job), {}, 1.0, stack_sum=row, go_on=True)
        return movie.movie_id

    return add


def checker(store: Store, action: str = "warn") -> GainChecker:
    """A checker that looks at three movies."""
    return GainChecker(store, GainCheck.model_validate({"action": action, "n_movies": N_MOVIES}))


def look(checker: GainChecker, store: Store, movie_id: int) -> list[str]:
    """Let it look after a movie; gives the lines of the log."""
    with capture_logs() as lines:
        checker.look(store.movie(movie_id))
    return [f"{line['log_level']}: {line['event']}" for line in lines]


def test_gain_that_fits(add_movie: AddMovie, store: Store, gain: Path) -> None:
    """A right gain is checked when there are enough movies, once for all workers, and said once."""
    checking = checker(store)
    told = [look(checking, store, add_movie(gain)) for _ in range(N_MOVIES + 1)]
    assert told == [[], [], ["info: the gain reference fits"], []]
    found = store.gain_check(store.movie(1).series)
    assert found is not None
    assert (found.verdict, found.movie_id, found.holds, found.accepted) == ("ok", N_MOVIES, False, False)
    assert found.confidence > 6
    assert look(checker(store), store, 1) == []


def test_gain_that_is_turned(add_movie: AddMovie, store: Store, gain: Path) -> None:
    """A gain that lies another way is said loudly, with the settings to use; nothing is turned or held."""
    told = [look(checker(store), store, add_movie(gain, gain_rot=2)) for _ in range(N_MOVIES)]
    assert told[-1] == ["error: THE GAIN REFERENCE IS WRONG"]
    found = store.gain_check(store.movie(1).series)
    assert found is not None
    assert (found.verdict, found.best) == ("other", {"gain_rot": 0, "gain_flip": 0})
    assert found.configured == {"gain_rot": 2, "gain_flip": 0}
    assert not found.holds


def test_hold_until_a_person_decides(add_movie: AddMovie, store: Store, gain: Path) -> None:
    """With action hold the series waits for `komad gain accept`; the right setting begins a new series and check."""
    checking = checker(store, "hold")
    for _ in range(N_MOVIES):
        look(checking, store, add_movie(gain, gain_flip=1))
    held = store.jobs_of(add_movie(gain, gain_flip=1))[JobKind.CORRECT]
    assert held.state is JobState.HELD
    assert "komad gain accept" in held.reason
    for _ in range(N_MOVIES):
        number = add_movie(gain)
        look(checking, store, number)
        assert store.jobs_of(number)[JobKind.CORRECT].state is JobState.RUNNING
    right = store.gain_check(store.movie(number).series)
    assert right is not None
    assert right.verdict == "ok"
    assert [row.verdict for row in store.accept_gain()] == ["other"]
    assert store.job(held.job_id).state is JobState.QUEUED


def test_what_is_not_checked(add_movie: AddMovie, store: Store, gain: Path) -> None:
    """Without a gain, and when it is switched off, nothing is looked at."""
    for _ in range(N_MOVIES):
        assert look(checker(store), store, add_movie(None)) == []
    for _ in range(N_MOVIES):
        assert look(checker(store, "off"), store, add_movie(gain)) == []
    assert store.gain_check(store.movie(1).series) is None


def test_gain_that_cannot_be_read(add_movie: AddMovie, store: Store, gain: Path) -> None:
    """A gain that is gone meanwhile leaves the check undecided, and stops nothing."""
    for _ in range(N_MOVIES):
        number = add_movie(gain)
    gain.unlink()
    assert look(checker(store), store, number) == ["warning: the gain reference could not be judged"]


def test_fault_of_the_check(
    add_movie: AddMovie, store: Store, gain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error in the check is told once and ends nothing: the movie is archived already."""
    for _ in range(N_MOVIES):
        number = add_movie(gain)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gain_check, "check_gain", fail)
    checking = checker(store)
    assert look(checking, store, number) == ["error: the gain reference could not be checked"]
    assert look(checking, store, number) == []
