"""The command line in this process, and a state directory with a few movies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from komad.cli import main
from komad.errors import MovieTruncatedError
from komad.model import Acquisition, JobKind, Movie, MovieFormat, MovieHeader
from komad.store import Store
from tests.store.conftest import movie_at
from tests.store.invariants import _sound_databases

__all__ = ["_sound_databases"]


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Komad = Callable[..., Outcome]


@pytest.fixture
def komad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Komad:
    """Run `komad` with arguments."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("KOMAD_CONFIG", raising=False)
    monkeypatch.setenv("KOMAD_THREADS", "0")  # `--threads` sets it; this puts it back afterwards

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["komad", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that watches a folder."""
    (tmp_path / "camera").mkdir()
    path = tmp_path / "komad.toml"
    path.write_text('[[watch]]\ndirectory = "camera"\n')
    return path


def movie(name: str) -> Movie:
    """A movie without pixel size."""
    return movie_at(
        f"/data/{name}.mrc",
        header=MovieHeader(format=MovieFormat.MRC, n_frames=4, ny=8, nx=8, dtype="uint8"),
        acquisition=Acquisition(voltage_kv=300.0, sources={"voltage_kv": "configuration"}),
        found_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


@pytest.fixture
def store(config: Path) -> Iterator[Store]:
    """Movies `a` (archived, waits for its pixel size) and `b` (its archive job failed)."""
    with Store(config.parent / "komad-state").open() as store:
        for name in "ab":
            store.add_movie(movie(name), held={JobKind.CORRECT: "pixel size and dose per frame unknown"})
        for name in "ab":
            job = store.claim("w")
            assert job is not None
            job = store.begin(job)
            if name == "a":
                store.finish(job, {"archive_bytes": 10}, 1.5)
            else:
                store.fail(job, MovieTruncatedError("ends after frame 2 of 4"), 1)
        yield store
