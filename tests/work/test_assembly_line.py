"""What one worker's threads hand to each other."""

from dataclasses import replace
from typing import Any

import pytest

from komad.config import Settings
from komad.ingest import missing_parameters, with_supplied
from komad.model import JobKind, JobState, Movie
from komad.store import Store
from komad.work import assembly_line
from komad.work.assembly_line import AssemblyLine
from komad.work.device import CPU
from tests.work.conftest import MakeMovie, wait_until


def test_values_supplied_while_the_archive_is_written(
    settings: Settings, store: Store, make_movie: MakeMovie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A movie that was held for a value and goes on right after its archive is corrected with that value."""
    movie = make_movie()
    unknown = replace(movie.acquisition, voltage_kv=None, sources={})
    store.add_movie(replace(movie, acquisition=unknown), held={JobKind.CORRECT: "voltage unknown"})
    archive_movie, used = assembly_line.archive_movie, []
    make_micrographs = assembly_line.make_micrographs

    def slow_archive(*args: Any, **options: Any) -> Any:
        store.supply(
            {"voltage_kv": 200}, movie_id=None, with_supplied=with_supplied, missing=missing_parameters
        )
        return archive_movie(*args, **options)

    def noted(movie: Movie, *args: Any, **options: Any) -> Any:
        used.append(movie.acquisition.voltage_kv)
        return make_micrographs(movie, *args, **options)

    monkeypatch.setattr(assembly_line, "archive_movie", slow_archive)
    monkeypatch.setattr(assembly_line, "make_micrographs", noted)
    line = AssemblyLine(settings, store, "w", CPU)
    line.start()
    wait_until(lambda: store.jobs_of(1)[JobKind.CORRECT].state in {JobState.DONE, JobState.FAILED})
    line.stop()
    wait_until(lambda: line.status() is not None)
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.DONE
    assert used == [200.0]
