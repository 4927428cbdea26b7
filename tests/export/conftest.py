"""A small session as komad leaves it: movies, a gain that must be turned, and all files of the output folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from komad.config import Output
from komad.formats.mrcz import write_mrcz
from komad.model import MovieFormat, MovieHeader, ReferenceFile, References, outliers_at
from komad.output.micrograph import write_micrograph
from komad.output.session import SessionIndex
from tests.cli.conftest import Komad, komad
from tests.output.conftest import MOVIE, RESULT

__all__ = ["Komad", "komad"]

NY, NX, N_FRAMES = 48, 64, 5
PIXEL_SIZE = 0.83


@dataclass
class Made:
    """A session in the making."""

    camera: Path
    output: Path
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    factor: np.ndarray = field(default_factory=lambda: np.ones((NY, NX), np.float32))

    def gain(self) -> References:
        """A gain that lies a quarter off: the factor is np.rot90(file, -1)."""
        rng = np.random.default_rng(3)
        self.factor = rng.uniform(0.9, 1.1, (NY, NX)).astype(np.float32)
        path = self.camera / "gain.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(np.rot90(self.factor, 1)))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return References(gain=ReferenceFile(path=path, original_path=path, sha256=sha256), gain_rot=1)

    def add(
        self,
        stem: str,
        *,
        packed: bool = False,
        result: dict[str, Any] | None = None,
        acquisition: dict[str, Any] | None = None,
        **movie: Any,
    ) -> None:
        """A movie, corrected; `packed` as MRCZ, which RELION cannot read."""
        rng = np.random.default_rng(len(self.counts))
        counts = rng.poisson(2.0, (N_FRAMES, NY, NX)).astype(np.int8)
        self.counts[stem] = counts
        path = self.camera / f"{stem}.{'mrcz' if packed else 'mrc'}"
        if packed:
            write_mrcz(path, counts, pixel_size_angstrom=PIXEL_SIZE, voltage_kv=300, cs_mm=2.7, metadata={})
        else:
            with mrcfile.new(path, overwrite=True) as file:
                file.set_data(counts)
        kind = MovieFormat.MRCZ if packed else MovieFormat.MRC
        header = MovieHeader(format=kind, n_frames=N_FRAMES, ny=NY, nx=NX, dtype="int8", mrc_mode=0)
        values = {
            "stem": stem,
            "path": path,
            "size_bytes": path.stat().st_size,
            "header": header,
            "references": References(),
            "acquisition": replace(MOVIE.acquisition, **(acquisition or {})),
            **movie,
        }
        summary = write_micrograph(
            replace(RESULT, **(result or {})),
            replace(MOVIE, **values),
            directory=self.output,
            archive_path=path if packed else None,
            output=Output(thumbnail=False),
            outliers=outliers_at([[3, 4]]),
        )
        number = len(self.counts)
        with SessionIndex(self.output) as index:
            index.publish([{**summary, "movie_id": number, "sequence": number}])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty session."""
    (tmp_path / "camera").mkdir()
    return Made(camera=tmp_path / "camera", output=tmp_path / "komad")
