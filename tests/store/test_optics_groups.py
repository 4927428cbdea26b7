"""Optics groups in the database: they stay, survive a restart, and two stores do not open one twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from komad.model import Acquisition, JobKind, Movie
from komad.optics.groups import BEAM_SHIFT, PAUSE_S, BeamShift
from komad.simulate.beam_shifts import ShiftPattern, simulate_shifts
from komad.store import Store, Taken
from komad.store.optics import read_groups
from komad.store.rebuild import KnownMovie, Refill

MakeMovie = Callable[..., Movie]


def taken(
    x: float, y: float, *, at_s: float = 0.0, folder: str = "/data", tolerance: float | None = None
) -> Taken:
    """A movie of EPU at 105,000 x."""
    shift = BeamShift(x=x, y=y, unit="epu", magnification=105000, taken_at_s=at_s)
    return Taken(folder=folder, name="opticsGroup1", tolerance=tolerance, shift=shift)


def group_of(store: Store, movie: Movie, how: Taken) -> str:
    """Add a movie; gives the name of its group."""
    added = store.add_movie(movie, taken=how)
    assert added is not None
    assert store.movie(added.movie_id) == added
    return added.acquisition.optics_group


def test_a_movie_gets_its_group_when_it_is_added(store: Store, make_movie: MakeMovie) -> None:
    """Names count up from the configured one; the source is named; what was noted before goes."""
    movie = make_movie(
        "/data/a.mrc", acquisition=Acquisition(notes={"optics_group": "old", "voltage_kv": "v"})
    )
    added = store.add_movie(movie, taken=taken(0, 0))
    assert added is not None
    assert added.acquisition.optics_group == "opticsGroup1-001"
    assert added.acquisition.sources == {"optics_group": BEAM_SHIFT}
    assert added.acquisition.notes == {"voltage_kv": "v"}
    assert group_of(store, make_movie("/data/b.mrc"), taken(0.05, 0)) == "opticsGroup1-002"
    assert group_of(store, make_movie("/data/c.mrc"), taken(0.004, 0)) == "opticsGroup1-001"
    assert group_of(store, make_movie("/data/d.mrc"), taken(0.049, 0)) == "opticsGroup1-002"
    assert store.add_movie(movie, taken=taken(0.5, 0.5)) is None
    assert [group.n_movies for group in read_groups(store.state_directory).groups] == [2, 2]


def test_a_movie_whose_sidecar_came_later(store: Store, make_movie: MakeMovie) -> None:
    """It gets its group when it is completed."""
    movie = make_movie("/data/a.mrc", acquisition=Acquisition())
    added = store.add_movie(movie, held={JobKind.CORRECT: "no sidecar yet"})
    assert added is not None
    assert added.acquisition.optics_group == "opticsGroup1"
    assert store.complete(added, Acquisition(voltage_kv=300), missing="", taken=taken(0.1, 0.1))
    acquisition = store.movie(added.movie_id).acquisition
    assert (acquisition.voltage_kv, acquisition.optics_group) == (300, "opticsGroup1-001")
    assert not store.complete(added, Acquisition(), missing="", taken=taken(0.3, 0.3))
    assert len(read_groups(store.state_directory).groups) == 1


def test_sessions_and_folders_have_groups_of_their_own(store: Store, make_movie: MakeMovie) -> None:
    """After a long pause, or in another folder, the same shift is another group, with a new number."""
    names = [
        group_of(store, make_movie(f"/data/{number}.mrc"), how)
        for number, how in enumerate(
            (
                taken(0, 0),
                taken(0, 0, at_s=2 * PAUSE_S),
                taken(0, 0, folder="/other"),
                taken(0, 0, at_s=60),
                taken(0, 0, at_s=2 * PAUSE_S + 60),
            )
        )
    ]
    assert [name[-3:] for name in names] == ["001", "002", "003", "001", "002"]


def test_a_restart_and_a_second_store_go_on(tmp_path: Path, make_movie: MakeMovie) -> None:
    """The same groups as in one go, also where the tolerance was found from the shifts."""
    shifts, places = simulate_shifts(ShiftPattern(n_across=3, missing=0, jitter=0.002), 120, seed=2)
    movies = [make_movie(f"/data/{number}.mrc") for number in range(120)]
    with Store(tmp_path / "one").open() as whole:
        names = [
            group_of(whole, movie, taken(*map(float, shift)))
            for movie, shift in zip(movies, shifts, strict=True)
        ]
        tolerance = read_groups(tmp_path / "one").tolerances[0]
    assert len(set(names)) == 9
    assert 0.03 < tolerance < 0.05
    again: list[str] = []
    for start in range(0, 120, 40):
        with Store(tmp_path / "two").open() as first, Store(tmp_path / "two").open() as second:
            for number in range(start, start + 40):
                how = taken(*map(float, shifts[number]))
                again.append(group_of((first, second)[number % 2], movies[number], how))
    assert again == names
    shown = read_groups(tmp_path / "two")
    assert [shot.group for shot in shown.shots] == names
    np.testing.assert_allclose([(shot.x, shot.y) for shot in shown.shots], shifts)
    assert len({(name, place) for name, place in zip(names, places.tolist(), strict=True)}) == 9


@pytest.mark.parametrize("tolerance", [0.02, 0.2])
def test_a_tolerance_that_is_configured_holds_at_once(
    store: Store, make_movie: MakeMovie, tolerance: float
) -> None:
    """Also in a session that began with another one."""
    group_of(store, make_movie("/data/a.mrc"), taken(0, 0))
    name = group_of(store, make_movie("/data/b.mrc"), taken(0.1, 0, tolerance=tolerance))
    assert name == ("opticsGroup1-001" if tolerance > 0.1 else "opticsGroup1-002")


def test_a_database_made_anew_goes_on_with_the_groups(tmp_path: Path, make_movie: MakeMovie) -> None:
    """Movies that are entered again keep their groups, and those still to come join them."""
    archive = {"stem": "a", "archive": None, "movie_bytes": 1, "archive_bytes": 0, "sha256": None}
    known = []
    for number, (x, group) in enumerate(((0.0, 4), (0.1, 7), (0.002, 4)), start=1):
        movie = make_movie(f"/data/{number}.mrc", movie_id=number, stem=str(number))
        known.append(
            KnownMovie(
                movie=movie,
                missing="",
                archive=archive,
                archived_at=movie.found_at,
                optics=(group, taken(x, 0)),
            )
        )
    with Refill(tmp_path).open() as refill:
        refill.fill(known, last_sequence=0)
    with Store(tmp_path).open() as store:
        names = [group_of(store, make_movie(f"/data/{x}.mrc"), taken(x, 0)) for x in (0.001, 0.101, 0.2)]
    assert [name[-3:] for name in names] == ["004", "007", "008"]
