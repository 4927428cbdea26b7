"""`komad cleanup`."""

from __future__ import annotations

from pathlib import Path

import pytest

from komad.store import Store
from komad.work.cleanup import only_one
from tests.cli.conftest import Komad
from tests.work.conftest import MakeMovie, make_movie, numba_cache, settings, store
from tests.work.test_cleanup import finish

__all__ = ["make_movie", "numba_cache", "settings", "store"]

CONFIG = """
state_directory = "state"
[[watch]]
directory = "camera"
[output]
directory = "output"
[cleanup]
"""


@pytest.fixture
def config(settings: object, tmp_path: Path) -> Path:
    """A configuration for the folders of `settings`; movies are removed at once."""
    path = tmp_path / "komad.toml"
    path.write_text(CONFIG + "delete_movies_after_h = 0\n")
    return path


@pytest.fixture
def movies(settings: object, store: Store, make_movie: MakeMovie) -> tuple[Path, Path]:
    """The paths of a movie that is done, and of one that waits for its archive."""
    done = finish(store, make_movie("done", seed=1), settings)  # type: ignore[arg-type]
    waits = store.add_movie(make_movie("waits", seed=2))
    assert waits is not None
    return done.path, waits.path


def test_dry_run(komad: Komad, config: Path, movies: tuple[Path, Path]) -> None:
    """What would go and why the others stay is said, and nothing is touched; also while it is switched off."""
    done, waits = movies
    before = {path: path.read_bytes() for path in config.parent.rglob("*.*") if path.is_file()}
    outcome = komad("cleanup", "--dry-run", "--config", config)
    assert outcome.code == 0
    assert outcome.out.splitlines()[:2] == [
        f"{done}: would go",
        f"{waits}: stays: its archive job is queued",
    ]
    assert outcome.out.splitlines()[2].startswith("1 movies would go (370 kB)")
    config.write_text(CONFIG)
    off = komad("cleanup", "--dry-run", "--config", config)
    assert (off.code, off.out.splitlines()[1]) == (0, f"{done}: would go")
    assert "is not set" in off.out.splitlines()[0]
    after = {path: path.read_bytes() for path in before if path.suffix in {".mrc", ".mrcz", ".jsonl"}}
    assert after.items() <= before.items()


def test_removal_by_hand(komad: Komad, config: Path, movies: tuple[Path, Path], tmp_path: Path) -> None:
    """What is due goes, once, if nobody else is at it and it is switched on."""
    done, waits = movies
    with only_one(tmp_path / "state"):
        assert komad("cleanup", "--config", config).code == 4
    config.write_text(CONFIG)
    assert komad("cleanup", "--config", config).code == 2
    assert done.exists()
    config.write_text(CONFIG + "delete_movies_after_h = 0\n")
    for number in (1, 0):
        outcome = komad("cleanup", "--config", config)
        assert outcome.code == 0
        assert outcome.out.splitlines()[-1].startswith(f"{number} movies removed; 370 kB")
    assert (done.exists(), waits.exists()) == (False, True)
    gone = komad("cleanup", "--dry-run", "--config", config)
    assert gone.out.splitlines()[-1].endswith("1 stay, 1 are gone")
    config.write_text(CONFIG + "delete_movies_after_h = 0\n[archive]\nenabled = false\n")
    assert komad("config", "check", config).code == 3
