"""The watcher with the real check of real containers, written as cameras and slow networks write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from komad.errors import MovieTruncatedError
from komad.formats.movies import check_finished
from tests.watch.conftest import Bench

FRAMES = np.random.default_rng(1).poisson(3, (6, 40, 50)).astype(np.uint8)


def write_mrc(path: Path) -> None:
    """Write an MRC stack."""
    with mrcfile.new(path) as file:
        file.set_data(FRAMES.astype(np.int16))


def write_tiff(path: Path) -> None:
    """Write a TIFF with LZW, page by page."""
    tifffile.imwrite(path, FRAMES, compression="lzw", rowsperstrip=16, photometric="minisblack")


@pytest.mark.parametrize(("name", "write"), [("a.mrc", write_mrc), ("a.tif", write_tiff)])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.999])
def test_a_slow_copy_that_stalls(
    bench: Bench, incoming: Path, tmp_path: Path, name: str, write: Callable[[Path], None], fraction: float
) -> None:
    """A copy that stands still for longer than an interval is not taken until all of it is there."""
    bench.watcher._check_finished = check_finished
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (incoming / name).write_bytes(content[: int(len(content) * fraction)])
    assert bench.sweep(10) == []
    assert bench.unreadable == []
    (incoming / name).write_bytes(content)
    assert bench.sweep(2) == [name]


@pytest.mark.parametrize(("name", "write"), [("a.mrc", write_mrc), ("a.tif", write_tiff)])
def test_a_movie_cut_off_for_good(
    bench: Bench, incoming: Path, name: str, write: Callable[[Path], None]
) -> None:
    """What stays cut off is reported once, in words that name the file."""
    bench.watcher._check_finished = check_finished
    write(incoming / name)
    content = (incoming / name).read_bytes()
    (incoming / name).write_bytes(content[: len(content) // 2])
    bench.sweep(40)
    [(candidate, error)] = bench.unreadable
    assert candidate.path == incoming / name
    assert isinstance(error, MovieTruncatedError)
    assert str(incoming / name) in str(error)
