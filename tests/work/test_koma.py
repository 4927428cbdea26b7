"""The running total of a worker, what becomes of lost stack sums, and a session in memory."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from komad import kernels
from komad.arrays import to_host
from komad.config import Archive, Koma, Settings
from komad.model import KomaWindow, Movie, StackFacts, StackSum, series_of
from komad.store import Store
from komad.work import stack_sums
from komad.work.archive import archive_movie, read_source
from komad.work.correct import sum_again
from komad.work.device import open_device
from komad.work.koma import Member, RunningWindows, choose
from komad.work.neighbours import Neighbours
from komad.work.session import SessionInMemory
from tests.device import device_on_the_host
from tests.work.conftest import MakeMovie

FACTS = StackFacts(mean_e_per_px=40.0, contrast=0.01, gradient=0.02, outlier_fraction=0.0)
MakeSeries = Callable[..., list[Movie]]


@pytest.fixture
def make_series(make_movie: MakeMovie, settings: Settings, store: Store) -> MakeSeries:
    """Make movies of one series, archived and in the database."""

    def make(n: int, **koma: object) -> list[Movie]:
        movies = []
        for number in range(n):
            found = make_movie(f"m{number + 1}", seed=number)
            series = series_of(found, settings.watch[0].directory)
            movie = store.add_movie(replace(found, koma=koma, series=series))
            assert movie is not None
            job = store.claim("w")
            assert job is not None
            archived = archive_movie(
                movie, read_source(movie), archive=Archive(), directory=settings.archive_directory
            )
            row = stack_sums.save(store.stack_sum_directory, movie, archived.stack_sum)
            store.finish(store.begin(job), {}, 1.0, stack_sum=row, go_on=True)
            movies.append(movie)
        return movies

    return make


def sums_of(movies: list[Movie]) -> dict[int, StackSum]:
    """Stack sums from the movies themselves."""
    return {movie.movie_id: sum_again(movie, read_source(movie)) for movie in movies}


def loader(movies: list[Movie], sums: Mapping[int, StackSum]) -> Callable[[int], Member | None]:
    """Give members as they are asked for; a movie that is not in `sums` is lost."""
    by_id = {movie.movie_id: movie for movie in movies}
    return lambda movie_id: (
        Member(movie=by_id[movie_id], stack_sum=sums[movie_id]) if movie_id in sums else None
    )


def window(*members: int) -> KomaWindow:
    """A window of these members."""
    return KomaWindow(mode="trailing", members=members, wanted=4)


def test_way_to_a_window_does_not_matter(make_series: MakeSeries) -> None:
    """Step by step, by a jump, back and forth, or anew: the pattern of a window is the same to the last bit."""
    movies = make_series(6)
    sums = sums_of(movies)
    own = movies[5], sums[6]
    anew = RunningWindows(loader(movies, sums)).pattern(*own, window(2, 3, 4, 5)).pattern
    assert anew is not None
    assert anew.n_stacks == 4
    for way in ([(1, 2, 3, 4)], [(1,), (1, 2, 3, 4), (1, 2, 3), (3, 4, 5)], [(), (5,)]):
        running = RunningWindows(loader(movies, sums))
        for members in way:
            running.pattern(*own, window(*members))
        again = running.pattern(*own, window(2, 3, 4, 5)).pattern
        assert again is not None
        np.testing.assert_array_equal(again.relative, anew.relative)


def test_step_costs_only_what_changes(make_series: MakeSeries) -> None:
    """Going on by one movie loads the new one and the one that leaves, nothing else, also when series take turns."""
    movies = make_series(6)
    sums, asked = sums_of(movies), []
    load = loader(movies, sums)
    running = RunningWindows(lambda movie_id: asked.append(movie_id) or load(movie_id))
    other = replace(movies[0], series="other")
    running.pattern(movies[4], sums[5], window(1, 2, 3, 4))
    running.pattern(other, sums[1], window(2, 3))
    asked.clear()
    running.pattern(movies[5], sums[6], window(2, 3, 4, 5))
    assert asked == [1, 5]


def test_lost_members(make_series: MakeSeries) -> None:
    """Members that are lost, before or after they were added, are left out, with a note; the rest is exact."""
    movies = make_series(6)
    sums = sums_of(movies)
    left = {movie_id: sums[movie_id] for movie_id in (1, 2, 4, 5, 6)}
    expected = RunningWindows(loader(movies, left)).pattern(movies[5], sums[6], window(2, 4, 5)).pattern
    assert expected is not None
    running = RunningWindows(loader(movies, left))
    with capture_logs() as lines:
        found = running.pattern(movies[5], sums[6], window(2, 3, 4, 5))
    assert found.pattern is not None
    np.testing.assert_array_equal(found.pattern.relative, expected.relative)
    assert (found.pattern.n_stacks, found.window.members) == (3, (2, 3, 4, 5))
    assert found.window.note == "the stack sums of 1 movies are lost: 3"
    assert [line["log_level"] for line in lines] == ["warning"]
    running.pattern(movies[5], sums[6], window(1, 2, 4, 5))
    del left[1]
    again = running.pattern(movies[5], sums[6], window(2, 4, 5))
    assert again.pattern is not None
    np.testing.assert_array_equal(again.pattern.relative, expected.relative)


def test_files_that_are_lost_or_damaged(make_series: MakeSeries, settings: Settings, store: Store) -> None:
    """A stack sum whose file is gone or damaged is made again from the archive, or from the camera's file."""
    movies = make_series(5)
    files = [store.stack_sum_directory / f"{n}.sum" for n in range(1, 6)]
    own = stack_sums.load(files[4])
    assert own is not None
    whole = [file.read_bytes() for file in files]
    expected = Neighbours(store, settings).pattern(movies[4], own)
    assert expected.pattern is not None
    assert expected.window.members == (1, 2, 3, 4)
    files[0].unlink()
    damaged = bytearray(whole[1])
    damaged[len(damaged) // 2] ^= 255
    files[1].write_bytes(damaged)
    files[2].write_bytes(whole[2][:-100])
    (settings.archive_directory / "m1.mrcz").unlink()
    movies[1].path.unlink()
    with capture_logs() as lines:
        found = Neighbours(store, settings).pattern(movies[4], own)
    assert found.pattern is not None
    np.testing.assert_array_equal(found.pattern.relative, expected.pattern.relative)
    assert found.window == expected.window
    assert [line["movie"] for line in lines] == ["m1", "m2", "m3"]
    assert [file.read_bytes() for file in files] == whole, "kept for the next worker"


def test_files_of_other_movies(make_series: MakeSeries, settings: Settings, store: Store) -> None:
    """Stack sums that are whole but swapped are not taken for those of the movies whose names they bear."""
    movies = make_series(3)
    files = [store.stack_sum_directory / f"{n}.sum" for n in range(1, 4)]
    own = stack_sums.load(files[2])
    assert own is not None
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[1])
    files[1].write_bytes(whole[2])
    row = store.stack_sum(1)
    assert stack_sums.load(files[0], row) is None
    with capture_logs() as lines:
        Neighbours(store, settings).pattern(movies[2], own)
    assert [line["movie"] for line in lines] == ["m1", "m2"]
    assert [file.read_bytes() for file in files] == whole, "kept for the next worker"


def test_neither_file_nor_movie(make_series: MakeSeries, settings: Settings, store: Store) -> None:
    """A movie that is gone in every form is left out, and everything goes on."""
    movies = make_series(4)
    own = stack_sums.load(store.stack_sum_directory / "4.sum")
    assert own is not None
    (store.stack_sum_directory / "2.sum").unlink()
    (settings.archive_directory / "m2.mrcz").unlink()
    movies[1].path.unlink()
    with capture_logs():
        found = Neighbours(store, settings).pattern(movies[3], own)
    assert found.pattern is not None
    assert found.pattern.n_stacks == 2
    assert found.window.note.endswith("the stack sums of 1 movies are lost: 2")
    bound = store.koma_window(4)
    assert bound is not None
    assert "lost" not in bound.note


def test_every_bit_is_checked(make_movie: MakeMovie) -> None:
    """Whichever byte of a packed stack sum is changed, and wherever it is cut off, nothing comes out of it."""
    movie = make_movie()
    packed = stack_sums.pack(sum_again(movie, read_source(movie)))
    assert stack_sums.unpack(packed) is not None
    for place in (*range(64), *np.linspace(64, len(packed) - 1, 300).astype(int)):
        damaged = bytearray(packed)
        damaged[place] ^= 16
        assert stack_sums.unpack(bytes(damaged)) is None
        assert stack_sums.unpack(packed[:place]) is None


def test_window_is_bound_at_first_sight(make_series: MakeSeries, settings: Settings, store: Store) -> None:
    """A movie keeps the window it had, even when its neighbours change."""
    movies = make_series(4, radius=1)
    own = stack_sums.load(store.stack_sum_directory / "4.sum")
    assert own is not None
    first = Neighbours(store, settings).pattern(movies[3], own)
    assert first.window.members == (2, 3)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE stack_sums SET facts = NULL WHERE movie_id = 3")
    again = Neighbours(store, settings).pattern(movies[3], own)
    assert again.window == first.window
    assert again.pattern is not None
    assert first.pattern is not None
    np.testing.assert_array_equal(again.pattern.relative, first.pattern.relative)


def test_neighbours_that_are_missed(make_movie: MakeMovie) -> None:
    """A neighbour without a stack sum is named where the window would have had it, and not where it is far away."""
    movie = replace(make_movie(), movie_id=9, koma={"radius": 1})
    absent = {2: "its archive failed", 7: "its archive was cancelled"}
    full = choose(movie, FACTS, {5: FACTS, 6: FACTS, 8: FACTS}, absent)
    assert (full.members, full.note) == ((6, 8), "")
    assert full.left_out == {7: "its archive was cancelled"}
    few = choose(movie, FACTS, {8: FACTS}, absent)
    assert few.left_out == absent
    assert few.note.endswith("2 without a stack sum (movie 2: its archive failed)")


def test_mode_off_measures_only(make_series: MakeSeries, settings: Settings, store: Store) -> None:
    """Without KOMA the pattern is measured for the operator, and not taken off."""
    movies = make_series(3, mode="off", radius=1)
    own = stack_sums.load(store.stack_sum_directory / "3.sum")
    assert own is not None
    found = Neighbours(store, settings).pattern(movies[2], own)
    assert found.pattern is not None
    assert found.to_take_off is None


def test_session_in_memory_is_that_of_the_daemon(
    make_series: MakeSeries, settings: Settings, store: Store
) -> None:
    """The movies of a command have the windows and patterns that the daemon gives them."""
    movies = make_series(5, radius=1)
    session, neighbours = SessionInMemory(Koma(radius=1)), Neighbours(store, settings)
    for movie, own in zip(movies, sums_of(movies).values(), strict=True):
        ours = session.pattern(replace(movie, movie_id=0, koma={}, series=""), own)
        theirs = neighbours.pattern(movie, own)
        assert ours.window == theirs.window
        assert (ours.pattern is None) == (theirs.pattern is None) == (movie.movie_id == 1)
        if ours.pattern is not None and theirs.pattern is not None:
            np.testing.assert_array_equal(ours.pattern.relative, theirs.pattern.relative)


def test_series(make_movie: MakeMovie, tmp_path: Path) -> None:
    """Folder, camera, size, type and references make a series; name, seed and number of frames do not."""
    movie = make_movie("a")
    header, acquisition, files = movie.header, movie.acquisition, movie.references
    base = series_of(movie, tmp_path)
    assert series_of(replace(make_movie("b", seed=3), header=replace(header, n_frames=9)), tmp_path) == base
    others = [
        series_of(movie, tmp_path / "other"),
        *(
            series_of(replace(movie, **changed), tmp_path)  # type: ignore[arg-type]
            for changed in (
                {"header": replace(header, ny=64)},
                {"header": replace(header, dtype="uint8")},
                {"acquisition": replace(acquisition, facts={"camera": "K3"})},
                {"references": replace(files, gain_rot=1)},
                {"references": replace(files, gain_is_response=True)},
                {"references": replace(files, gain_rows_as_eer=True)},
            )
        ),
    ]
    assert len({base, *others}) == 8


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_memory_that_ends_while_the_total_moves(
    make_series: MakeSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU whose memory ends half-way the total is made anew, and the pattern is what it would have been."""
    movies = make_series(6)
    sums, asked = sums_of(movies), []
    own = movies[5], sums[6]
    expected = RunningWindows(loader(movies, sums)).pattern(*own, window(2, 3, 4, 5)).pattern
    assert expected is not None
    with device_on_the_host() as cupy, capture_logs() as lines:
        load = loader(movies, sums)
        running = RunningWindows(
            lambda movie_id: asked.append(movie_id) or load(movie_id), open_device("cuda:0", 0.5)
        )
        running.pattern(*own, window(1, 2, 3, 4))
        asked.clear()
        move = kernels.add_fixed_point

        def moved_with_an_error(*given: Any, **settings: Any) -> None:
            move(*given, **settings)
            monkeypatch.undo()
            raise cupy.cuda.memory.OutOfMemoryError

        monkeypatch.setattr(kernels, "add_fixed_point", moved_with_an_error)
        found = running.pattern(*own, window(2, 3, 4, 5)).pattern
        assert found is not None
        relative = to_host(found.relative)
    assert asked == [1, 2, 3, 4, 5]
    assert len(lines) == 1
    np.testing.assert_allclose(relative, expected.relative, rtol=1e-5, atol=1e-7)
    assert (found.n_stacks, found.scale) == (expected.n_stacks, pytest.approx(expected.scale, rel=1e-5))
