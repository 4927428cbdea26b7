"""What other programs import: movies as arrays, and finished movies, each once, whatever becomes of the index."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import komad
from komad import api
from komad.formats.images import write_mrc
from komad.formats.mrcz import write_mrcz
from komad.output.micrograph import SUFFIXES, summarise
from komad.output.session import SessionIndex
from tests.output.conftest import MOVIE, RESULT, Write, write

__all__ = ["write"]

SUMMARY = summarise(RESULT, MOVIE, files={}, archive_path=Path("/archives/a.mrcz"))
KINDS = ("micrograph", "micrograph_no_dw", "even", "odd", "details", "motion")


def line(number: int, *, stem: str | None = None, **changes: Any) -> dict[str, Any]:
    """What a worker stored, with the numbers of the database."""
    stem = stem or f"movie_{number}"
    return {
        **SUMMARY,
        "stem": stem,
        "files": {kind: f"{stem}{SUFFIXES[kind]}" for kind in KINDS},
        "written_at": f"2026-03-04T12:{number // 60:02}:{number % 60:02}.000+00:00",
        "output_bytes": 1,
        "movie_id": number,
        "sequence": number,
        **changes,
    }


def publish(folder: Path, *numbers: int) -> None:
    """Finish movies as the daemon does."""
    SessionIndex(folder).publish([line(number) for number in numbers])


Polls = Callable[..., list[int]]


@pytest.fixture
def polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Polls:
    """Follow the session; each time the reader waits for more, the next of the steps is taken. Gives the sequences."""

    def follow(*steps: Callable[[], Any], **options: Any) -> list[int]:
        rest = iter((*steps, lambda: SessionIndex(tmp_path).end(is_complete=True)))
        monkeypatch.setattr(api.time, "sleep", lambda _: next(rest)())
        found = [movie.sequence for movie in komad.session(tmp_path, follow=True, **options)]
        assert next(rest, None) is None
        return found

    return follow


def test_importing_komad_loads_nothing() -> None:
    """Those who want the version, and `komad status`, do not wait for the API."""
    code = "import sys, komad; assert not {'numpy', 'pydantic', 'komad.api'} & {*sys.modules}; print(komad.session)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("<function session")


def test_names_of_the_api() -> None:
    """All that is announced is there, and documented; another name is an error as of any module."""
    assert {*komad.__all__} == {*api.__all__} <= {*dir(komad)}
    for name in komad.__all__:
        assert getattr(komad, name).__doc__
    with pytest.raises(AttributeError, match="open_film"):
        _ = getattr(komad, "open_film")  # noqa: B009 - a name that type checkers refuse


def test_finished_movies_with_their_files(write: Write, tmp_path: Path) -> None:
    """Typed values, and absolute paths of files that are there; None for those that were not made."""
    SessionIndex(tmp_path).publish(
        [write(result={"sum_even": None, "sum_odd": None}) | {"movie_id": 7, "sequence": 3}]
    )
    (movie,) = komad.session(str(tmp_path))
    assert (movie.sequence, movie.stem, movie.n_frames) == (3, "FoilHole_1", 5)
    assert movie.motion_angstrom.total == pytest.approx(0.83 * movie.motion_px.total)
    assert movie.written_at.tzinfo is not None
    assert movie.micrograph == tmp_path / "FoilHole_1.mrc"
    assert movie.micrograph_no_dw == tmp_path / "FoilHole_1_noDW.mrc"
    assert movie.archive == tmp_path / "FoilHole_1.mrcz"
    made = (
        movie.micrograph,
        movie.micrograph_no_dw,
        movie.power_spectrum,
        movie.thumbnail,
        movie.motion_star,
    )
    assert all(path is not None and path.is_file() for path in made)
    assert movie.even is movie.odd is movie.file("aligned_stack") is None


def test_an_unweighted_micrograph_is_its_own_unweighted_sum(tmp_path: Path) -> None:
    """For CTF estimation there is always a sum that is not weighted."""
    SessionIndex(tmp_path).publish(
        [line(1, files={"micrograph": "a.mrc", "motion": "a.star", "details": "a.json"})]
    )
    (movie,) = komad.session(tmp_path)
    assert movie.micrograph_no_dw == tmp_path / "a.mrc"


def test_details_of_a_movie(write: Write, tmp_path: Path) -> None:
    """Everything that was measured, with what was bound to the movie."""
    SessionIndex(tmp_path).publish([write() | {"movie_id": 7, "sequence": 3}])
    (movie,) = komad.session(tmp_path)
    details = movie.details()
    assert details.header == MOVIE.header
    assert details.acquisition.voltage_kv == 300.0
    assert details.motion.shifts_yx_px[:2] == [None, (1.0, -2.0)]
    (tmp_path / "FoilHole_1.json").unlink()
    with pytest.raises(komad.OutputError, match=r"FoilHole_1\.json: No such file"):
        movie.details()


def test_going_on_after_a_restart(tmp_path: Path) -> None:
    """Movies up to the number that was saved are left out."""
    publish(tmp_path, 1, 2, 3)
    assert [movie.sequence for movie in komad.session(tmp_path, after=2)] == [3]


def test_a_movie_done_again(tmp_path: Path) -> None:
    """Comes again; with `latest` only the last time, in its place."""
    again = line(3, stem="movie_1")
    SessionIndex(tmp_path).publish([line(1), line(2), again])
    stems = [movie.stem for movie in komad.session(tmp_path)]
    assert stems == ["movie_1", "movie_2", "movie_1"]
    assert [(movie.stem, movie.sequence) for movie in komad.session(tmp_path, latest=True)] == [
        ("movie_2", 2),
        ("movie_1", 3),
    ]


def test_follows_from_before_the_folder_is_there(polls: Polls, tmp_path: Path) -> None:
    """A folder that is made later, movies one by one and many at a time, to the end of the session."""
    folder = tmp_path

    def remove() -> None:
        folder.rmdir()

    steps = [remove, lambda: None, lambda: publish(folder, 1), lambda: publish(folder, 2, 3), lambda: None]
    assert polls(*steps) == [1, 2, 3]


def test_a_line_that_is_not_whole_is_waited_for(polls: Polls, tmp_path: Path) -> None:
    """Wherever it ends."""
    path = tmp_path / "processed.jsonl"
    text = b"".join(json.dumps(line(number)).encode() + b"\n" for number in (1, 2))
    first = text.index(b"\n") + 1
    cuts = [first // 2, first - 1, first, first + 700, len(text)]
    assert polls(*(lambda cut=cut: path.write_bytes(text[:cut]) for cut in cuts)) == [1, 2]


def test_a_file_that_is_put_back_or_made_anew(polls: Polls, tmp_path: Path) -> None:
    """Shorter, longer, of the same length, or another file: nothing comes twice, all that is new comes."""
    path = tmp_path / "processed.jsonl"

    def now(*numbers: int, new: bool = False) -> Callable[[], Any]:
        def write() -> None:
            if new:
                path.unlink()
            path.write_text("".join(json.dumps(line(number)) + "\n" for number in numbers))

        return write

    steps = [
        now(1, 2),
        now(1),
        now(1, 2, 3),
        now(1, 2, 4, new=True),
        path.unlink,
        now(5),
        now(1, 2, 3, 4, 5, 6),
    ]
    assert polls(*steps) == [1, 2, 3, 4, 5, 6]


def test_the_end_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete ends it, stopped does not; without that marker one may follow on into the next life of komad."""
    publish(tmp_path, 1)
    SessionIndex(tmp_path).end(is_complete=False)
    steps: Iterator[Callable[[], Any]] = iter(
        [
            lambda: SessionIndex(tmp_path).end(is_complete=True),
            lambda: publish(tmp_path, 2),
        ]
    )
    monkeypatch.setattr(api.time, "sleep", lambda _: next(steps)())
    assert [movie.sequence for movie in komad.session(tmp_path, follow=True)] == [1]
    endless = komad.session(tmp_path, follow=True, until_complete=False)
    assert [movie.sequence for movie in islice(endless, 2)] == [1, 2]


def test_what_komad_did_not_write_is_an_error(tmp_path: Path) -> None:
    """With the line and the key; what a newer komad writes, too; and a folder that is none of komad's."""
    with pytest.raises(komad.OutputError, match="follow=True waits"):
        komad.session(tmp_path)
    path = tmp_path / "processed.jsonl"
    good = json.dumps(line(1)) + "\n"
    for bad, message in (
        ('{"hello": 1}', "line 2 was not written by komad"),
        ("hello", "line 2 was not written by komad"),
        (json.dumps(line(2, n_frames="many")), "line 2 was not written by komad .n_frames: "),
        (
            json.dumps(line(2, schema_version=2)),
            "line 2 has schema_version 2, this komad knows 1: install a newer",
        ),
    ):
        path.write_text(good + bad + "\n")
        movies = komad.session(tmp_path)
        assert next(movies).sequence == 1
        with pytest.raises(komad.OutputError, match=message):
            next(movies)


def test_keys_of_later_versions_are_kept(tmp_path: Path) -> None:
    """New keys may appear at any time, and can be read by their names."""
    SessionIndex(tmp_path).publish([line(1, ice_angstrom=320.0)])
    (movie,) = komad.session(tmp_path)
    assert (movie.model_extra or {})["ice_angstrom"] == 320.0


FRAMES = np.random.default_rng(3).poisson(2, (5, 24, 40)).astype(np.uint8)


def tiff(path: Path) -> None:
    """A movie as a camera writes it: the first row is the top."""
    tifffile.imwrite(path, FRAMES[:, ::-1], photometric="minisblack")


def mrcz(path: Path) -> None:
    """An archive."""
    optics = {"pixel_size_angstrom": 0.83, "voltage_kv": 300.0, "cs_mm": 2.7}
    write_mrcz(path, FRAMES, **optics, metadata={"stem": "a"})


@pytest.mark.parametrize("make", [tiff, mrcz])
def test_a_movie_is_a_sequence_of_frames(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """By index, from the end, as a slice, one after the other, also with a misleading name."""
    path = tmp_path / "movie.dat"
    make(path)
    with komad.open_movie(str(path)) as movie:
        assert (len(movie), movie.shape, movie.header.dtype) == (5, (5, 24, 40), "uint8")
        np.testing.assert_array_equal(movie[1], FRAMES[1])
        np.testing.assert_array_equal(movie[-1], FRAMES[-1])
        np.testing.assert_array_equal(movie[1:9:2], FRAMES[1::2])
        np.testing.assert_array_equal(np.stack(list(movie)), FRAMES)
        assert movie[3:3].shape == (0, 24, 40)
        for wrong in (5, -6):
            with pytest.raises(IndexError):
                movie[wrong]
        assert movie.path == path
        assert movie.metadata.get("stem") == ("a" if make is mrcz else None)


def test_a_damaged_archive_is_closed(tmp_path: Path) -> None:
    """Metadata that cannot be read are an error, and no open file is left behind."""
    mrcz(tmp_path / "a.mrcz")
    raw = bytearray((tmp_path / "a.mrcz").read_bytes())
    raw[1024:1026] = b"[["
    (tmp_path / "a.mrcz").write_bytes(raw)
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(komad.MovieError, match="metadata"):
        komad.open_movie(tmp_path / "a.mrcz")
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_an_archive_as_one_array(tmp_path: Path) -> None:
    """Frames and metadata; another format says how to open it."""
    mrcz(tmp_path / "a.mrcz")
    frames, metadata = komad.read_mrcz(tmp_path / "a.mrcz")
    np.testing.assert_array_equal(frames, FRAMES)
    assert metadata["stem"] == "a"
    write_mrc(tmp_path / "a.mrc", FRAMES[0].astype(np.float32), pixel_size_angstrom=1.0, float16=False)
    with pytest.raises(komad.MovieError, match=r"is no MRCZ but mrc; open it with komad\.open_movie"):
        komad.read_mrcz(tmp_path / "a.mrc")
