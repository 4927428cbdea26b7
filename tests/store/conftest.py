"""A fresh database, and movies to put in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from komad.model import Acquisition, Movie, MovieFormat, MovieHeader, ReferenceFile, References
from komad.store import Store
from tests.store.invariants import _sound_databases

__all__ = ["_sound_databases"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty store."""
    with Store(tmp_path / "state").open() as store:
        yield store


@pytest.fixture
def make_movie() -> Callable[..., Movie]:
    """Make a movie of a given path."""
    return movie_at


def movie_at(path: str = "/data/a.mrc", **changes: object) -> Movie:
    """Make a movie with everything that is known."""
    values: dict[str, object] = {
        "movie_id": 0,
        "path": Path(path),
        "size_bytes": 1000,
        "mtime_ns": 1_700_000_000_123_456_789,
        "fingerprint": "f" * 64,
        "stem": Path(path).stem,
        "header": MovieHeader(
            format=MovieFormat.MRC,
            n_frames=8,
            ny=96,
            nx=128,
            dtype="uint8",
            pixel_size_angstrom=1.0,
            mrc_mode=0,
        ),
        "acquisition": Acquisition(
            pixel_size_angstrom=1.0,
            voltage_kv=300.0,
            dose_per_frame=1.2,
            sources={
                "pixel_size_angstrom": "header",
                "voltage_kv": "configuration",
                "dose_per_frame": "configuration",
            },
        ),
        "references": References(
            gain=ReferenceFile(
                path=Path("/state/gain.mrc"), original_path=Path("/data/gain.mrc"), sha256="ab" * 32
            ),
            gain_rot=1,
            gain_is_response=True,
            gain_rows_as_eer=True,
        ),
        "processing": {"bin_factor": 1.0, "dose_weighting": True},
        "found_at": "2026-01-02T03:04:05.000+00:00",
    }
    return Movie(**(values | changes))  # type: ignore[arg-type]
