"""`komad process` on small simulated movies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mrcz
import numpy as np
import pytest

from komad.cli.oneoff import process_movie
from komad.formats.images import read_image
from komad.formats.movies import read_frames
from komad.formats.star import read_star
from komad.model import Movie
from komad.simulate import MovieSpec, read_truth
from komad.simulate.eer import RAW_FRAMES_PER_FRAME
from komad.simulate.microscope import run_session
from tests.cli.conftest import Komad
from tests.output.test_schema import hold

OPTICS = ("--pixel-size", "1.5", "--voltage", "300")


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two movies of 256 x 256 x 8, gain and truth."""
    directory = tmp_path_factory.mktemp("camera")
    spec = MovieSpec(
        n_frames=8,
        ny=256,
        nx=256,
        pixel_size_angstrom=1.5,
        dose_per_frame=3.0,
        local_motion=0.0,
        particles_per_um2=4000,
        n_orientations=2,
    )
    run_session(directory, spec, 2, 0.0)
    return directory


def test_same_files_as_the_daemon(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """All files of each movie, a lossless archive, the indices; motion near the truth."""
    out = tmp_path / "out"
    movies = sorted(camera.glob("movie_*.mrc"))
    outcome = komad(
        "process",
        *movies,
        "-o",
        out,
        "--gain",
        camera / "gain.mrc",
        *OPTICS,
        "--dose-per-frame",
        "3",
        "--threads",
        "2",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("motion") == 2
    for movie in movies:
        names = {path.name.removeprefix(movie.stem) for path in out.glob(f"{movie.stem}*")}
        assert names == {
            ".mrc", "_noDW.mrc", "_EVN.mrc", "_ODD.mrc", "_PS.mrc", ".png", ".json", ".star", ".mrcz",
        }  # fmt: skip
        np.testing.assert_array_equal(read_frames(out / f"{movie.stem}.mrcz"), read_frames(movie))
    details = json.loads((out / "movie_0001.json").read_text())
    assert details["largest_count"] == read_frames(movies[0]).max()
    measured = np.array(details["motion"]["shifts_yx_px"])
    true = read_truth(camera / "movie_0001_truth.json").global_shifts_px()
    difference = (measured - measured.mean(axis=0)) - (true - true.mean(axis=0))
    assert np.sqrt(np.mean(difference**2)) < 0.5
    assert {"read", "archive", "motion", "correct"} <= set(details["timings_s"])
    index = read_star(out / "corrected_micrographs.star")["micrographs"].columns
    assert list(index["rlnMicrographName"]) == ["movie_0001.mrc", "movie_0002.mrc"]
    assert len((out / "processed.jsonl").read_text().splitlines()) == 2
    assert details["archive"] == str(out / "movie_0001.mrcz")
    for line in (out / "processed.jsonl").read_text().splitlines():
        hold("processed", json.loads(line))
    hold("movie", details)
    hold("session", json.loads((out / "session.json").read_text()))


def test_koma_over_the_movies_of_the_command(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """With --koma each movie is cleared of what the movies before it share with it; without, of nothing."""
    movies = sorted(camera.glob("movie_*.mrc"))
    found = {}
    for option in ("--koma", "--no-koma"):
        out = tmp_path / option.strip("-")
        outcome = komad("process", *movies, "-o", out, *OPTICS, "--dose-per-frame", "3", option)
        assert outcome.code == 0, outcome.err
        detectors = [json.loads((out / f"{movie.stem}.json").read_text())["detector"] for movie in movies]
        found[option] = [(each["koma_mode"], each["n_stacks"]) for each in detectors]
    assert found == {"--koma": [("trailing", 0), ("trailing", 1)], "--no-koma": [("off", 0)] * 2}
    first, second = (
        [read_image(tmp_path / name / f"{movie.stem}.mrc") for name in ("koma", "no-koma")]
        for movie in movies
    )
    np.testing.assert_array_equal(*first)
    assert not np.array_equal(*second)


def test_references_are_named_by_their_whole_path(
    komad: Komad, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a program reads the STAR later, it finds the gain."""
    monkeypatch.chdir(camera)
    komad("process", "movie_0001.mrc", "-o", tmp_path, "--gain", "gain.mrc", *OPTICS, "--no-archive")
    details = json.loads((tmp_path / "movie_0001.json").read_text())
    assert details["references"]["gain"]["path"] == str(camera / "gain.mrc")
    assert f"{camera / 'gain.mrc'}\n" in (tmp_path / "movie_0001.star").read_text()


def test_without_dose_it_goes_on_unweighted_and_says_so(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """No `_noDW` then; --no-archive and --no-even-odd leave their files out; frames left out are marked."""
    outcome = komad(
        "process", camera / "movie_0001.mrc", "-o", tmp_path, *OPTICS,
        "--no-archive", "--no-even-odd", "--throw", "1", "--bin", "2", "--float16",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "add --dose-per-frame" in outcome.out
    assert "early" not in outcome.out
    assert {path.name for path in tmp_path.glob("movie_0001*.mrc*")} == {
        "movie_0001.mrc",
        "movie_0001_PS.mrc",
    }
    assert read_image(tmp_path / "movie_0001.mrc").shape == (128, 128)
    assert json.loads((tmp_path / "movie_0001.json").read_text())["motion"]["shifts_yx_px"][0] is None


def test_unknown_parameters_name_the_options(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """No voltage anywhere: the option to add is in the message, and why a sidecar was of no help."""
    outcome = komad("process", camera / "movie_0001.mrc", "-o", tmp_path / "out", "--pixel-size", "1.5")
    assert outcome.code == 1
    assert "voltage unknown, neither its header nor a sidecar has it; add --voltage\n" in outcome.out
    session = tmp_path / "supervisor"
    outcome = komad(
        *("process", camera / "movie_0001.mrc", "-o", tmp_path / "out", "--pixel-size", "1.5"),
        *("--epu-session", session),
    )
    assert (
        f"add --voltage (movie_0001.xml in {session} was not used: No such file or directory)" in outcome.out
    )


def test_a_bad_movie_does_not_stop_the_others(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Its error is printed, the others are done, the exit code is 1."""
    bad = tmp_path / "bad.mrc"
    bad.write_bytes((camera / "movie_0001.mrc").read_bytes()[:5000])
    out = tmp_path / "out"
    outcome = komad(
        "process",
        bad,
        tmp_path / "gone.mrc",
        camera / "movie_0002.mrc",
        "-o",
        out,
        *OPTICS,
        "--dose-per-frame",
        "3",
    )
    assert outcome.code == 1
    assert "1 of 3 movies done" in outcome.out
    assert (out / "movie_0002.star").exists()
    assert not (out / "bad.star").exists()


def test_a_movie_that_is_too_large_does_not_stop_the_others(
    komad: Komad, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory does not suffice the movie is named, and the next one is processed."""

    def too_large(movie: Movie, *args: Any, **named: Any) -> dict[str, Any]:
        if movie.path == first:
            raise MemoryError("Unable to allocate 256. MiB")
        return process_movie(movie, *args, **named)

    first, second = sorted(camera.glob("movie_*.mrc"))[:2]
    monkeypatch.setattr("komad.cli.oneoff.process_movie", too_large)
    outcome = komad("process", first, second, "-o", tmp_path, *OPTICS, "--no-dose-weighting")
    assert outcome.code == 1
    assert f"{first.name}  the memory of this computer is too small: Unable to allocate" in outcome.out
    assert "1 of 2 movies done" in outcome.out


def test_a_movie_without_permission_does_not_stop_the_others(
    komad: Komad, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are not looked at beforehand; a superuser may read everything, so permission is denied by hand."""
    closed, may = tmp_path / "closed.mrc", os.access
    closed.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    outcome = komad("process", closed, camera / "movie_0002.mrc", "-o", tmp_path / "out", *OPTICS)
    assert outcome.code == 1
    assert "1 of 2 movies done" in outcome.out


def test_a_missing_gain_stops_everything(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Before any movie is touched, with exit code 3; never a run without it."""
    outcome = komad(
        "process", camera / "movie_0001.mrc", "-o", tmp_path / "out", "--gain", tmp_path / "gone.mrc", *OPTICS
    )
    assert outcome.code == 3
    assert "gone.mrc" in outcome.err
    assert not (tmp_path / "out" / "movie_0001.star").exists()


def test_two_movies_of_one_name_do_not_collide(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """The second gets a number; doing the first again replaces its files."""
    other = tmp_path / "other" / "movie_0001.mrc"
    other.parent.mkdir()
    other.write_bytes((camera / "movie_0002.mrc").read_bytes())
    out = tmp_path / "out"
    first = camera / "movie_0001.mrc"
    komad("process", first, other, "-o", out, *OPTICS, "--no-archive")
    komad("process", first, "-o", out, *OPTICS, "--no-archive")
    assert {path.name for path in out.glob("*.star")} == {
        "movie_0001.star", "movie_0001-2.star", "corrected_micrographs.star",
    }  # fmt: skip
    assert len((out / "processed.jsonl").read_text().splitlines()) == 3


def test_a_movie_beside_the_results_is_kept(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """A file that nobody named but that has the name of a result is refused before any work, and not touched."""
    content = (camera / "movie_0001.mrc").read_bytes()
    named, beside = tmp_path / "in" / "x.mrc", tmp_path / "out" / "x.mrc"
    for path in (named, beside):
        path.parent.mkdir()
        path.write_bytes(content)
    outcome = komad("process", named, "-o", beside.parent, *OPTICS)
    assert outcome.code == 1
    assert "x.mrc exists and was not written by komad; it is kept" in outcome.out
    assert beside.read_bytes() == content
    assert not (beside.parent / "x.mrcz").exists()


@pytest.mark.parametrize(("name", "other"), [("x.mrc", "y.mrc"), ("x.mrcz", "y.mrcz"), ("x.tif", "x.mrc")])
def test_results_never_replace_a_movie(
    komad: Komad, camera: Path, tmp_path: Path, name: str, other: str
) -> None:
    """Results beside the movies: `x.mrc` would become its own sum. It is refused, nothing is lost."""
    content = (camera / "movie_0001.mrc").read_bytes()
    (tmp_path / name).write_bytes(content)
    (tmp_path / other).write_bytes(content)
    outcome = komad("process", tmp_path / name, tmp_path / other, "-o", tmp_path, *OPTICS)
    assert outcome.code == 1
    assert "would replace a file that you gave; choose another folder with --output" in outcome.out
    assert (tmp_path / name).read_bytes() == content
    assert (tmp_path / other).read_bytes() == content


def test_a_value_out_of_range_is_a_usage_error(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """With the name of the value."""
    outcome = komad(
        "process", camera / "movie_0001.mrc", "-o", tmp_path, "--pixel-size", "-3", "--voltage", "300"
    )
    assert outcome.code == 2
    assert "pixel_size_angstrom" in outcome.err


def test_simulate_writes_movies_that_process_takes(komad: Komad, tmp_path: Path) -> None:
    """The command that it prints is right."""
    outcome = komad(
        "simulate", "-o", tmp_path / "sim", "--size", "128", "--frames", "4", "--format", "tiff-lzw"
    )
    assert outcome.code == 0
    command = outcome.out.splitlines()[-1].removeprefix("process them: komad ").split()
    place = command.index(f"{tmp_path}/sim/movie_*.tif")
    command[place] = str(tmp_path / "sim" / "movie_0001.tif")
    command[command.index("corrected")] = str(tmp_path / "out")
    assert komad(*command).code == 0
    assert (tmp_path / "out" / "movie_0001.star").exists()


def test_an_eer_movie(komad: Komad, tmp_path: Path) -> None:
    """From electrons to micrograph: frames of the dose that is wanted, their motion, and a copy as archive."""
    spec = MovieSpec(
        n_frames=8,
        ny=256,
        nx=256,
        pixel_size_angstrom=1.5,
        dose_per_frame=3.0,
        local_motion=0.0,
        particles_per_um2=4000,
        n_orientations=2,
        max_count=RAW_FRAMES_PER_FRAME,
    )
    run_session(tmp_path, spec, 1, 0.0, file_format="eer")
    movie, out = tmp_path / "movie_0001.eer", tmp_path / "out"
    gain = ("--gain", tmp_path / "gain.mrc", "--gain-kind", "factor")
    optics = ("--voltage", "300", "--total-dose", "24")
    outcome = komad("process", movie, "-o", out, *gain, *optics, "--eer-grouping", "25")
    assert outcome.code == 0, outcome.err
    assert (out / "movie_0001.eer").read_bytes() == movie.read_bytes()
    details = json.loads((out / "movie_0001.json").read_text())
    assert details["header"]["eer"]["ends"] == list(range(25, 201, 25))
    assert (details["n_frames"], details["dose_per_frame"], details["dose_weighted"]) == (8, 3.0, True)
    measured = np.array(details["motion"]["shifts_yx_px"])
    true = read_truth(tmp_path / "movie_0001_truth.json").global_shifts_px()
    difference = (measured - measured.mean(axis=0)) - (true - true.mean(axis=0))
    assert np.sqrt(np.mean(difference**2)) < 0.5

    assert komad("process", movie, "-o", out, *optics, "--eer-grouping", "900").code == 1
    # Twice as fine and binned again it is the same micrograph, but for its finest details.
    finer = ("--eer-grouping", "25", "--eer-upsampling", "2", "--bin", "2", "--no-archive")
    outcome = komad("process", movie, "-o", out / "8k", *gain, *optics, *finer)
    assert outcome.code == 0, outcome.err
    assert json.loads((out / "8k" / "movie_0001.json").read_text())["movie_pixel_size_angstrom"] == 0.75
    coarse = [
        read_image(folder / "movie_0001_noDW.mrc").reshape(64, 4, 64, 4).mean(axis=(1, 3))[8:-8, 8:-8]
        for folder in (out, out / "8k")
    ]
    assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.9


def test_a_foreign_archive_is_kept(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """An MRCZ movie of the name that the archive would have is not written over: neither as an input nor beside it."""
    (tmp_path / "out").mkdir()
    frames = read_frames(camera / "movie_0001.mrc").astype(np.int16)
    theirs = tmp_path / "out/movie_0001.mrcz"
    mrcz.writeMRC(frames, str(theirs), compressor="zstd", pixelsize=1.5)
    before = theirs.read_bytes()
    for movie in (theirs, camera / "movie_0001.mrc"):
        outcome = komad("process", movie, "-o", tmp_path / "out", *OPTICS)
        assert outcome.code != 0
        assert "movie_0001.mrcz" in outcome.out + outcome.err
        assert theirs.read_bytes() == before
