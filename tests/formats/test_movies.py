"""The door for movies: what a file is, and what is wrong with it."""

from __future__ import annotations

import gzip
import itertools
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from komad.errors import MovieError, MovieMissingError, MovieTruncatedError
from komad.formats import movies, mrcz, source
from komad.model import MovieFormat
from tests.formats.files import counts, write_mrc_movie, write_tiff_movie


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """A small MRC movie."""
    return write_mrc_movie(tmp_path / "movie.mrc", counts((3, 16, 20)), 0)


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    """Names do not count: each container is known under a wrong suffix."""
    frames = counts((2, 8, 9))
    write_mrc_movie(tmp_path / "1.tif", frames, 0)
    write_tiff_movie(tmp_path / "2.mrc", frames)
    write_tiff_movie(tmp_path / "3.mrc", frames, big=True, order=">")
    mrcz.write_mrcz(
        tmp_path / "4.mrc", frames, pixel_size_angstrom=1.0, voltage_kv=200, cs_mm=2.7, metadata={}
    )
    kinds = [movies.identify(path) for path in sorted(tmp_path.iterdir())]
    assert kinds == [MovieFormat.MRC, MovieFormat.TIFF, MovieFormat.TIFF, MovieFormat.MRCZ]


def every_door(path: Path) -> list[type[Exception] | str]:
    """What each public function of the door says about a bad file."""
    said: list[type[Exception] | str] = []
    for read in (movies.identify, movies.read_header, movies.check_complete, movies.read_frames):
        with pytest.raises(MovieError) as caught:
            read(path)
        said += [type(caught.value), str(caught.value)]
    return said


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", MovieTruncatedError, "is empty (0 bytes)"),
        (bytes(4096), MovieTruncatedError, "begins with zeros"),
        (b"II", MovieTruncatedError, "ends after 2 bytes"),
        (b"some text " * 300, MovieError, "no MRC file that can be read"),
        (gzip.compress(b"some text " * 300, mtime=0), MovieError, "known modes are"),
        (b"BZh91AY&SY" + bytes(2000), MovieError, "its bzip2 data are damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), MovieError, "an HDF5 file"),
        (b"<?xml version='1.0'?>" + b" " * 2000, MovieError, "an XML text"),
    ],
)
def test_what_is_no_movie(tmp_path: Path, content: bytes, error: type[MovieError], message: str) -> None:
    """Every door gives the same clear error, with the file's name."""
    path = tmp_path / "bad.mrc"
    path.write_bytes(content)
    said = every_door(path)
    assert set(said[0::2]) == {error}
    assert all(str(text).startswith(str(path)) and message in str(text) for text in said[1::2])


@pytest.mark.parametrize("kind", ["mrc", "mrcz", "strips", "tiles", "deflate"])
def test_any_damage_gives_a_movie_or_a_movie_error(tmp_path: Path, kind: str) -> None:
    """Files with wrong bytes anywhere never end the process nor raise anything else."""
    frames, path = counts((3, 20, 30)), tmp_path / "m"
    match kind:
        case "mrc":
            write_mrc_movie(path, frames, 0, extended=bytes(50))
        case "mrcz":
            mrcz.write_mrcz(path, frames, pixel_size_angstrom=1, voltage_kv=300, cs_mm=2, metadata={})
        case "strips":
            write_tiff_movie(path, frames, compression="lzw", rowsperstrip=7)
        case "tiles":
            write_tiff_movie(path, frames, compression="zstd", tile=(16, 16), big=True)
        case _:
            write_tiff_movie(path, frames, compression="zlib", predictor=True, order=">")
    whole, random = path.read_bytes(), np.random.default_rng(7)
    reach = 230 if kind == "mrc" else len(whole)  # pixels without compression cannot be wrong
    n_errors = 0
    for _ in range(150):
        raw = bytearray(whole)
        for place in random.integers(0, reach, 3):
            raw[place] = random.integers(256)
        path.write_bytes(raw)
        try:
            movies.read_frames(path)
        except MovieError:
            n_errors += 1
    assert n_errors > 5


def test_missing_movie(tmp_path: Path) -> None:
    """A file that is gone is missing, which a retry can cure."""
    said = every_door(tmp_path / "gone.mrc")
    assert set(said[0::2]) == {MovieMissingError}
    assert "gone.mrc cannot be read: No such file or directory" in str(said[1])


def test_directory(tmp_path: Path) -> None:
    """A folder is told as such."""
    assert "is a directory" in str(every_door(tmp_path)[1])


def test_named_pipe_does_not_block(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to returns at once with an error."""
    os.mkfifo(tmp_path / "pipe.mrc")
    assert "no regular file" in str(every_door(tmp_path / "pipe.mrc")[1])


def test_no_permission(movie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is an error that a retry does not cure."""
    opened = os.open

    def forbidden(path: Path, *arguments: int) -> int:
        if Path(path) == movie:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(source.os, "open", forbidden)  # root may read everything
    with pytest.raises(MovieError, match=r"movie\.mrc cannot be read: Permission denied") as caught:
        movies.read_frames(movie)
    assert not caught.value.retry


@pytest.mark.parametrize("number", [5, 116])
def test_lost_mount_while_reading(movie: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An input error or a stale handle in the middle is a missing movie, to be tried again."""

    def lost(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(source.os, "preadv", lost)
    with pytest.raises(MovieMissingError, match="file system is not there"):
        movies.read_frames(movie)


def test_progress_is_told_in_order(movie: Path) -> None:
    """Each frame is told once, in order, in the thread that reads."""
    told: list[tuple[int, threading.Thread]] = []
    movies.read_frames(movie, on_frame=lambda index: told.append((index, threading.current_thread())))
    assert told == [(index, threading.current_thread()) for index in range(3)]


def test_files_are_closed(movie: Path, tmp_path: Path) -> None:
    """No descriptor is left open, after success or after errors."""
    (tmp_path / "bad.mrc").write_bytes(b"text " * 400)
    truncated = tmp_path / "short.mrc"
    truncated.write_bytes(movie.read_bytes()[:-1])
    tiff = write_tiff_movie(tmp_path / "m.tif", counts((2, 8, 9)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (movie, tmp_path / "bad.mrc", truncated, tiff, tmp_path):
        for read in (movies.identify, movies.read_header, movies.check_complete, movies.read_frames):
            try:
                read(path)
            except MovieError:
                continue
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_task_runs_after_closing() -> None:
    """When the consumer stops early, the tasks under way are waited for and the others never begin."""
    running: set[int] = set()
    begun: list[int] = []

    def slow(index: int) -> int:
        begun.append(index)
        running.add(index)
        time.sleep(0.02)
        running.discard(index)
        return index

    results = source.map_in_order(slow, 500)
    assert next(results) == 0
    results.close()
    n_begun = len(begun)
    assert not running
    assert n_begun < 500
    time.sleep(0.05)
    assert len(begun) == n_begun


def test_results_come_in_order_and_errors_end_them() -> None:
    """Tasks that end out of order are given in order; the first error is raised in its place."""

    def task(index: int) -> int:
        time.sleep(0.01 * (index % 3))
        if index == 7:
            raise MovieError("the eighth")
        return index

    results = source.map_in_order(task, 30)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(MovieError, match="eighth"):
        next(results)
