"""The archive job and the correct job, without a database."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad import __version__
from komad.config import Archive, Settings
from komad.errors import ArchiveError, MovieChangedError, MovieMissingError, OutputError
from komad.errors import ReferenceFileError as WrongReferenceError
from komad.formats.images import write_mrc
from komad.formats.mrc import CODECS
from komad.formats.mrcz import read_metadata
from komad.model import StackFacts, StackSum, outliers_at
from komad.work import stack_sums
from komad.work.archive import archive_movie, find_archive, read_archive, read_source
from komad.work.correct import make_micrographs, sum_again, write_results
from tests.work.conftest import SHAPE, MakeMovie, counts


def test_archive_holds_the_counts(make_movie: MakeMovie, tmp_path: Path) -> None:
    """The archive reads back as the camera's counts, and its metadata are enough to process the movie again."""
    movie = make_movie("a", seed=3)
    result = archive_movie(movie, read_source(movie), archive=Archive(), directory=tmp_path / "archive")
    assert result.path == tmp_path / "archive" / "a.mrcz"
    np.testing.assert_array_equal(read_archive(result.path), counts(3))
    metadata = read_metadata(result.path)
    assert metadata["movie"]["sha256"] == hashlib.sha256(movie.path.read_bytes()).hexdigest()
    assert metadata["movie"]["size_bytes"] == movie.path.stat().st_size
    assert metadata["acquisition"]["dose_per_frame"] == 1.0
    assert metadata["acquisition"]["sources"]["voltage_kv"] == "configuration"
    assert metadata["references"]["gain"] is None
    assert metadata["processing"]["bin_factor"] == 1.0
    assert result.summary["archive_bytes"] == result.path.stat().st_size
    assert result.stack_sum.largest_count == result.summary["largest_count"] == counts(3).max()


def test_archive_names_its_references_by_content(make_movie: MakeMovie, tmp_path: Path) -> None:
    """The hash of each reference, how the gain was turned, and komad's version stand in the archive."""
    files = {"gain": tmp_path / "gain.mrc", "dark": tmp_path / "dark.mrc", "defects": tmp_path / "boxes.txt"}
    for kind in ("gain", "dark"):
        write_mrc(files[kind], np.full(SHAPE[1:], len(kind) / 4, np.float32), pixel_size_angstrom=1.5)
    files["defects"].write_text("3 4 2 1\n")
    movie = make_movie("a", gain_rot=2, **files)
    result = archive_movie(movie, read_source(movie), archive=Archive(), directory=tmp_path / "archive")
    assert result.path is not None
    metadata = read_metadata(result.path)
    for kind, path in files.items():
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert metadata["references"][kind] == {"path": str(path), "sha256": sha256}
    assert metadata["references"]["gain_rot"] == 2
    assert metadata["komad_version"] == __version__
    assert {(4, 3), (4, 4)} <= {tuple(spot) for spot in result.stack_sum.outliers.yx.tolist()}


def test_codec_and_level(make_movie: MakeMovie, tmp_path: Path) -> None:
    """The archive is compressed as `[archive]` says: the mode field tells the codec, the size the effort."""
    movie = make_movie("a")
    sizes = []
    for level in (1, 9):
        archive = Archive(codec="zlib", level=level)
        result = archive_movie(movie, read_source(movie), archive=archive, directory=tmp_path)
        assert result.path is not None
        assert int.from_bytes(result.path.read_bytes()[12:16], "little") // 1000 == CODECS["zlib"]
        sizes.append(result.path.stat().st_size)
    assert sizes[0] > sizes[1]


def test_stack_sum(make_movie: MakeMovie, tmp_path: Path) -> None:
    """The stack sum is the exact sum of the frames, and is there also when archives are switched off."""
    movie = make_movie("a", seed=4)
    result = archive_movie(
        movie, read_source(movie), archive=Archive(enabled=False), directory=tmp_path / "no"
    )
    assert (result.path, result.summary["sha256"]) == (None, None)
    assert not (tmp_path / "no").exists()
    np.testing.assert_array_equal(result.stack_sum.total, counts(4).sum(axis=0))
    np.testing.assert_allclose(result.stack_sum.frame_means, counts(4).mean(axis=(1, 2)))


def test_changed_source(make_movie: MakeMovie) -> None:
    """A file that is not the one that was found is not archived under its name."""
    movie = make_movie()
    os.utime(movie.path, ns=(1, 1))
    with pytest.raises(MovieChangedError, match=r"a\.mrc.*taken as a new movie"):
        read_source(movie)
    movie.path.unlink()
    with pytest.raises(MovieMissingError, match=r"a\.mrc.*mounted"):
        read_source(movie)


def test_source_that_changes_meanwhile(make_movie: MakeMovie, tmp_path: Path) -> None:
    """A file that changes between reading and hashing leaves no archive."""
    movie = make_movie()
    frames = read_source(movie)
    os.utime(movie.path, ns=(1, 1))
    with pytest.raises(MovieChangedError):
        archive_movie(movie, frames, archive=Archive(), directory=tmp_path / "archive")
    assert list(tmp_path.glob("archive/*")) == []


def test_only_the_movie_s_own_archive_is_found(make_movie: MakeMovie, tmp_path: Path) -> None:
    """An archive is taken for a movie's when it says so; one of another movie of that name, or none, is not."""
    first, other = make_movie("a", seed=1), make_movie("a", seed=2)
    assert find_archive(first, tmp_path) is None
    archive_movie(other, read_source(other), archive=Archive(), directory=tmp_path)
    assert find_archive(other, tmp_path) == tmp_path / "a.mrcz"
    assert find_archive(first, tmp_path) is None


def test_archive_that_is_gone(tmp_path: Path) -> None:
    """A missing archive is named, with what to do."""
    with pytest.raises(ArchiveError, match=r"gone\.mrcz.*retry the movie's archive job"):
        read_archive(tmp_path / "gone.mrcz")


def test_archive_of_another_movie_is_kept(make_movie: MakeMovie, tmp_path: Path) -> None:
    """With a new database a movie may have the name of an archived one: it is not written over; the same movie is."""
    first = make_movie("a", seed=1)
    for _ in range(2):
        archive_movie(first, read_source(first), archive=Archive(), directory=tmp_path / "archive")
    kept = (tmp_path / "archive/a.mrcz").read_bytes()
    other = make_movie("a", seed=2)
    with pytest.raises(OutputError, match=r"a\.mrcz is the archive of another movie.*it is kept"):
        archive_movie(other, read_source(other), archive=Archive(), directory=tmp_path / "archive")
    assert (tmp_path / "archive/a.mrcz").read_bytes() == kept
    (tmp_path / "archive/a.mrcz").write_bytes(b"cut off")
    archive_movie(other, read_source(other), archive=Archive(), directory=tmp_path / "archive")
    np.testing.assert_array_equal(read_archive(tmp_path / "archive/a.mrcz"), counts(2))


def test_archive_directory_that_cannot_be_made(make_movie: MakeMovie, tmp_path: Path) -> None:
    """A file where the directory should be is an output error."""
    movie = make_movie()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make the folder .*/archive: Not a directory; check that"):
        archive_movie(movie, read_source(movie), archive=Archive(), directory=tmp_path / "file" / "archive")


def test_gain_of_the_wrong_size_stops_the_archive(make_movie: MakeMovie, tmp_path: Path) -> None:
    """A gain that does not fit is an error, never a sum without gain."""
    gain = tmp_path / "gain.mrc"
    write_mrc(gain, np.ones((64, 64), np.float32), pixel_size_angstrom=1.0)
    movie = make_movie("a", gain=gain)
    with pytest.raises(WrongReferenceError, match=r"64 x 64.*192 x 160"):
        archive_movie(movie, read_source(movie), archive=Archive(), directory=tmp_path)


def test_correct_from_archive_is_correct_from_memory(make_movie: MakeMovie, settings: Settings) -> None:
    """The frames of the archive give the same micrograph as those in memory, and all files are written."""
    movie = make_movie("a", seed=5)
    frames = read_source(movie)
    archived = archive_movie(movie, frames, archive=Archive(), directory=settings.output.directory)
    assert archived.path is not None
    outliers = archived.stack_sum.outliers
    np.testing.assert_array_equal(outliers.yx, sum_again(movie, read_archive(archived.path)).outliers.yx)
    first = make_micrographs(movie, frames, outliers=outliers, output=settings.output)
    again = make_micrographs(movie, read_archive(archived.path), outliers=outliers, output=settings.output)
    np.testing.assert_array_equal(first.sum_unweighted, again.sum_unweighted)
    assert first.motion.shifts_px.shape == (SHAPE[0], 2)
    summary = write_results(
        first, movie, outliers=outliers, archive_path=archived.path, output=settings.output
    )
    assert summary["archive"] == str(archived.path)
    assert all((settings.output.directory / name).is_file() for name in summary["files"].values())


def test_stack_sum_file(make_movie: MakeMovie, tmp_path: Path) -> None:
    """A stack sum comes back as it was saved; one that is gone or damaged is none, so that it is made again."""
    total = np.arange(12, dtype=np.uint16).reshape(3, 4)
    means = np.array([1.5, 2.5])
    outliers = outliers_at([[1, 2]])
    facts = StackFacts(mean_e_per_px=4.0, contrast=0.1, gradient=0.2, outlier_fraction=0.3)
    saved = StackSum(total=total, frame_means=means, outliers=outliers, facts=facts, largest_count=7.0)
    row = stack_sums.save(tmp_path / "sums", make_movie(), saved)
    assert (row.ny, row.nx, row.n_frames, row.dtype, row.n_outliers) == (3, 4, 2, "uint16", 1)
    assert (row.facts, row.n_bytes) == (facts, (tmp_path / "sums" / row.file).stat().st_size)
    np.testing.assert_array_equal(np.frombuffer(row.frame_means, "<f8"), means)
    path = tmp_path / "sums" / row.file
    loaded = stack_sums.load(path)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.total, total)
    np.testing.assert_array_equal(loaded.outliers.yx, outliers.yx)
    assert (loaded.facts, loaded.largest_count) == (facts, 7.0)
    unknown = stack_sums.unpack(stack_sums.pack(replace(saved, largest_count=None)))
    assert unknown is not None
    assert unknown.largest_count is None
    path.write_bytes(path.read_bytes()[:100])
    assert stack_sums.load(path) is None
    path.unlink()
    assert stack_sums.load(path) is None


def test_stack_sum_file_of_an_older_komad(make_movie: MakeMovie, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read all the same, without the largest count, which it does not have."""
    movie = make_movie("a", seed=3)
    stack_sum = sum_again(movie, read_source(movie))
    savez = np.savez

    def as_before(file: Any, *, largest: Any, **arrays: Any) -> None:
        del largest
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", as_before)
    older = stack_sums.unpack(stack_sums.pack(stack_sum))
    assert older is not None
    np.testing.assert_array_equal(older.total, stack_sum.total)
    assert (older.largest_count, stack_sum.largest_count) == (None, counts(3).max())
