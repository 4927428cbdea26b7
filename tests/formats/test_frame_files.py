"""Movies of one file for each frame: one movie to the rest of the program, and what is wrong with its files."""

from __future__ import annotations

import bz2
import os
from pathlib import Path

import numpy as np
import pytest

from komad.errors import MovieError, MovieMissingError, MovieTruncatedError
from komad.formats import movies
from komad.formats.frame_files import check_count, open_source, status_of
from komad.model import MovieFormat
from komad.model.frame_names import FrameNames, as_one_file
from tests.formats.files import counts, write_mrc_movie, write_tiff_movie

FRAMES = counts((11, 12, 17))


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    """Path of a movie of eleven files, beside another movie and a picture."""
    for number, frame in enumerate(FRAMES, start=1):
        write_mrc_movie(tmp_path / f"a_frame{number}.mrc", frame[None], 0)
    write_mrc_movie(tmp_path / "ba_frame1.mrc", FRAMES[:1], 0)
    write_mrc_movie(tmp_path / "a_frame1.mrc.mrc", FRAMES[:1], 0)
    return tmp_path / "a_frame{frame}.mrc"


def test_the_files_are_one_movie(movie: Path) -> None:
    """Frames come in the order of their numbers, not of their names; each can be read by itself."""
    header = movies.read_header(movie)
    assert (header.format, header.shape, header.pixel_size_angstrom) == (
        MovieFormat.FILES,
        FRAMES.shape,
        1.25,
    )
    movies.check_complete(movie)
    assert np.array_equal(movies.read_frames(movie), FRAMES)
    with movies.open_movie(movie) as reader:
        assert np.array_equal(reader.read_frame(9), FRAMES[9])
        assert reader.bytes_behind == 0


@pytest.mark.parametrize("kind", ["tif", "mrc.bz2"])
def test_files_of_any_kind(tmp_path: Path, kind: str) -> None:
    """Frames may be TIFF or compressed; numbers may begin at 0 and have leading zeros."""
    for number, frame in enumerate(FRAMES):
        path = tmp_path / f"a-{number:04d}.{kind}"
        if kind == "tif":
            write_tiff_movie(path, frame[None], compression="lzw")
        else:
            path.write_bytes(bz2.compress(write_mrc_movie(path, frame[None], 0).read_bytes()))
    movie = tmp_path / f"a-{{frame}}.{kind}"
    movies.check_complete(movie)
    assert np.array_equal(movies.read_frames(movie), FRAMES)


def test_a_gap_may_be_filled_later(movie: Path) -> None:
    """A number that is missing, also the first, is named and waited for; no file at all is a missing movie."""
    movie.with_name("a_frame4.mrc").unlink()
    movie.with_name("a_frame1.mrc").unlink()
    with pytest.raises(
        MovieTruncatedError, match=r"has 9 files, and number 1, 4 is missing between 1 and 11"
    ):
        movies.check_complete(movie)
    with pytest.raises(MovieMissingError, match="none of its files"):
        movies.read_header(movie.with_name("c_frame{frame}.mrc"))


def test_numbers_that_count_nothing(movie: Path) -> None:
    """A date and time where the number should be takes no memory: the first numbers that are missing are told."""
    movie.with_name("a_frame11.mrc").rename(movie.with_name("a_frame20250108154915123.mrc"))
    with pytest.raises(
        MovieTruncatedError, match=r"number 11, 12, 13, 14, 15, \.\.\. is missing between 1 and 2025"
    ):
        movies.read_header(movie)


def test_the_number_of_frames(movie: Path) -> None:
    """Fewer than there must be are waited for, more are an error."""
    check_count(movie, None)
    check_count(movie, 11)
    with pytest.raises(MovieTruncatedError, match="has 11 of 12 frames"):
        check_count(movie, 12)
    with pytest.raises(MovieError, match="has 11 frames, and frames_per_movie is 10") as caught:
        check_count(movie, 10)
    assert not caught.value.retry


def test_files_that_are_no_frames_of_it(movie: Path) -> None:
    """A number twice, another size, another type, a stack and a file that is cut off: each is named."""
    spare = movie.with_name("a_frame01.mrc")
    spare.write_bytes(b"")
    with pytest.raises(MovieError, match=r"frame 1 is there twice, as a_frame01\.mrc and a_frame1\.mrc"):
        movies.read_header(movie)
    spare.unlink()
    fifth = movie.with_name("a_frame5.mrc")
    whole = fifth.read_bytes()
    for frames, mode, message in (
        (counts((1, 12, 18)), 0, r"a_frame5\.mrc is a frame of 18 x 12 pixels of type int8, the first"),
        (FRAMES[:1], 6, "of type uint16, the first"),
        (FRAMES[:3], 0, r"a_frame5\.mrc holds 3 frames"),
    ):
        write_mrc_movie(fifth, frames, mode)
        with pytest.raises(MovieError, match=message) as caught:
            movies.check_complete(movie)
        assert not caught.value.retry
    fifth.write_bytes(whole[:-1])
    with pytest.raises(MovieTruncatedError, match=r"a_frame5\.mrc holds 0 of 1 frames"):
        movies.check_complete(movie)


def test_every_change_is_seen(movie: Path) -> None:
    """Size and time of all change with any file: touched, also into the past, swapped, removed, added."""
    at = 1_600_000_000_123_456_789
    files = [movie.with_name(f"a_frame{number}.mrc") for number in range(1, 12)]
    for number, file in enumerate(files):
        os.utime(file, ns=(at + number, at + number))
    seen = {(status_of(movie).size_bytes, status_of(movie).mtime_ns)}
    assert abs(status_of(movie).mtime_ns - at) < 1_000_000
    assert status_of(movie).size_bytes == 11 * (1024 + 12 * 17)

    def changed() -> bool:
        status = status_of(movie)
        known, now = len(seen), (status.size_bytes, status.mtime_ns)
        seen.add(now)
        return len(seen) > known

    assert not changed()
    os.utime(files[3], ns=(at - 10**12, at - 10**12))
    assert changed()
    files[4].rename(files[4].with_suffix(".x"))
    files[5].rename(files[4])
    files[4].with_suffix(".x").rename(files[5])
    assert changed()
    files[10].unlink()
    assert changed()
    (movie.parent / "other.mrc").write_bytes(b"")
    assert not changed()


def test_content_is_told_from_all_files(movie: Path) -> None:
    """Fingerprint and checksum change with a pixel of any frame; the bytes are those of the files one by one."""
    files = [movie.with_name(f"a_frame{number}.mrc") for number in range(1, 12)]
    whole = b"".join(file.read_bytes() for file in files)
    with open_source(movie) as source:
        before = source.fingerprint(), source.xxh3()
        assert b"".join(source.blocks()) == whole
        assert source.read(1200, 3000) == whole[1200:4200]
        assert source.status().st_size == len(whole)
    raw = bytearray(files[6].read_bytes())
    raw[-1] ^= 1
    files[6].write_bytes(raw)
    with open_source(movie) as source:
        assert source.fingerprint() != before[0]
        assert source.xxh3() != before[1]


@pytest.mark.parametrize(
    ("template", "file", "movie", "name"),
    [
        ("{movie}_frame{frame}.mrc", "/d/a_frame12.mrc", "/d/a_frame{frame}.mrc", "a"),
        ("{movie}_frame{frame}.mrc", "/d/A_FRAME012.MRC", "/d/A_FRAME{frame}.MRC", "A"),
        ("{movie}_{frame}.mrc", "/d/a_1_22.mrc", "/d/a_1_{frame}.mrc", "a_1"),
        ("{movie}{frame}.mrc", "/d/a12b345.mrc", "/d/a12b{frame}.mrc", "a12b"),
        ("n{frame}_{movie}.tif", "/d/n7_x_y.tif", "/d/n{frame}_x_y.tif", "x_y"),
        ("{movie}/raw_{frame}.tif", "/d/DE_5/raw_3.tif", "/d/DE_5/raw_{frame}.tif", "DE_5"),
        ("{movie}_frame{frame}.mrc", "/d/a_frame1.mrcs", None, None),
        ("{movie}_frame{frame}.mrc", "/d/_frame1.mrc", None, None),
        ("{movie}_frame{frame}.mrc", "/d/a_frame.mrc", None, None),
    ],
)
def test_names(template: str, file: str, movie: str | None, name: str | None) -> None:
    """A template tells the movie of a file, and its name."""
    names = FrameNames(template)
    assert names.movie_of(file) == movie
    if movie is not None:
        assert names.name_of(movie) == name
        assert names.movie_of(movie) is None
        assert as_one_file(Path(movie), template).stem == name


@pytest.mark.parametrize(
    "template", ["{movie}.mrc", "{frame}.mrc", "{movie}_{frame}_{frame}", "{frame}/{movie}.mrc", "a"]
)
def test_templates_that_cannot_be(template: str) -> None:
    """Both words are needed, once each, the number in the name of the file."""
    with pytest.raises(ValueError, match="must h"):
        FrameNames(template)


@pytest.mark.parametrize(
    ("path", "one_file"),
    [
        ("/d/a.mrc.bz2", "/d/a.mrc"),
        ("/d/a.b.MRC.XZ", "/d/a.b.MRC"),
        ("/d/a.mrc", "/d/a.mrc"),
        ("/d/a_frame{frame}.mrc", "/d/a_frame.mrc"),
        ("/d/a/{frame}.tif", "/d/a/a.tif"),
    ],
)
def test_name_as_one_file(path: str, one_file: str) -> None:
    """Sidecars and results are named after the uncompressed file, and after what frames share."""
    assert as_one_file(Path(path)) == Path(one_file)
