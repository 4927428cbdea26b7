"""The orientation of a gain reference, and a reference from the movies themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter

from komad.detector.gain import check_gain, orient, orientation_scores
from komad.detector.gain_estimate import estimate_gain
from komad.errors import ParameterError, ReferenceFileError
from komad.simulate.detector import Detector, build_detector, illumination
from komad.simulate.spec import MovieSpec

FloatArray = npt.NDArray[np.float32]

WAYS = [(rot, flip) for rot in range(4) for flip in (0, 1)]


def response_of(shape: tuple[int, int], spread: float = 0.03, seed: int = 0) -> FloatArray:
    """Pixels and columns that count differently, no outliers."""
    rng = np.random.default_rng(seed)
    response = 1 + spread * (rng.standard_normal(shape) + rng.standard_normal(shape[1]))
    return np.clip(response, 0.5, 2).astype(np.float32)


def counted(response: FloatArray, mean: float, seed: int = 1) -> npt.NDArray[np.uint32]:
    """Sum of a few movies: specimen and beam differ over the field, electrons are counted."""
    rng = np.random.default_rng(seed)
    specimen = gaussian_filter(rng.standard_normal(response.shape), 5)
    slope = np.linspace(0.9, 1.1, len(response))[:, None]
    return rng.poisson(mean * slope * (1 + 0.02 * specimen / specimen.std()) * response).astype(np.uint32)


def stored(oriented: FloatArray, rot: int, flip: int) -> FloatArray:
    """The file whose picture is `oriented` after turning by `rot` quarters and flipping by `flip`."""
    flipped = {0: oriented, 1: oriented[::-1], 2: oriented[:, ::-1]}[flip]
    return np.ascontiguousarray(np.rot90(flipped, rot))


def test_orient_undoes_what_was_stored() -> None:
    """The convention of tests and program is one: first turned, then flipped."""
    picture = np.arange(6, dtype=np.float32).reshape(2, 3)
    for rot in range(4):
        for flip in range(3):
            np.testing.assert_array_equal(
                orient(stored(picture, rot, flip), gain_rot=rot, gain_flip=flip), picture
            )


@pytest.mark.parametrize(("rot", "flip"), WAYS)
def test_each_orientation_is_found_and_named(rot: int, flip: int) -> None:
    """Right when configured so; else another one, named in the terms of the configuration."""
    response = response_of((256, 256))
    gain, total = stored(1 / response, rot, flip), counted(response, 200)
    before = total.copy(), gain.copy()
    right = check_gain(total, gain, gain_rot=rot, gain_flip=flip)
    assert right.verdict == "ok"
    assert right.best == right.configured
    assert right.confidence > 6
    assert len(right.scores) == 8
    wrong = check_gain(total, gain, gain_rot=(rot + 1) % 4, gain_flip=1 - flip)
    assert wrong.verdict == "other"
    assert (wrong.best.gain_rot, wrong.best.gain_flip) == (rot, flip)
    assert wrong.best.part == pytest.approx(1, abs=0.15)
    assert f"set gain_rot = {rot}, gain_flip = {flip}" in wrong.sentence
    np.testing.assert_array_equal(total, before[0])
    np.testing.assert_array_equal(gain, before[1])


def test_left_to_right_is_one_of_the_eight() -> None:
    """gain_flip = 2 is judged as the same turned by half and upside down, and keeps its name."""
    response = response_of((256, 256))
    for rot in range(4):
        verdict = check_gain(counted(response, 200), stored(1 / response, rot, 2), gain_rot=rot, gain_flip=2)
        assert verdict.verdict == "ok"
        assert (verdict.configured.gain_rot, verdict.configured.gain_flip) == (rot, 2)


def test_frames_that_are_not_square_have_four() -> None:
    """Only orientations that fit are tried; a configuration that does not fit says which would."""
    response = response_of((256, 320))
    total = counted(response, 200)
    assert [(s.gain_rot, s.gain_flip) for s in orientation_scores(total, 1 / response)] == [
        (0, 0),
        (0, 1),
        (2, 0),
        (2, 1),
    ]
    gain = stored(1 / response, 3, 1)
    verdict = check_gain(total, gain, gain_rot=1, gain_flip=0)
    assert (verdict.verdict, verdict.best.gain_rot, verdict.best.gain_flip) == ("other", 3, 1)
    with pytest.raises(ReferenceFileError, match=r"gain_rot = 0 .* 320 x 256 .* gain_rot = 1 or 3"):
        check_gain(total, gain, gain_rot=0, gain_flip=0)
    with pytest.raises(ReferenceFileError, match="320 x 300 pixels, the frames are 320 x 256"):
        check_gain(total, np.ones((300, 320), np.float32), gain_rot=0, gain_flip=0)


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_six_usual_movies_are_enough(spread: float) -> None:
    """With the counts of six movies of 40 e/px the best of eight stands clear, at a spread of 1 % too."""
    response = response_of((2048, 2048), spread)
    noise = 1 + 0.01 * np.random.default_rng(5).standard_normal(response.shape, np.float32)
    verdict = check_gain(counted(response, 240), stored(noise / response, 2, 1), gain_rot=0, gain_flip=0)
    assert (verdict.verdict, verdict.best.gain_rot, verdict.best.gain_flip) == ("other", 2, 1)
    assert verdict.confidence > 15


def test_the_scale_does_not_matter() -> None:
    """A mean of stack sums is judged as their sum is."""
    response = response_of((256, 256))
    total = counted(response, 200)
    whole = check_gain(total, 1 / response, gain_rot=0, gain_flip=0)
    mean = check_gain(total / 1234.5, 1 / response, gain_rot=0, gain_flip=0)
    assert mean.configured.part == pytest.approx(whole.configured.part, rel=1e-3)


def test_hot_pixels_and_bad_gains_do_not_matter() -> None:
    """Pixels that count thirty times as much, or have no gain, are left out."""
    response = response_of((256, 256))
    total, gain = counted(response, 200), 1 / response
    rng = np.random.default_rng(3)
    total[tuple(rng.integers(0, 256, (2, 300)))] *= 30
    gain[tuple(rng.integers(0, 256, (2, 300)))] = 0
    gain[3, 4], gain[5, 6], gain[7, 8] = np.nan, np.inf, -1
    verdict = check_gain(total, stored(gain, 1, 0), gain_rot=0, gain_flip=0)
    assert (verdict.verdict, verdict.best.gain_rot, verdict.best.gain_flip) == ("other", 1, 0)


def test_movies_that_are_corrected_already() -> None:
    """No orientation has anything of the pattern, also where the reference has noise of its own."""
    response = response_of((512, 512))
    gain = (1 / response).astype(np.float32)
    gain *= 1 + 0.015 * np.random.default_rng(5).standard_normal(gain.shape, np.float32)
    verdict = check_gain(counted(response, 400) * gain, gain, gain_rot=0, gain_flip=0)
    assert verdict.verdict == "corrected"
    assert "configure no gain" in verdict.sentence


def test_the_reciprocal_of_the_gain() -> None:
    """A reference by which one has to divide is recognised, in its orientation."""
    response = response_of((256, 256))
    verdict = check_gain(counted(response, 200), stored(response, 1, 1), gain_rot=0, gain_flip=0)
    assert (verdict.verdict, verdict.best.gain_rot, verdict.best.gain_flip) == ("inverse", 1, 1)
    assert "--reciprocal" in verdict.sentence


@pytest.mark.parametrize("case", ["few counts", "even gain", "no counts", "tiny"])
def test_what_cannot_be_told(case: str) -> None:
    """Too few counts, a gain without structure, no beam, frames of a few pixels: said so, and never another way."""
    shape = (24, 24) if case == "tiny" else (256, 256)
    response = response_of(shape, 0.01)
    total = counted(response, {"few counts": 0.5, "no counts": 0}.get(case, 200))
    gain = np.ones(shape, np.float32) if case == "even gain" else 1 / response
    verdict = check_gain(total, gain, gain_rot=1, gain_flip=0)
    assert verdict.verdict == "unclear"
    assert verdict.best == verdict.configured
    assert "cannot be told" in verdict.sentence


def test_what_repeats_itself_does_not_hide_the_rest() -> None:
    """Even and odd pixels of super-resolution, and lines of the read-out, count no more than pixels."""
    y, x = np.mgrid[:512, :512]
    repeated = 0.05 * ((y + x) % 2) + 0.05 * (x % 4 == 0)
    response = (response_of((512, 512), 0.01) * (1 + repeated)).astype(np.float32)
    verdict = check_gain(counted(response, 240), stored(1 / response, 2, 1), gain_rot=0, gain_flip=0)
    assert (verdict.verdict, verdict.best.gain_rot, verdict.best.gain_flip) == ("other", 2, 1)
    assert verdict.confidence > 15


def test_a_gain_of_columns_alone() -> None:
    """Upside down it is the same: both fit, and the configured one is right."""
    response = np.broadcast_to(response_of((1, 512), 0.1), (512, 512)).astype(np.float32)
    verdict = check_gain(counted(response, 200), 1 / response, gain_rot=0, gain_flip=1)
    assert verdict.verdict == "ok"
    turned = check_gain(counted(response, 200), 1 / response, gain_rot=1, gain_flip=0)
    assert turned.verdict == "other"
    assert turned.best.gain_rot in {0, 2}


def test_chance_is_measured_right() -> None:
    """The sigma of orientations in which nothing fits scatters by about one, columns and all."""
    sigma = [
        score.sigma
        for seed in range(12)
        for score in orientation_scores(
            counted(response_of((192, 192), seed=seed), 100, seed),
            1 / response_of((192, 192), seed=seed + 99),
        )
    ]
    assert 0.7 < np.std(sigma) < 1.4
    assert np.max(np.abs(sigma)) < 5


def camera(size: int = 256) -> Detector:
    """A detector with response, hot and dead pixels."""
    return build_detector(MovieSpec(ny=size, nx=size, response_spread=0.03, hot_per_megapixel=100, seed=3))


def session(detector: Detector, n_movies: int, *, dose: float = 40.0) -> Iterator[npt.NDArray[np.uint16]]:
    """Stack sums of movies of different places, one with a carbon edge; x-rays hit each of them."""
    shape = detector.response.shape
    rng = np.random.default_rng(0)
    for number in range(n_movies):
        light = illumination(MovieSpec(ny=shape[0], nx=shape[1], seed=number))
        specimen = gaussian_filter(rng.standard_normal(shape), 6)
        electrons = dose * light * (1 + 0.03 * specimen / specimen.std())
        if number == 5:
            electrons[: shape[0] // 3, : shape[1] // 4] *= 0.6
        total = rng.poisson(40 * detector.expected((electrons / 40).astype(np.float32)))
        total[tuple(rng.integers(0, shape, (20, 2)).T)] += 400
        yield total.astype(np.uint16)


def without_slope(picture: FloatArray) -> npt.NDArray[np.float64]:
    """Divided by the polynomial of second degree that fits it best: what no specimen movie can tell."""
    y, x = (np.linspace(-1, 1, size) for size in picture.shape)
    basis = np.stack([np.outer(y**i, x**j).ravel() for i in range(3) for j in range(3)], axis=1)
    fit = np.linalg.lstsq(basis, picture.ravel().astype(float), rcond=None)[0]
    return picture / (basis @ fit).reshape(picture.shape)


@pytest.mark.parametrize("n_movies", [3, 12, 40])
def test_an_estimated_gain_is_as_good_as_counting_allows(n_movies: int) -> None:
    """Against the true response its error is within 8 % of what the counts allow."""
    detector = camera()
    estimate = estimate_gain(session(detector, n_movies))
    assert estimate.n_movies == n_movies
    assert estimate.counts_per_px == pytest.approx(40 * n_movies, rel=0.03)
    assert estimate.is_good == (n_movies >= 10)
    good = estimate.gain > 0
    good[tuple(detector.hot_yx.T)] = good[tuple(detector.dead_yx.T)] = False
    ratio = without_slope(detector.response)[good] * estimate.gain[good]
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 1.08 * estimate.error


def test_an_estimated_gain_gives_up_hot_and_dead_pixels() -> None:
    """Their factor is 0, which makes them defects; all others keep theirs."""
    detector = camera()
    estimate = estimate_gain(session(detector, 40))
    given_up = {tuple(spot) for spot in np.argwhere(estimate.gain == 0)}
    bad = {tuple(spot) for spot in np.concatenate([detector.hot_yx, detector.dead_yx])}
    assert given_up <= bad
    assert len(given_up) > 0.9 * len(bad)
    assert estimate.n_defects == len(given_up)


def test_an_estimated_gain_fits_its_movies() -> None:
    """The check of the orientation says that it lies the right way for other movies of the detector."""
    detector = camera()
    gain = estimate_gain(session(detector, 12)).gain
    total = np.random.default_rng(9).poisson(400 * detector.response)
    assert check_gain(total, gain, gain_rot=0, gain_flip=0).verdict == "ok"


def test_movies_that_give_no_gain() -> None:
    """No movies, movies without beam, and movies of two cameras are errors that say what to give."""
    for totals in ([], [np.zeros((64, 64), np.uint16)] * 3):
        with pytest.raises(ParameterError, match="give movies with beam"):
            estimate_gain(totals)
    with pytest.raises(ReferenceFileError, match="movie 2 is of 32 x 64 pixels, those before of 64 x 64"):
        estimate_gain([np.ones((64, 64)), np.ones((64, 32))])
