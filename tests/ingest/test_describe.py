"""From a file to a movie with everything bound."""

from __future__ import annotations

import bz2
import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from komad.config import AcquisitionSettings, Processing, ReferenceSettings, WatchFolder
from komad.errors import MovieChangedError, MovieError, MovieMissingError, ParameterError, ReferenceFileError
from komad.formats.frame_files import status_of
from komad.ingest import describe, missing_parameters, reconsider
from komad.ingest.describe import stem_of
from komad.model import Candidate, Movie
from komad.work.archive import check_unchanged, read_source
from tests.ingest.conftest import mdoc_text

WriteMovie = Callable[..., Path]


def candidate(path: Path) -> Candidate:
    """The file as the watcher found it."""
    status = path.stat()
    return Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)


def described(path: Path, *, supplied: dict[str, object] | None = None, **settings: object) -> Movie:
    """Describe a movie of a folder with these acquisition settings."""
    folder = WatchFolder(directory=path.parent, acquisition=AcquisitionSettings(**settings))
    return describe(candidate(path), folder, Processing(), reference_directory=None, supplied=supplied)


def test_a_movie_is_described(write_movie: WriteMovie, tmp_path: Path) -> None:
    """Header, acquisition, references and settings of that moment are all in the movie."""
    path = write_movie("grid.1/movie_0.5.mrc", shape=(5, 6, 8), pixel_size=0.83)
    (tmp_path / "gain.mrc").write_bytes(b"gain")
    folder = WatchFolder(
        directory=tmp_path,
        acquisition=AcquisitionSettings(voltage_kv=300, dose_per_frame=1.5),
        references=ReferenceSettings(gain=tmp_path / "gain.mrc", gain_rot=3),
    )
    movie = describe(
        candidate(path), folder, Processing(bin_factor=2), reference_directory=tmp_path / "state/references"
    )
    assert movie.header.shape == (5, 6, 8)
    assert movie.header.dtype == "int16"
    assert movie.stem == "movie_0_5"
    assert movie.movie_id == 0
    assert movie.acquisition.pixel_size_angstrom == pytest.approx(0.83, rel=1e-6)
    assert movie.acquisition.sources["pixel_size_angstrom"] == "header"
    assert movie.references.gain is not None
    assert movie.references.gain.path.parent == tmp_path / "state/references"
    assert movie.references.gain_rot == 3
    assert movie.processing == Processing(bin_factor=2).model_dump()
    assert datetime.fromisoformat(movie.found_at).utcoffset() == timedelta(0)
    assert missing_parameters(movie.acquisition, Processing()) == ""


def test_fingerprint_is_over_size_head_and_tail(write_movie: WriteMovie) -> None:
    """The fingerprint is SHA-256 over size, first and last mebibyte, and tells movies apart by either end."""
    path = write_movie(shape=(4, 512, 768))  # 3 MiB
    content = path.read_bytes()
    expected = hashlib.sha256(str(len(content)).encode() + content[: 2**20] + content[-(2**20) :]).hexdigest()
    first = described(path).fingerprint
    assert first == expected
    for place, same in ((2000, False), (-1, False), (len(content) // 2, True)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (described(path).fingerprint == first) is same


def test_mrc_header_of_exactly_one_angstrom_is_unknown(write_movie: WriteMovie) -> None:
    """A cell that makes 1 Å per pixel is what programs write without knowing."""
    movie = described(write_movie(pixel_size=1.0), voltage_kv=300, dose_per_frame=1)
    assert movie.acquisition.pixel_size_angstrom is None
    assert "exactly 1 Å" in missing_parameters(movie.acquisition, Processing())


def test_supplied_values_win(write_movie: WriteMovie) -> None:
    """What an operator supplies goes before configuration and header."""
    movie = described(
        write_movie(pixel_size=0.8), pixel_size_angstrom=0.9, supplied={"pixel_size_angstrom": 0.7}
    )
    assert movie.acquisition.pixel_size_angstrom == 0.7


def test_a_sidecar_that_comes_later(write_movie: WriteMovie, tmp_path: Path) -> None:
    """Described without its sidecar the movie lacks values; reconsidered when it is there, it has them."""
    path = write_movie(shape=(4, 6, 8))
    movie = described(path, pixel_size_angstrom=0.8)
    assert missing_parameters(movie.acquisition, Processing()) != ""
    path.with_name("movie.mrc.mdoc").write_text(
        mdoc_text(FrameDosesAndNumber="1.5 4", SubFramePath=r"D:\frames\movie.mrc", Defocus=-1.5)
    )
    folder = WatchFolder(directory=tmp_path)
    acquisition = reconsider(movie, folder)
    assert acquisition.voltage_kv == 300
    assert acquisition.dose_per_frame == 1.5
    assert acquisition.sources["dose_per_frame"] == "movie.mrc.mdoc"
    assert acquisition.facts["defocus_um"] == -1.5
    assert missing_parameters(acquisition, Processing()) == ""
    # The configuration bound at that time stays, although this folder's settings name no pixel size.
    assert acquisition.pixel_size_angstrom == 0.8
    assert acquisition.sources["pixel_size_angstrom"] == "configuration"


def test_reconsider_with_a_completed_configuration_or_supplied_values(
    write_movie: WriteMovie, tmp_path: Path
) -> None:
    """Unknown values come from a configuration that was completed; what is supplied wins and is kept."""
    movie = described(write_movie(), pixel_size_angstrom=0.8)
    folder = WatchFolder(
        directory=tmp_path,
        acquisition=AcquisitionSettings(pixel_size_angstrom=0.5, voltage_kv=200, dose_per_frame=1.0),
    )
    assert reconsider(movie, folder).pixel_size_angstrom == 0.8
    assert reconsider(movie, folder).voltage_kv == 200
    acquisition = reconsider(movie, folder, supplied={"pixel_size_angstrom": 0.6})
    assert acquisition.pixel_size_angstrom == 0.6
    assert acquisition.sources["pixel_size_angstrom"] == "supplied"


def test_a_file_that_changed_since_it_was_found(write_movie: WriteMovie, tmp_path: Path) -> None:
    """Another mtime or size than the watcher saw is an error: the watcher looks again."""
    path = write_movie()
    found = candidate(path)
    os.utime(path, (1, 1))
    with pytest.raises(MovieChangedError, match=r"movie\.mrc"):
        describe(found, WatchFolder(directory=tmp_path), Processing(), reference_directory=None)


def test_files_that_cannot_be_described(write_movie: WriteMovie, tmp_path: Path) -> None:
    """A file that is gone or no movie is an error of its class that names it."""
    found = candidate(write_movie())
    found.path.unlink()
    folder = WatchFolder(directory=tmp_path)
    with pytest.raises(MovieMissingError, match=r"movie\.mrc"):
        describe(found, folder, Processing(), reference_directory=None)
    found.path.write_bytes(b"text" * 1000)
    with pytest.raises(MovieError, match=r"movie\.mrc"):
        describe(candidate(found.path), folder, Processing(), reference_directory=None)


def test_never_without_a_reference_that_is_named(write_movie: WriteMovie, tmp_path: Path) -> None:
    """A configured gain that is missing stops the movie."""
    folder = WatchFolder(directory=tmp_path, references=ReferenceSettings(gain=tmp_path / "away.mrc"))
    with pytest.raises(ReferenceFileError, match=r"away\.mrc"):
        describe(candidate(write_movie()), folder, Processing(), reference_directory=None)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("s_mmm_00993_33.0_Oct08_07.39.05.tif", "s_mmm_00993_33_0_Oct08_07_39_05"),
        ("FoilHole_1_Data_2_Fractions.tiff", "FoilHole_1_Data_2_Fractions"),
        ("my movie (2).mrc", "my_movie__2_"),
        ("a.b.mrc.bz2", "a_b"),
        ("a_frame{frame}.mrc", "a_frame"),
        ("3@a#b'c.mrc", "3_a_b_c"),
        ("tilt_+33-a.mrc", "tilt_+33-a"),
        ("-rf.mrc", "-rf"),
        ("a\nb\x1b[31m\tc.mrc", "a_b__31m_c"),
        ("é" * 125 + ".mrc", "é" * 100),
    ],
)
def test_stems(name: str, stem: str) -> None:
    """Stems have no dots, as RELION wants, nor anything that breaks a STAR table."""
    assert stem_of(Path("/data") / name) == stem


def test_doses_for_another_number_of_frames_are_refused(write_movie: WriteMovie) -> None:
    """Both numbers and the source are in the message; as many doses as frames are taken."""
    path = write_movie(shape=(4, 6, 8))
    with pytest.raises(ParameterError, match=r"\(from configuration\) lists 3 frames, the movie has 4"):
        described(path, frame_doses=(1.0, 1.0, 1.0))
    assert described(path, frame_doses=(1.0, 2.0, 3.0, 4.0)).acquisition.dose_per_frame == 2.5


def test_a_tilt_waits_for_its_series(write_movie: WriteMovie, tmp_path: Path) -> None:
    """Found before its section was written the tilt waits; reconsidered after that, it has the dose before it."""
    path, series = write_movie("tilt_1.mrc"), tmp_path / "series.mrc.mdoc"
    folder = WatchFolder(
        directory=tmp_path,
        acquisition=AcquisitionSettings(pixel_size_angstrom=1, voltage_kv=300, dose_per_frame=0.5),
        tilt_series_mdoc=series,
    )
    rows = [f"[ZValue = {i}]\nTiltAngle = {i}\nSubFramePath = tilt_{i}.mrc\n" for i in range(2)]
    series.write_text(rows[0])
    movie = describe(candidate(path), folder, Processing(), reference_directory=None)
    assert "place in the tilt series unknown" in missing_parameters(movie.acquisition, Processing())
    series.write_text("".join(rows))
    acquisition = reconsider(movie, folder)
    assert missing_parameters(acquisition, Processing()) == ""
    assert acquisition.exposure_before(movie.header.n_frames) == 2.0


def test_a_compressed_movie_has_the_sidecar_of_what_is_in_it(write_movie: WriteMovie) -> None:
    """`a.mrc.bz2` is described by `a.mrc.mdoc`, and its results are named `a`."""
    path = write_movie("a.mrc")
    packed = path.with_name("a.mrc.bz2")
    packed.write_bytes(bz2.compress(path.read_bytes()))
    path.unlink()
    path.with_name("a.mrc.mdoc").write_text(mdoc_text(Binning=1))
    movie = described(packed)
    assert (movie.stem, movie.path, movie.header.shape) == ("a", packed, (4, 6, 8))
    assert movie.acquisition.sources["voltage_kv"] == "a.mrc.mdoc"


def test_frames_in_files_are_one_movie(write_movie: WriteMovie, tmp_path: Path) -> None:
    """The movie has the name and the sidecar of `{movie}`, and all that its files have; a change of one is seen."""
    for number in range(3):
        write_movie(f"a_frame{number}.mrc", shape=(1, 6, 8))
    (tmp_path / "a.mrc.mdoc").write_text(mdoc_text(Binning=1))
    folder = WatchFolder(directory=tmp_path, frame_files="{movie}_frame{frame}.mrc")
    path = tmp_path / "a_frame{frame}.mrc"
    status = status_of(path)
    found = Candidate(path=path, size_bytes=status.size_bytes, mtime_ns=status.mtime_ns, folder=0)
    movie = describe(found, folder, Processing(), reference_directory=None)
    assert (movie.stem, movie.header.shape, movie.size_bytes) == ("a", (3, 6, 8), status.size_bytes)
    assert movie.acquisition.sources["voltage_kv"] == "a.mrc.mdoc"
    check_unchanged(movie)
    np.testing.assert_array_equal(read_source(movie)[2], np.arange(48).reshape(6, 8))
    os.utime(tmp_path / "a_frame1.mrc", ns=(1, 1))
    with pytest.raises(MovieChangedError):
        describe(found, folder, Processing(), reference_directory=None)
    with pytest.raises(MovieChangedError):
        check_unchanged(movie)
    for file in tmp_path.glob("a_frame*"):
        file.unlink()
    with pytest.raises(MovieMissingError):
        check_unchanged(movie)
