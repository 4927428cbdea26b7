"""The options of `komad process`: what they set, what is refused, which movies are taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import typer

from komad.cli import process
from komad.cli.main import app
from komad.cli.oneoff import OneOff
from komad.config import Settings, WatchFolder
from komad.formats.images import read_image
from komad.formats.star import read_star
from komad.simulate import MovieSpec
from komad.simulate.microscope import run_session
from tests.cli.conftest import Komad

Settled = Callable[..., OneOff]
OPTICS = ("--pixel-size", "1.5", "--voltage", "300")


@pytest.fixture
def settled(komad: Komad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settled:
    """The settings that `komad process a.mrc -o out` and more options come to, without processing anything."""
    found: list[OneOff] = []
    monkeypatch.setattr(process, "_process_all", lambda settings, skip_done: found.append(settings) or 0)
    monkeypatch.chdir(tmp_path)

    def settle(*arguments: str | Path, movies: tuple[str | Path, ...] = ("a.mrc",)) -> OneOff:
        outcome = komad("process", *movies, "-o", "out", *arguments)
        assert outcome.code == 0, outcome.err
        return found[-1]

    return settle


def test_nothing_given_is_the_configuration_by_itself(settled: Settled, tmp_path: Path) -> None:
    """Without options every setting has its default."""
    settings = settled()
    assert settings.processing == Settings().processing
    assert settings.output == Settings().output.model_copy(update={"directory": tmp_path / "out"})
    assert settings.archive == Settings().archive
    assert settings.folder == WatchFolder(directory=Path())
    assert settings.tilt is None


@pytest.mark.parametrize(
    ("arguments", "place", "value"),
    [
        ("--throw 2", "processing.skip_first", 2),
        ("--trunc 3", "processing.skip_last", 3),
        ("--no-local-motion", "processing.local_motion", False),
        ("--patches 5 4", "processing.n_patches", (5, 4)),
        ("--patch-overlap 20", "processing.patch_overlap_percent", 20),
        ("--weight phase-only", "processing.alignment_weight", "phase_only"),
        ("--weight b-factor --b-factors 300 100", "processing.b_factors_angstrom2", (300, 100)),
        ("--group 3 5", "processing.group_frames", (3, 5)),
        ("--reference-frame middle", "processing.reference_frame", "middle"),
        ("--reference-frame 12", "processing.reference_frame", 12),
        ("--iterations 7", "processing.max_iterations", 7),
        ("--tolerance 0.5", "processing.tolerance_px", 0.5),
        ("--max-shift 80", "processing.max_shift_angstrom", 80),
        ("--alignment-pixel-size 3", "processing.alignment_pixel_size_angstrom", 3),
        ("--bin 1.5", "processing.bin_factor", 1.5),
        ("--magnification 1.003 0.998 34", "processing.magnification", (1.003, 0.998, 34)),
        ("--no-dose-weighting", "processing.dose_weighting", False),
        ("--in-frame-motion", "processing.in_frame_motion", True),
        ("--sum-range 3 25", "processing.sum_range", (3, 25)),
        ("--no-even-odd", "output.even_odd", False),
        ("--even-odd-weighted", "output.even_odd_weighted", True),
        ("--aligned-stack", "output.aligned_stack", True),
        ("--aligned-stack --aligned-stack-group 4", "output.aligned_stack_group", 4),
        ("--power-spectrum-groups", "output.power_spectrum_groups", True),
        ("--float16", "output.float16", True),
        ("--archive-directory /a", "output.archive_directory", Path("/a")),
        ("--no-archive", "archive.enabled", False),
        ("--pixel-size 0.83", "folder.acquisition.pixel_size_angstrom", 0.83),
        ("--voltage 200", "folder.acquisition.voltage_kv", 200),
        ("--cs 0.01", "folder.acquisition.cs_mm", 0.01),
        ("--amplitude-contrast 0.07", "folder.acquisition.amplitude_contrast", 0.07),
        ("--dose-per-frame 1.2", "folder.acquisition.dose_per_frame", 1.2),
        ("--total-dose 40", "folder.acquisition.total_dose", 40),
        ("--eer-grouping 30", "processing.eer_grouping", 30),
        ("--eer-dose-per-frame 0.5", "processing.eer_dose_per_frame", 0.5),
        ("--eer-early-split 1", "processing.eer_early_split", 1),
        ("--eer-upsampling 4", "processing.eer_upsampling", 4),
        ("--pre-exposure 2", "folder.acquisition.pre_exposure", 2),
        ("--optics-group hole-2", "folder.acquisition.optics_group", "hole-2"),
        ("--tilt -60 3", "tilt", (-60, 3)),
        ("--tilt-mdoc /series", "folder.tilt_series_mdoc", Path("/series")),
    ],
)
def test_an_option_sets_one_value(settled: Settled, arguments: str, place: str, value: Any) -> None:
    """Each option reaches the setting of its meaning."""
    found: Any = settled(*arguments.split())
    for name in place.split("."):
        found = getattr(found, name)
    assert found == value


def test_references_reach_the_settings(settled: Settled, tmp_path: Path) -> None:
    """With whole paths, and the turns."""
    for name in ("gain.mrc", "dark.mrc", "defects.txt"):
        (tmp_path / name).write_text("content")
    turned = ("--gain", "gain.mrc", "--rot-gain", "3", "--flip-gain", "2", "--gain-kind", "response")
    references = settled(*turned, "--dark", "dark.mrc", "--defects", "defects.txt").folder.references
    assert (references.gain, references.gain_rot, references.gain_flip) == (tmp_path / "gain.mrc", 3, 2)
    assert references.gain_kind == "response"
    assert (references.dark, references.defects) == (tmp_path / "dark.mrc", tmp_path / "defects.txt")


def test_a_file_of_doses_reaches_the_settings(settled: Settled, tmp_path: Path) -> None:
    """As a list."""
    (tmp_path / "doses.txt").write_text("0.5\n1.2\n")
    assert settled("--frame-doses", "doses.txt").folder.acquisition.frame_doses == (0.5, 1.2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--pattern *Raw.mrc", "choose from a folder"),
        ("--ignore bad*", "choose from a folder"),
        ("--tilt 0 3 --tilt-mdoc s.mdoc", "both tell the order of the tilts"),
        ("--tilt nan 3", "neither is above 180"),
        ("--tilt -60 inf", "neither is above 180"),
        ("--frame-doses d.txt --dose-per-frame 1", "leave --dose-per-frame and --total-dose out"),
        ("--total-dose 40 --dose-per-frame 1", "one value in two forms"),
        ("--eer-grouping 30 --eer-dose-per-frame 1", "give one of them"),
        ("--eer-grouping 30 --eer-early-split 4", "leave --eer-grouping out"),
        ("--flip-gain 1", "name it with --gain"),
        ("--no-local-motion --patches 5 5", "leave --no-local-motion out"),
        ("--no-local-motion --patch-overlap 20", "leave --no-local-motion out"),
        ("--b-factors 500 150", "the optimal weight has no B"),
        ("--weight optimal --b-factors 500 150", "the optimal weight has no B"),
        ("--no-dose-weighting --sum-range 3 25", "leave --no-dose-weighting out"),
        ("--no-dose-weighting --even-odd-weighted", "leave --no-dose-weighting out"),
        ("--no-dose-weighting --in-frame-motion", "leave --no-dose-weighting out"),
        ("--aligned-stack-group 4", "add --aligned-stack"),
        ("--no-archive --archive-directory a", "leave --no-archive out"),
        ("--sum-range 25 3", "--sum-range (sum_range): from 25 to 3 e/Å² is no range"),
        (
            "--magnification 105000 104000 3",
            "--magnification (magnification): 105000 and 104000 are not both",
        ),
        ("--patches 0 5", "--patches (n_patches)"),
        ("--throw 3 --reference-frame 1", "reference_frame 1 is left out"),
        ("--reference-frame last", "--reference-frame (reference_frame)"),
        ("--iterations 0", "--iterations (max_iterations)"),
        ("--frame-doses gone.txt", "the doses cannot be read from"),
    ],
)
def test_what_makes_no_sense_is_refused(komad: Komad, tmp_path: Path, arguments: str, sentence: str) -> None:
    """Before anything is done, with a sentence and exit code 2."""
    outcome = komad("process", tmp_path / "a.mrc", "-o", tmp_path / "out", *arguments.split())
    assert outcome.code == 2
    assert sentence in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


def test_movies_of_a_folder(settled: Settled, tmp_path: Path) -> None:
    """Those of the pattern in the order of names, without sub-folders, temporary files, references and others."""
    folder = tmp_path / "frames"
    (folder / "below").mkdir(parents=True)
    names = [
        "Stack_2Raw.mrc",
        "Stack_1-Raw.mrc",
        "Stack_1.mrc",
        "x_Raw.mrc",
        "a.tif",
        "a.png",
        "gain.mrc",
        "n.mrc.tmp",
    ]
    for name in (*names, "my_reference.mrc", "below/z.mrc"):
        (folder / name).write_text("content")
    chosen = settled("--gain", folder / "my_reference.mrc", movies=("frames", "other/b.mrc")).movies
    expected = ["Stack_1-Raw.mrc", "Stack_1.mrc", "Stack_2Raw.mrc", "a.tif", "x_Raw.mrc"]
    assert chosen == (*(Path("frames") / name for name in expected), Path("other/b.mrc"))
    chosen = settled("--pattern", "Stack_*Raw.mrc", movies=("frames",)).movies
    assert [path.name for path in chosen] == ["Stack_1-Raw.mrc", "Stack_2Raw.mrc"]
    chosen = settled("--ignore", "*Raw*", "--ignore", "*.tif", movies=("frames",)).movies
    assert [path.name for path in chosen] == ["Stack_1.mrc", "my_reference.mrc"]


def test_folders_that_cannot_be_meant(komad: Komad, tmp_path: Path) -> None:
    """One without a movie of the pattern, and one that is to hold the results too."""
    (tmp_path / "a.tif").write_text("content")
    outcome = komad("process", tmp_path, "-o", tmp_path / "out", "--pattern", "*.mrc")
    assert outcome.code == 2
    assert "holds no file named *.mrc; see --pattern" in outcome.err
    outcome = komad("process", tmp_path, "-o", tmp_path)
    assert outcome.code == 2
    assert "would be taken for movies the next time; choose another folder" in outcome.err
    outcome = komad("process", tmp_path, "-o", tmp_path / "out", "--frame-files", "{movie}_f{frame}.tif")
    assert "holds no file named {movie}_f{frame}.tif; see --frame-files" in outcome.err
    (tmp_path / "processed.jsonl").touch()
    outcome = komad("process", tmp_path, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "holds results of komad" in outcome.err


def test_frames_in_folders(settled: Settled, tmp_path: Path) -> None:
    """Sub-folders are looked into as far as the template of frames has folders."""
    for name in ("a/raw_1.tif", "a/raw_2.tif", "b/raw_1.tif", "b/deep/c/raw_1.tif", "b/other.tif"):
        (tmp_path / "frames" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "frames" / name).write_text("content")
    chosen = settled("--frame-files", "{movie}/raw_{frame}.tif", movies=("frames",)).movies
    assert chosen == (Path("frames/a/raw_{frame}.tif"), Path("frames/b/raw_{frame}.tif"))


def test_the_help_says_the_defaults_of_the_configuration() -> None:
    """What stands behind an option as its default is what the configuration does without it."""
    command: Any = typer.main.get_command(app)
    shown = {
        parameter.name: parameter.show_default
        for parameter in command.commands["process"].params
        if isinstance(getattr(parameter, "show_default", None), str)
    }
    settings = Settings()
    folder = WatchFolder(directory=Path())
    said = 0
    for model in (settings.processing, settings.output, folder, folder.acquisition, folder.references):
        for name in shown.keys() & type(model).model_fields.keys():
            value = getattr(model, name)
            if value is None:
                continue  # the help says in words what happens then
            words = value if isinstance(value, tuple) else (value,)
            texts = [
                "on" if word is True else f"{word:g}" if isinstance(word, float) else str(word)
                for word in words
            ]
            assert shown[name] == " ".join(texts), name
            said += 1
    assert said >= 20


def test_help_shows_groups(komad: Komad) -> None:
    """Every group has its heading, in the order of the work."""
    text = komad("process", "--help").out
    headings = ["Input:", "Optics and dose:", "References:", "Motion:", "Sums:", "Output:"]
    assert sorted(headings, key=text.index) == headings


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two movies of 128 x 128 x 4 without motion."""
    directory = tmp_path_factory.mktemp("camera")
    spec = MovieSpec(
        n_frames=4, ny=128, nx=128, pixel_size_angstrom=1.5, dose_per_frame=3.0, n_orientations=1
    )
    run_session(directory, spec, 2, 0.0)
    return directory


def details(directory: Path, stem: str) -> dict[str, Any]:
    """What `<stem>.json` says."""
    found: dict[str, Any] = json.loads((directory / f"{stem}.json").read_text())
    return found


def test_a_tilt_is_weighted_with_the_dose_of_those_before(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """The second tilt is exactly what the same movie is with the first one's dose as its pre-exposure."""
    movies = sorted(camera.glob("movie_*.mrc"))
    common = (*OPTICS, "--dose-per-frame", "3", "--no-archive")
    series, alone = tmp_path / "series", tmp_path / "alone"
    assert (
        komad("process", *movies, "-o", series, *common, "--tilt", "-60", "3", "--pre-exposure", "1").code
        == 0
    )
    assert komad("process", movies[1], "-o", alone, *common, "--pre-exposure", str(1 + 4 * 3)).code == 0
    np.testing.assert_array_equal(read_image(series / "movie_0002.mrc"), read_image(alone / "movie_0002.mrc"))
    for stem, angle, before in (("movie_0001", -60, 1), ("movie_0002", -57, 13)):
        assert details(series, stem)["acquisition"]["facts"]["tilt_degree"] == angle
        general = read_star(series / f"{stem}.star")["general"].columns
        assert general["rlnMicrographPreExposure"] == before


def test_tilts_listed_by_serialem(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """The file tells order and angle; a movie that it does not list is refused, as its place is not known."""
    series = tmp_path / "series.mrc.mdoc"
    series.write_text("[ZValue = 0]\nTiltAngle = 3\nSubFramePath = X:\\movie_0002.mrc\n")
    common = (*OPTICS, "--dose-per-frame", "3", "--no-archive", "--tilt-mdoc", series)
    outcome = komad("process", *sorted(camera.glob("movie_*.mrc")), "-o", tmp_path / "out", *common)
    assert outcome.code == 1
    assert "place in the tilt series unknown" in outcome.out
    assert details(tmp_path / "out", "movie_0002")["acquisition"]["facts"]["tilt_degree"] == 3.0


def test_doses_of_single_frames(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Equal doses in a list are as one dose for all; a list for more frames is refused with both numbers."""
    (tmp_path / "equal.txt").write_text("4 1 3.0\n")
    (tmp_path / "long.txt").write_text("5 1 3.0\n")
    movie, common = camera / "movie_0001.mrc", (*OPTICS, "--no-archive")
    listed, one = tmp_path / "listed", tmp_path / "one"
    assert komad("process", movie, "-o", listed, *common, "--frame-doses", tmp_path / "equal.txt").code == 0
    assert komad("process", movie, "-o", one, *common, "--dose-per-frame", "3").code == 0
    np.testing.assert_array_equal(read_image(listed / "movie_0001.mrc"), read_image(one / "movie_0001.mrc"))
    assert details(listed, "movie_0001")["acquisition"]["frame_doses"] == [3.0] * 4
    outcome = komad("process", movie, "-o", tmp_path / "no", *common, "--frame-doses", tmp_path / "long.txt")
    assert outcome.code == 1
    assert "lists 5 frames, the movie has 4" in outcome.out


@pytest.mark.parametrize("asked", ["--sum-range 3 9", "--even-odd-weighted", "--in-frame-motion"])
def test_weighted_sums_without_a_dose_are_refused(
    komad: Komad, camera: Path, tmp_path: Path, asked: str
) -> None:
    """There is nothing to weight with: the option that tells the dose is in the message."""
    outcome = komad("process", camera / "movie_0001.mrc", "-o", tmp_path, *OPTICS, *asked.split())
    assert outcome.code == 1
    assert "add --dose-per-frame" in outcome.out


def test_values_too_large_for_16_bits_fail_one_movie(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """The next movie is done: the disk is not to blame."""
    bright = tmp_path / "bright.mrc"
    frames = np.random.default_rng(0).poisson(9, (4, 128, 128)).astype(np.uint16) * 4000
    mrcfile.write(bright, frames)
    common = ("-o", tmp_path / "out", *OPTICS, "--dose-per-frame", "3", "--no-archive", "--float16")
    outcome = komad("process", bright, camera / "movie_0001.mrc", *common)
    assert outcome.code == 1
    assert "do not fit into 16-bit floats; leave output.float16 off" in outcome.out
    assert "1 of 2 movies done" in outcome.out


def test_movies_done_before_are_left_out(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """A movie of the same name, size and time whose files are all there; one that changed is done again."""
    folder, out = tmp_path / "frames", tmp_path / "out"
    folder.mkdir()
    for movie in camera.glob("movie_*.mrc"):
        (folder / movie.name).write_bytes(movie.read_bytes())
    common = ("-o", out, *OPTICS, "--dose-per-frame", "3", "--no-archive")
    assert komad("process", folder / "movie_0001.mrc", *common).code == 0
    outcome = komad("process", folder, *common, "--skip-done")
    assert "1 of 1 movies done, 1 were done before" in outcome.out
    assert "0 of 0 movies done, 2 were done before" in komad("process", folder, *common, "--skip-done").out

    os.utime(folder / "movie_0001.mrc", (1, 1))
    (out / "movie_0002.star").unlink()
    assert "2 of 2 movies done;" in komad("process", folder, *common, "--skip-done").out
