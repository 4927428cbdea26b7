"""Small real movies, described as the daemon describes them, and settings for a whole small installation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt
import pytest

from komad.config import Output, Processing, Queue, Settings, WatchFolder, Workers
from komad.ingest import describe
from komad.model import Candidate, Movie
from komad.store import Store
from tests.store.invariants import _sound_databases

__all__ = ["_sound_databases"]

SHAPE = (6, 160, 192)


def counts(seed: int) -> npt.NDArray[np.uint16]:
    """Poisson counts of a blurred random picture that moves by one pixel per frame along y."""
    rng = np.random.default_rng(seed)
    wide = rng.random((SHAPE[1] + 16, SHAPE[2])).astype(np.float32)
    smooth = np.fft.irfft2(
        np.fft.rfft2(wide) * np.exp(-80 * np.square(np.fft.rfftfreq(wide.shape[1]))[None, :]), wide.shape
    )
    frames = [10 + 8 * smooth[8 + n : 8 + n + SHAPE[1]] for n in range(SHAPE[0])]
    return rng.poisson(np.array(frames)).astype(np.uint16)


def write_movie(path: Path, seed: int = 0) -> Path:
    """Write an MRC movie, renamed into place."""
    temporary = path.with_suffix(".tmp")
    with mrcfile.new(temporary, counts(seed), overwrite=True) as file:
        file.voxel_size = 1.5
        file.set_image_stack()
    temporary.rename(path)
    return path


@pytest.fixture
def settings(tmp_path: Path, numba_cache: Path) -> Settings:
    """Settings of a small installation, its folders made."""
    (tmp_path / "camera").mkdir()
    state = tmp_path / "state"
    state.mkdir()
    (state / "numba-cache").symlink_to(numba_cache)
    return Settings(
        state_directory=state,
        watch=(
            WatchFolder.model_validate(
                {
                    "directory": tmp_path / "camera",
                    "acquisition": {"pixel_size_angstrom": 1.5, "voltage_kv": 300, "dose_per_frame": 1.0},
                }
            ),
        ),
        output=Output(directory=tmp_path / "output", min_free_gb=0),
        queue=Queue(lease_timeout_s=5, max_attempts=2),
        workers=Workers(devices=("cpu",), threads=1),
    )


@pytest.fixture(scope="session")
def numba_cache() -> Path:
    """Where compiled loops are kept, for tests that give processes an environment of their own."""
    return Path(os.environ["NUMBA_CACHE_DIR"])


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """Open the store of these settings."""
    with Store(settings.state_directory).open() as store:
        yield store


MakeMovie = Callable[..., Movie]


@pytest.fixture
def make_movie(settings: Settings) -> MakeMovie:
    """Write a movie file of a given stem and describe it."""

    def make(stem: str = "a", seed: int = 0, **references: object) -> Movie:
        path = write_movie(settings.watch[0].directory / f"{stem}.mrc", seed)
        status = path.stat()
        folder = settings.watch[0]
        if references:
            changed = folder.references.model_copy(update=references)
            folder = folder.model_copy(update={"references": changed})
        return describe(
            Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0),
            folder,
            Processing(),
            reference_directory=None,
        )

    return make


def wait_until(
    condition: Callable[[], bool], *, tick: Callable[[], object] = lambda: None, limit_s: float = 60
) -> None:
    """Tick until the condition holds; fail when it never does."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        tick()
        time.sleep(0.05)
