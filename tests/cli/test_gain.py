"""`komad gain` on small simulated movies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from komad.cli import exits
from komad.config import ReferenceSettings
from komad.formats import references
from komad.formats.images import read_image, write_reference
from komad.ingest.references import bind
from komad.model import MovieFormat
from komad.simulate.detector import Detector, build_detector
from komad.simulate.eer import write_eer_frames
from komad.simulate.spec import MovieSpec
from komad.store import GainCheckRow, Store
from tests.cli.conftest import Komad
from tests.formats.files import write_mrc_movie

SIZE = 192
N_FRAMES = 4


@pytest.fixture(scope="module")
def detector() -> Detector:
    """One camera for all."""
    return build_detector(MovieSpec(ny=SIZE, nx=SIZE, response_spread=0.04, seed=5))


def write_session(
    directory: Path, response: npt.NDArray[np.float32], n_movies: int, mean: Callable[[int], float]
) -> Path:
    """Movies without specimen, `mean(i)` counts per pixel and frame."""
    directory.mkdir(exist_ok=True)
    for number in range(n_movies):
        frames = np.random.default_rng(number).poisson(mean(number) * response, (N_FRAMES, SIZE, SIZE))
        write_mrc_movie(directory / f"movie_{number}.mrc", frames.astype(np.uint16), 6)
    return directory


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory, detector: Detector) -> Path:
    """Twelve movies of 40 counts per pixel, and the gain reference among them."""
    directory = write_session(tmp_path_factory.mktemp("camera"), detector.response, 12, lambda _: 10.0)
    write_reference(directory / "gain.mrc", detector.gain_reference)
    return directory


def test_a_gain_that_lies_right(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Exit code 0, a table of eight ways, the sentence, and a picture."""
    picture = tmp_path / "check.png"
    outcome = komad("gain", "check", camera, "--gain", camera / "gain.mrc", "-o", picture)
    assert outcome.code == 0, outcome.err
    assert "lies the right way (gain_rot = 0, gain_flip = 0)" in outcome.out
    assert "10 movies, 400 counts per pixel together" in outcome.out
    assert outcome.out.count("as given") == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_gain_that_lies_wrong(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Its own exit code; the sentence says what to set, and setting it makes it right."""
    gain = tmp_path / "turned.mrc"
    write_reference(gain, np.rot90(read_image(camera / "gain.mrc"))[::-1])
    outcome = komad("gain", "check", camera, "--gain", gain)
    assert outcome.code == exits.GAIN
    assert "WRONG WAY (gain_rot = 0, gain_flip = 0): set gain_rot = 3, gain_flip = 1" in outcome.out
    assert (tmp_path / "turned_check.png").exists()
    right = komad(
        "gain", "check", camera, "--gain", gain, "--gain-rot", "3", "--flip-gain", "1", "--no-picture"
    )
    assert right.code == 0, right.out


def test_a_factor_that_is_taken_for_a_response(komad: Komad, camera: Path) -> None:
    """The reciprocal fits, in the table and in the sentence, which names the setting."""
    outcome = komad(
        "gain",
        "check",
        camera,
        "--gain",
        camera / "gain.mrc",
        "--gain-kind",
        "response",
        "-n",
        "3",
        "--no-picture",
    )
    assert outcome.code == exits.GAIN
    assert "as given, its reciprocal fits" in outcome.out
    assert "change gain_kind (factor, response)" in outcome.out


def test_json_of_a_check(komad: Komad, camera: Path) -> None:
    """All of it for scripts, and nothing else on the standard output."""
    outcome = komad(
        "gain", "check", camera, "--gain", camera / "gain.mrc", "--gain-rot", "2", "-n", "3", "--json", "--no-picture"
    )  # fmt: skip
    assert outcome.code == exits.GAIN
    found = json.loads(outcome.out)
    assert (found["verdict"], found["n_movies"], found["picture"]) == ("other", 3, None)
    assert found["configured"] == {"gain_rot": 2, "gain_flip": 0}
    assert found["best"] == {"gain_rot": 0, "gain_flip": 0}
    assert found["confidence"] > 6
    assert len(found["scores"]) == 8
    assert found["scores"][0]["part"] == pytest.approx(1, abs=0.2)


def test_bad_pixels_of_a_gain_are_counted(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Zero, negative and infinite ones together."""
    image = read_image(camera / "gain.mrc").copy()
    image[3, 4], image[5, 6], image[7, 8], image[9, 10] = 0, -1, np.inf, np.nan
    gain = write_mrc_movie(tmp_path / "gain.mrc", image[None], 2)
    outcome = komad("gain", "check", camera, "--gain", gain, "--no-picture")
    assert outcome.code == 0, outcome.out
    assert "4 pixels of the gain are zero, negative or no numbers" in outcome.out


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((SIZE, SIZE // 2), np.float32), "96 x 192 pixels, the frames are 192 x 192"),
        (np.zeros((SIZE, SIZE), np.float32), "no pixel above zero"),
        (np.full((SIZE, SIZE), np.nan, np.float32), "no pixel above zero"),
        (np.ones((2, SIZE, SIZE), np.float32), "holds 2 pictures"),
    ],
)
def test_gains_that_cannot_be_used(
    komad: Komad, camera: Path, tmp_path: Path, image: npt.NDArray[np.float32], message: str
) -> None:
    """Wrong size, zeros, no numbers, several pictures: one line that says so."""
    gain = write_mrc_movie(tmp_path / "gain.mrc", image.reshape(-1, *image.shape[-2:]), 2)
    outcome = komad("gain", "check", camera, "--gain", gain)
    assert outcome.code == exits.CONFIG
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    missing = komad("gain", "check", camera, "--gain", tmp_path / "none.mrc")
    assert missing.code == exits.CONFIG
    assert "none.mrc: the gain reference cannot be read" in missing.err


def test_movies_that_cannot_be_used(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """A damaged movie is told and left out; none at all, or those of two cameras, are an error."""
    damaged = tmp_path / "damaged.mrc"
    damaged.write_bytes((camera / "movie_0.mrc").read_bytes()[:-100])
    gain = ("--gain", camera / "gain.mrc", "--no-picture")
    outcome = komad("gain", "check", damaged, camera / "movie_1.mrc", camera / "movie_2.mrc", *gain)
    assert outcome.code == 0, outcome.err
    assert "damaged.mrc is left out" in outcome.out
    assert "2 movies" in outcome.out
    nothing = komad("gain", "check", damaged, *gain)
    assert nothing.code == exits.MOVIES_FAILED
    assert "none of the movies can be read" in nothing.err
    other = write_mrc_movie(tmp_path / "other.mrc", np.ones((2, 64, 64), np.uint16), 6)
    two = komad("gain", "check", camera / "movie_1.mrc", other, *gain)
    assert two.code == exits.CONFIG
    assert "other.mrc is of 64 x 64 pixels, those before of 192 x 192" in two.err


def test_a_gain_from_the_movies(komad: Komad, camera: Path, tmp_path: Path, detector: Detector) -> None:
    """It says how good it is, warns when the movies are too few, and is near the truth; a file is never replaced."""
    gain = tmp_path / "gain.tif"
    outcome = komad("gain", "estimate", camera, "-o", gain)
    assert outcome.code == 0, outcome.err
    assert "from 12 movies with 480 counts per pixel, so that a pixel is known to 4.6%" in outcome.out
    assert "too few" not in outcome.out
    image = read_image(gain)
    good = (image > 0) & (detector.response > 0)
    assert np.std(image[good] * detector.response[good]) < 0.055
    again = komad("gain", "estimate", camera, "-o", gain)
    assert again.code == exits.USAGE
    assert "is there already" in again.err
    few = komad("gain", "estimate", camera, "-o", tmp_path / "few.mrc", "-n", "4")
    assert "it adds a pattern of 25% of their noise" in few.out


@pytest.mark.parametrize("name", ["gain.mrc", "gain.tif", "a.gain"])
def test_a_gain_from_eer_movies(komad: Komad, tmp_path: Path, detector: Detector, name: str) -> None:
    """As such movies take it by itself: a response, or in a `.gain` the factor, in rows that lie right."""
    for number in range(3):
        frames = np.random.default_rng(number).poisson(10 * detector.response, (N_FRAMES, SIZE, SIZE))
        path, counts = tmp_path / f"{number}.eer", frames.clip(0, 25).astype(np.uint8)
        assert list(write_eer_frames(path, counts, pixel_size_angstrom=1)) == [1, 2, 3, 4]
    assert komad("gain", "estimate", tmp_path, "-o", tmp_path / name).code == 0
    settings = ReferenceSettings(gain=tmp_path / name)
    factor = references.load(bind(settings, None, MovieFormat.EER), (SIZE, SIZE)).gain
    assert factor is not None
    good = (factor > 0) & (detector.response > 0)
    assert factor[good].mean() == pytest.approx(1, abs=0.02)
    assert (
        np.std(factor[good] * detector.response[good]) < 0.105
    )  # 1 / sqrt(120 counts), where 0.04 is the response's
    checked = komad("gain", "check", tmp_path, "--gain", tmp_path / name, "--no-picture")
    assert "lies the right way" in checked.out
    if name == "a.gain":  # for other programs in another format
        way = ("--reciprocal", "--flip", "1")
        assert komad("gain", "convert", tmp_path / name, tmp_path / "b.mrc", *way).code == 0
        assert "--reciprocal" in komad("gain", "convert", tmp_path / name, tmp_path / "c.mrc").out
        same = references.load(
            bind(ReferenceSettings(gain=tmp_path / "b.mrc"), None, MovieFormat.EER), (SIZE, SIZE)
        )
        assert same.gain is not None
        np.testing.assert_allclose(same.gain, factor, rtol=0.01)


def test_a_dark_is_subtracted(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """An offset of the camera, given as dark, does not count as response."""
    dark = np.random.default_rng(1).integers(0, 9, (SIZE, SIZE)).astype(np.float32)
    for number in range(3):
        frames = mrcfile.read(camera / f"movie_{number}.mrc") + dark
        write_mrc_movie(tmp_path / f"movie_{number}.mrc", frames.astype(np.uint16), 6)
    write_mrc_movie(tmp_path / "gain_dark.mrc", dark[None], 2)
    movies = sorted(tmp_path.glob("movie_*"))
    gains = []
    for name, options, source in (
        ("a.mrc", ("--dark", tmp_path / "gain_dark.mrc"), movies),
        ("b.mrc", (), [camera / path.name for path in movies]),
    ):
        assert komad("gain", "estimate", *source, "-o", tmp_path / name, *options).code == 0
        gains.append(read_image(tmp_path / name))
    np.testing.assert_allclose(*gains, rtol=1e-5)


ASYMMETRIC = np.array([[1, 2, 4], [8, 16, 32]], np.float32)


@pytest.mark.parametrize("via", ["a.mrc", "a.tif", "a.gain"])
def test_convert_keeps_the_picture(komad: Komad, tmp_path: Path, via: str) -> None:
    """From MRC to any format and back; other programs see the rows of a TIFF from the top."""
    write_reference(tmp_path / "in.mrc", ASYMMETRIC)
    assert komad("gain", "convert", tmp_path / "in.mrc", tmp_path / via).code == 0
    assert komad("gain", "convert", tmp_path / via, tmp_path / "out.mrc").code == 0
    np.testing.assert_array_equal(mrcfile.read(tmp_path / "out.mrc"), ASYMMETRIC)
    if via != "a.mrc":
        np.testing.assert_array_equal(tifffile.imread(tmp_path / via), ASYMMETRIC[::-1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rot", "1"), [[8, 1], [16, 2], [32, 4]]),
        (("--flip", "1"), [[8, 16, 32], [1, 2, 4]]),
        (("--flip", "2"), [[4, 2, 1], [32, 16, 8]]),
        (("--rot", "3", "--flip", "1"), [[1, 8], [2, 16], [4, 32]]),
        (("--reciprocal",), [[10.5, 5.25, 2.625], [1.3125, 0.65625, 0.328125]]),
    ],
)
def test_convert_turns_flips_and_inverts(
    komad: Komad, tmp_path: Path, options: tuple[str, ...], expected: list[list[float]]
) -> None:
    """In the terms of gain_rot and gain_flip, in MRC row order; the reciprocal keeps counts counts."""
    write_reference(tmp_path / "in.gain", ASYMMETRIC)
    assert komad("gain", "convert", tmp_path / "in.gain", tmp_path / "out.mrc", *options).code == 0
    np.testing.assert_allclose(read_image(tmp_path / "out.mrc"), expected, rtol=1e-6)


def test_reciprocal_of_bad_pixels(komad: Komad, tmp_path: Path) -> None:
    """Where there is no factor, 0 stays 0: a defect."""
    write_mrc_movie(tmp_path / "in.mrc", np.array([[[2, 0], [-1, np.nan]]], np.float32), 2)
    outcome = komad("gain", "convert", tmp_path / "in.mrc", tmp_path / "out.mrc", "--reciprocal")
    assert outcome.code == 0, outcome.err
    assert read_image(tmp_path / "out.mrc").tolist() == [[1, 0], [0, 0]]


def test_convert_never_replaces_a_file(komad: Komad, tmp_path: Path) -> None:
    """Not even the one that is converted."""
    write_reference(tmp_path / "in.mrc", ASYMMETRIC)
    outcome = komad("gain", "convert", tmp_path / "in.mrc", tmp_path / "in.mrc", "--rot", "1")
    assert outcome.code == exits.USAGE
    assert "is there already and is kept" in outcome.err
    np.testing.assert_array_equal(read_image(tmp_path / "in.mrc"), ASYMMETRIC)


def test_the_power_of_a_gain(komad: Komad, tmp_path: Path) -> None:
    """Each movie has its power, which depends on its dose rate; the four numbers go into the configuration."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    logarithm = 0.2 * np.cos(2 * np.pi * (y + 0.5 * x))
    write_reference(tmp_path / "gain.mrc", np.exp(logarithm).astype(np.float32))
    rates = np.array([20, 30, 40, 60, 80, 100])
    powers = 2 / rates + 0.004 * rates + 0.6
    camera = tmp_path / "vacuum"
    camera.mkdir()
    for number, (rate, power) in enumerate(zip(rates, powers, strict=True)):
        expected = 0.5 * rate * np.exp(-power * logarithm)
        frames = np.random.default_rng(number).poisson(expected, (N_FRAMES, SIZE, SIZE))
        write_mrc_movie(camera / f"{number}.mrc", frames.astype(np.uint16), 6)
    options = ("gain", "gamma", camera, "--gain", tmp_path / "gain.mrc")
    outcome = komad(*options, "--frame-time", "0.5", "-o", tmp_path / "gamma.png", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    np.testing.assert_allclose([row["dose_rate_e_per_px_s"] for row in found["movies"]], rates, rtol=0.05)
    np.testing.assert_allclose([row["gamma"] for row in found["movies"]], powers, atol=0.02)
    assert len(found["fit"]) == 4
    assert (tmp_path / "gamma.png").read_bytes().startswith(b"\x89PNG")
    unknown = komad(*options, "--no-picture")
    assert unknown.code == exits.USAGE
    assert "the time of a frame is unknown; add --frame-time" in unknown.err
    one = komad("gain", "gamma", camera / "0.mrc", *options[3:], "--frame-time", "0.5")
    assert one.code == 0
    assert "at least 5 dose rates" in one.out
    assert "mean: gain_gamma = 0.7" in one.out
    assert (tmp_path / "gain_gamma.png").exists()


def test_the_verdict_does_not_need_the_picture(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """Where nobody may write, there is no picture; the verdict and its exit code stay."""
    nowhere = tmp_path / "missing" / "check.png"
    options = ("gain", "check", camera, "--gain", camera / "gain.mrc", "--gain-rot", "1", "-o", nowhere)
    outcome = komad(*options)
    assert outcome.code == exits.GAIN, outcome.err
    assert "WRONG WAY" in outcome.out
    assert f"no picture: cannot write {nowhere}" in outcome.out
    assert json.loads(komad(*options, "--json").out)["picture"] is None


def test_the_picture_has_one_format(komad: Komad, camera: Path, tmp_path: Path) -> None:
    """A name that promises another one is refused."""
    other = tmp_path / "check.pdf"
    outcome = komad("gain", "check", camera, "--gain", camera / "gain.mrc", "-o", other)
    assert outcome.code == exits.USAGE
    assert "end the name in .png" in outcome.err
    assert not other.exists()


def test_nothing_to_accept(komad: Komad, store: Store, config: Path) -> None:
    """Without a movie that waits because of its gain it says so."""
    outcome = komad("gain", "accept", "-c", config)
    assert outcome.code == 0, outcome.err
    assert "nothing to accept" in outcome.out


def test_a_wrong_gain_is_accepted(komad: Komad, store: Store, config: Path) -> None:
    """What the check said is shown once more; after that there is nothing to accept."""
    row = GainCheckRow(
        verdict="other",
        configured={"gain_rot": 0, "gain_flip": 0},
        best={"gain_rot": 1, "gain_flip": 0},
        confidence=40.0,
        sentence="the gain reference lies the WRONG WAY",
        movie_id=1,
        holds=True,
    )
    store.put_gain_check("series", row)
    assert "accepted: the gain reference lies the WRONG WAY" in komad("gain", "accept", "-c", config).out
    found = store.gain_check("series")
    assert found is not None
    assert found.accepted
    assert "nothing to accept" in komad("gain", "accept", "-c", config).out
