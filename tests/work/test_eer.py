"""EER movies through the jobs: their archive is the file itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from komad.config import Archive, Cleanup, Processing, Settings, WatchFolder
from komad.errors import ArchiveError, OutputError, ParameterError
from komad.formats import copies
from komad.formats.movies import read_frames
from komad.ingest import describe, reconsider
from komad.model import Candidate, JobKind, JobState, Movie
from komad.output.manifest import Manifest, Moment, archived_metadata
from komad.rebuild import rebuild
from komad.simulate.eer import write_eer_frames
from komad.store import Store
from komad.work.archive import (
    archive_movie,
    find_archive,
    find_verified_archive,
    read_archive,
    read_source,
)
from komad.work.cleanup import Cleaner
from komad.work.correct import make_micrographs, write_results
from komad.work.verify import Trouble, verify
from tests.work.conftest import counts

RAW_PER_FRAME = 30
"""No pixel of the movies counts more."""
MakeEer = Callable[..., Movie]


@pytest.fixture
def make_eer(settings: Settings) -> MakeEer:
    """Write an EER movie of 6 x 30 raw frames and describe it; keywords are settings of processing."""

    def make(stem: str = "a", seed: int = 0, **processing: Any) -> Movie:
        path = settings.watch[0].directory / f"{stem}.eer"
        frames = np.minimum(counts(seed), RAW_PER_FRAME)
        for _ in write_eer_frames(
            path, frames, pixel_size_angstrom=1.5, raw_frames_per_frame=RAW_PER_FRAME, seed=seed
        ):
            pass
        status = path.stat()
        acquisition = settings.watch[0].acquisition.model_copy(update={"dose_per_frame": 1 / RAW_PER_FRAME})
        return describe(
            Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0),
            settings.watch[0].model_copy(update={"acquisition": acquisition}),
            Processing(**{"eer_early_split": 1} | processing),
            reference_directory=None,
        )

    return make


def archived(movie: Movie, directory: Path) -> Path:
    """Do the archive job."""
    path = archive_movie(movie, read_source(movie), archive=Archive(), directory=directory).path
    assert path is not None
    return path


def done(store: Store, movie: Movie, settings: Settings) -> Movie:
    """Add a movie and do its archive job; the correct job only in the books."""
    added = store.add_movie(replace(movie, koma={"mode": "off"}))
    assert added is not None
    frames, directory = read_source(added), settings.archive_directory
    result = archive_movie(added, frames, archive=Archive(), directory=directory)
    for _ in JobKind:
        job = store.claim("w")
        assert job is not None
        store.finish(store.begin(job), result.summary, 1.0)
    return added


def cleaner(settings: Settings) -> Cleaner:
    """A day later."""
    later = timedelta(hours=30)

    def moment() -> Moment:
        now = Moment.now()
        return replace(now, boottime_s=now.boottime_s + later.total_seconds())

    return Cleaner(settings, clock=lambda: datetime.now(UTC) + later, moment=moment)


def with_cleanup(settings: Settings) -> Settings:
    """Movies go a day after they were archived."""
    return settings.model_copy(update={"cleanup": Cleanup(delete_movies_after_h=24.0)})


def flip(path: Path, offset: int) -> None:
    """Turn one bit, and keep size and time."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_frames_of_the_dose_that_is_wanted(make_eer: MakeEer) -> None:
    """Described, a movie has frames of 1 e/Å² each, which are the counts it was written from; nothing is told twice."""
    movie = make_eer(seed=3)
    assert movie.header.shape == (6, 160, 192)
    assert movie.acquisition.dose_per_frame == pytest.approx(1.0)
    frames = read_source(movie)
    np.testing.assert_array_equal(frames, np.minimum(counts(3), RAW_PER_FRAME))
    finer = make_eer(seed=3, eer_dose_per_frame=1.7, eer_upsampling=2)
    assert finer.header.shape == (4, 320, 384)
    assert finer.acquisition.pixel_size_angstrom == 0.75
    assert finer.acquisition.frame_doses == pytest.approx((1.7, 1.7, 1.7, 0.9))
    assert read_source(finer).sum() == frames.sum()
    split = make_eer(seed=3, eer_early_split=2)
    assert split.acquisition.frame_doses == pytest.approx((*[0.5] * 8, 1.0, 1.0))
    pairs = read_source(split)[:8].reshape(4, 2, 160, 192).sum(axis=1)
    np.testing.assert_array_equal(pairs, frames[:4])
    with pytest.raises(ParameterError, match="181 raw frames, and the movie has 180"):
        make_eer(eer_grouping=181)


def test_a_dose_that_comes_later(make_eer: MakeEer) -> None:
    """A movie keeps the frames that it was found with; a dose that becomes known is shared out to them."""
    found = make_eer(eer_upsampling=2)
    unknown = replace(
        found.acquisition,
        dose_per_frame=None,
        sources={name: it for name, it in found.acquisition.sources.items() if name != "dose_per_frame"},
    )

    def folder(**dose: float) -> WatchFolder:
        known = {"pixel_size_angstrom": 1.5, "voltage_kv": 300}
        return WatchFolder.model_validate({"directory": found.path.parent, "acquisition": known | dose})

    again = reconsider(replace(found, acquisition=unknown), folder(total_dose=12))
    assert (again.dose_per_frame, again.pixel_size_angstrom) == (pytest.approx(2.0), pytest.approx(0.75))
    # Nothing new is nothing at all, not another rounding.
    assert reconsider(found, folder(dose_per_frame=1 / RAW_PER_FRAME)) == found.acquisition


def test_the_archive_is_the_file(make_eer: MakeEer, tmp_path: Path) -> None:
    """The copy has the file's bytes, its line both checksums, and its frames are read as the movie's own."""
    movie = make_eer(seed=1)
    path = archived(movie, tmp_path / "archive")
    assert path == tmp_path / "archive" / "a.eer"
    assert path.read_bytes() == movie.path.read_bytes()
    entry = Manifest(path.parent)
    entry.refresh()
    line = entry.lines["a.eer"].entry
    assert line.source_sha256 == hashlib.sha256(movie.path.read_bytes()).hexdigest()
    assert (line.archive_bytes, line.archive_xxh3) == (movie.size_bytes, line.source_xxh3)
    assert find_archive(movie, path.parent) == path
    np.testing.assert_array_equal(read_archive(path, movie.header.eer), read_source(movie))
    movie.path.unlink()
    assert find_verified_archive(movie, path.parent) == path
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ArchiveError, match="not what it was when it was made"):
        find_verified_archive(movie, path.parent)
    archive = Archive(enabled=False)
    frames = read_archive(path, movie.header.eer)
    assert archive_movie(movie, frames, archive=archive, directory=tmp_path / "none").path is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_that_is_not_the_movie(
    make_eer: MakeEer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    """A bit that turns on its way is found by reading back, and no archive appears; whoever copies."""
    movie, directory = make_eer(), tmp_path / "archive"
    if not in_kernel:

        def refuse(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    assert archived(movie, tmp_path / "good").read_bytes() == movie.path.read_bytes()
    copy = copies._copy

    def bad_copy(source: Path, target: Path) -> None:
        copy(source, target)
        flip(target, movie.size_bytes // 2)

    monkeypatch.setattr(copies, "_copy", bad_copy)
    with pytest.raises(ArchiveError, match="does not read back"):
        archived(movie, directory)
    assert list(directory.iterdir()) == []


def test_another_movie_s_copy_is_kept(make_eer: MakeEer, tmp_path: Path) -> None:
    """Neither a copy of another movie nor a good copy of one that has rotted is written over; a bad copy is."""
    first = make_eer(seed=1)
    path = archived(first, tmp_path)
    good = path.read_bytes()
    other = make_eer(seed=2)
    assert find_archive(other, tmp_path) is None
    with pytest.raises(OutputError, match="archive of another movie"):
        archived(other, tmp_path)
    (tmp_path / "archives.jsonl").rename(tmp_path / "lost")
    with pytest.raises(OutputError, match="archive of another movie"):
        archived(other, tmp_path)
    (tmp_path / "lost").rename(tmp_path / "archives.jsonl")
    rotten = make_eer(seed=1)
    flip(path, 100)
    archived(rotten, tmp_path)
    assert path.read_bytes() == good


def test_verify(make_eer: MakeEer, tmp_path: Path) -> None:
    """Copies are verified as archives are: sound, damaged, missing, cut off, or not in the manifest."""
    for number, stem in enumerate("abc"):
        archived(make_eer(stem, seed=number), tmp_path)
    assert verify(tmp_path, jobs=1).is_sound
    flip(tmp_path / "a.eer", 5000)
    (tmp_path / "b.eer").unlink()
    (tmp_path / "d.eer").write_bytes((tmp_path / "c.eer").read_bytes())
    (tmp_path / "e.eer").write_bytes((tmp_path / "c.eer").read_bytes()[:-5000])
    found = {each.archive: each.trouble for each in verify(tmp_path, jobs=1).findings}
    assert found == {
        "a.eer": Trouble.DAMAGED,
        "b.eer": Trouble.MISSING,
        "d.eer": Trouble.UNLISTED,
        "e.eer": Trouble.DAMAGED,
    }


def test_clean_up_and_do_again(make_eer: MakeEer, settings: Settings, store: Store) -> None:
    """The movie goes when its copy is the same, byte for byte; then both jobs can be done from the copy."""
    settings = with_cleanup(settings)
    movie = done(store, make_eer(seed=4), settings)
    frames = read_source(movie)
    with capture_logs():
        assert cleaner(settings).clean() == 1
    assert not movie.path.exists()
    kept = find_verified_archive(movie, settings.archive_directory)
    assert kept is not None
    again = read_archive(kept, movie.header.eer)
    np.testing.assert_array_equal(again, frames)
    result = archive_movie(movie, again, archive=Archive(), directory=kept.parent, kept=kept)
    assert (result.path, len(result.stack_sum.frame_means)) == (kept, 6)


@pytest.mark.parametrize("which", ["movie", "archive"])
def test_one_bit_keeps_the_movie(make_eer: MakeEer, settings: Settings, store: Store, which: str) -> None:
    """A bit that differs in either file keeps the movie, and the reason is told."""
    settings = with_cleanup(settings)
    movie = done(store, make_eer(), settings)
    archive = settings.archive_directory / "a.eer"
    flip({"movie": movie.path, "archive": archive}[which], movie.size_bytes // 2)
    with capture_logs() as log:
        assert cleaner(settings).clean() == 0
    assert movie.path.exists()
    assert "checksum differs" in str([line.get("reason") for line in log])


@pytest.mark.parametrize("corrected", [True, False])
def test_rebuild(make_eer: MakeEer, settings: Settings, corrected: bool) -> None:
    """A database made anew knows an EER movie as it was bound, by its results or by its archive alone."""
    movie = make_eer(eer_grouping=50)
    frames, directory = read_source(movie), settings.archive_directory
    result = archive_movie(movie, frames, archive=Archive(), directory=directory)
    if corrected:
        outliers = result.stack_sum.outliers
        micrograph = make_micrographs(movie, frames, outliers=outliers, output=settings.output)
        write_results(micrograph, movie, outliers=outliers, archive_path=result.path, output=settings.output)
    movie.path.unlink()
    assert archived_metadata(directory)["a.eer"]["header"]["eer"]["ends"] == [50, 100, 150, 180]
    report = rebuild(settings)
    assert (report.n_corrected, report.n_archived, report.unknown) == (int(corrected), int(not corrected), [])
    assert report.n_sums_made == 1
    with Store(settings.state_directory).open(create=False) as store:
        known = store.movie(1)
        assert (known.header, known.acquisition) == (movie.header, movie.acquisition)
        state = JobState.DONE if corrected else JobState.QUEUED
        assert store.jobs_of(1)[JobKind.CORRECT].state is state
    if corrected:
        details = json.loads((settings.output.directory / "a.json").read_text())
        assert details["header"]["eer"] == {"ends": [50, 100, 150, 180], "upsampling": 1}
        assert details["archive"] == str(directory / "a.eer")
        np.testing.assert_array_equal(read_frames(directory / "a.eer", movie.header.eer), frames)
