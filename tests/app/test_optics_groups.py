"""Optics groups by beam shift, as movies are taken in."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from komad.app import Intake, intake
from komad.config import AcquisitionSettings, Settings, WatchFolder
from komad.model import Candidate, JobKind, JobState, Movie
from komad.store import Store
from tests.ingest.conftest import mdoc_text
from tests.work.conftest import write_movie

KNOWN = AcquisitionSettings(pixel_size_angstrom=1, voltage_kv=300, dose_per_frame=1)


def take(intake: Intake, store: Store, path: Path) -> Movie:
    """A movie that is finished, taken in."""
    write_movie(path)
    status = path.stat()
    with capture_logs():
        intake.take(Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0))
    return store.movie(len(store.known_files()))


def sidecar(path: Path, x: float, y: float) -> None:
    """SerialEM's, with an image shift."""
    text = mdoc_text(ImageShift=f"{x} {y}", Magnification=105000, DateTime="01-Aug-22  19:00:00")
    path.with_name(f"{path.name}.mdoc").write_text(text)


def made(settings: Settings, store: Store, **more: object) -> tuple[Intake, Path]:
    """Intake of a folder whose movies are grouped."""
    directory = settings.watch[0].directory
    directory.mkdir(parents=True, exist_ok=True)
    folder = WatchFolder.model_validate(
        {"directory": directory, "acquisition": KNOWN, "optics_groups": "beam_shift", **more}
    )
    return Intake(settings.model_copy(update={"watch": (folder,)}), store), directory


def test_movies_are_grouped_as_they_come(settings: Settings, store: Store) -> None:
    """By the image shift of their sidecars; what is bound does not change with the daemon or the tolerance."""
    taker, folder = made(settings, store)
    names = []
    for number, (x, y) in enumerate([(0, 0), (2.5, 0), (0.1, 0.05), (2.4, -0.1)]):
        sidecar(folder / f"{number}.mrc", x, y)
        names.append(take(taker, store, folder / f"{number}.mrc").acquisition.optics_group)
    assert [name[-3:] for name in names] == ["001", "002", "001", "002"]
    again, _ = made(settings, store, beam_shift_tolerance=0.05)
    sidecar(folder / "late.mrc", 2.2, 0)
    assert take(again, store, folder / "late.mrc").acquisition.optics_group == "opticsGroup1-003"
    assert [store.movie(number + 1).acquisition.optics_group for number in range(4)] == names


def test_a_sidecar_is_waited_for_and_then_not(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held with a reason until the sidecar comes; after the time the movie goes on without, with a note."""
    taker, folder = made(settings, store)
    movies = [take(taker, store, folder / f"{number}.mrc") for number in range(2)]
    assert len(store.incomplete_movies(limit=9)) == 2
    taker._reconsider(movies[0])
    assert len(store.incomplete_movies(limit=9)) == 2
    sidecar(movies[0].path, 1, 1)
    taker._reconsider(movies[0])
    found = store.movie(movies[0].movie_id).acquisition
    assert (found.optics_group, found.sources["optics_group"]) == ("opticsGroup1-001", "beam shift")
    monkeypatch.setattr(intake, "SIDECAR_WAIT_S", 0.0)
    taker._reconsider(movies[1])
    without = store.movie(movies[1].movie_id).acquisition
    assert without.optics_group == "opticsGroup1"
    assert "no sidecar tells its beam shift" in without.notes["optics_group"]
    assert store.incomplete_movies(limit=9) == []
    assert all(store.jobs_of(movie.movie_id)[JobKind.CORRECT].state == JobState.HELD for movie in movies)


def test_one_group_unless_asked_for(settings: Settings, store: Store) -> None:
    """By default all movies have the configured group, and none waits."""
    taker, folder = made(settings, store, optics_groups="one")
    sidecar(folder / "a.mrc", 1, 1)
    assert take(taker, store, folder / "a.mrc").acquisition.optics_group == "opticsGroup1"
    assert store.incomplete_movies(limit=9) == []


def test_too_many_groups_are_warned_of_once(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names the setting."""
    monkeypatch.setattr(intake, "MANY_GROUPS", 1)
    taker, folder = made(settings, store)
    with capture_logs() as lines:
        for number in range(3):
            path = folder / f"{number}.mrc"
            write_movie(path)
            sidecar(path, 5.0 * number, 0)
            status = path.stat()
            taker.take(Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0))
    warnings = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "watch.beam_shift_tolerance must be too small" in warnings[0]
