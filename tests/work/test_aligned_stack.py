"""The aligned stack is written by the correct job, beside the micrographs."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from komad.config import Output, Processing
from komad.errors import OutputError
from komad.model import Acquisition, Movie, MovieFormat, MovieHeader, References, outliers_at
from komad.work.correct import make_micrographs, write_results

FRAMES = np.random.default_rng(0).poisson(1.2, (5, 256, 320)).astype(np.uint8)
NO_OUTLIERS = outliers_at([])


def movie(**processing: object) -> Movie:
    """A movie of five frames."""
    return Movie(
        movie_id=1,
        path=Path("/data/m.mrc"),
        size_bytes=FRAMES.nbytes,
        mtime_ns=1,
        fingerprint="ab",
        stem="m",
        header=MovieHeader(format=MovieFormat.MRC, n_frames=5, ny=256, nx=320, dtype="uint8"),
        acquisition=Acquisition(pixel_size_angstrom=1.5, voltage_kv=300, dose_per_frame=1.0),
        references=References(),
        processing=Processing(**processing).model_dump(mode="json"),
        found_at="2026-03-04T12:00:00.000+00:00",
    )


def run(output: Output, **processing: object) -> None:
    """The correct job, without its queue."""
    described = movie(**processing)
    stages: list[str] = []
    result = make_micrographs(described, FRAMES, outliers=NO_OUTLIERS, output=output, on_stage=stages.append)
    assert ("aligned_stack" in stages) == ("aligned_stack" in result.timings_s) == output.aligned_stack
    write_results(result, described, outliers=NO_OUTLIERS, archive_path=None, output=output)


def test_the_stack_is_written_when_asked_for(tmp_path: Path) -> None:
    """Groups of two frames, binned as the micrographs are, with the pixel size; a run without it removes it."""
    output = Output(directory=tmp_path / "out", aligned_stack=True, aligned_stack_group=2)
    run(output, bin_factor=2)
    with (
        mrcfile.open(tmp_path / "out" / "m_Stk.mrcs") as stack,
        mrcfile.open(tmp_path / "out" / "m.mrc") as sums,
    ):
        assert stack.data.shape == (3, 128, 160)
        assert stack.data.shape[1:] == sums.data.shape
        assert stack.voxel_size.x == sums.voxel_size.x == pytest.approx(3.0)
        np.testing.assert_allclose(
            stack.data.mean(axis=(1, 2)), [FRAMES[i : i + 2].sum(axis=0).mean() for i in (0, 2, 4)], rtol=0.01
        )
    run(output.model_copy(update={"aligned_stack": False}))
    assert not (tmp_path / "out" / "m_Stk.mrcs").exists()
    assert (tmp_path / "out" / "m.mrc").exists()


def test_a_file_of_somebody_else_is_kept(tmp_path: Path) -> None:
    """A stack of this name that komad did not write stays, and the job says so."""
    foreign = tmp_path / "m_Stk.mrcs"
    foreign.write_bytes(b"x" * 4096)
    with pytest.raises(OutputError, match="not written by komad"):
        run(Output(directory=tmp_path, aligned_stack=True))
    assert foreign.read_bytes() == b"x" * 4096
