"""Counting, response, gain reference, hot and dead pixels."""

import numpy as np
import pytest
from scipy import stats

from komad.simulate.detector import aged, build_detector, count, illumination
from komad.simulate.spec import MovieSpec

SMALL = {"n_frames": 4, "ny": 300, "nx": 260}


@pytest.mark.parametrize("mean", [0.05, 0.83, 6.0, 90.0])
def test_counts_follow_the_poisson_distribution(mean):
    """The histogram of a million counts is the Poisson distribution."""
    out = np.empty((1000, 1000), np.uint8)
    count(np.full(out.shape, mean, np.float32), np.random.default_rng(5), max_count=255, out=out)
    low, high = stats.poisson.ppf([1e-4, 1 - 1e-4], mean).astype(int)
    values = np.arange(low, high + 1)
    expected = stats.poisson.pmf(values, mean) * out.size
    observed = np.array([(out == value).sum() for value in values])
    kept = expected > 20
    chi2 = (np.square(observed - expected) / expected)[kept].sum()
    assert stats.chi2.sf(chi2, kept.sum()) > 1e-3


def test_counts_saturate():
    """A pixel brighter than the type can hold stays at the largest count."""
    out = np.empty((2, 50), np.uint8)
    count(np.full(out.shape, 40.0, np.float32), np.random.default_rng(0), max_count=15, out=out)
    assert (out == 15).all()


def test_gain_reference_undoes_the_response():
    """Without error, gain times response is 1 at every pixel that is alive."""
    detector = build_detector(MovieSpec(**SMALL))
    flat = detector.gain_reference * detector.response
    alive = np.ones(flat.shape, bool)
    alive[tuple(detector.dead_yx.T)] = False
    np.testing.assert_allclose(flat[alive], 1.0, rtol=1e-5)
    assert detector.response[alive].mean() == pytest.approx(1.0, abs=1e-3)
    assert 0.04 < detector.response[alive].std() < 0.07


def test_stale_gain_leaves_the_pattern_asked_for():
    """A gain error of 4 percent leaves a fixed pattern of 4 percent RMS."""
    detector = build_detector(MovieSpec(gain_error=0.04, dead_per_megapixel=0.0, **SMALL))
    residue = detector.gain_reference * detector.response
    assert residue.std() == pytest.approx(0.04, rel=0.03)


def test_response_shows_columns():
    """Columns differ more than chance would have it."""
    response = build_detector(MovieSpec(dead_per_megapixel=0.0, **SMALL)).response
    assert response.mean(axis=0).std() > 3 * response.std() / np.sqrt(SMALL["ny"])


def test_dead_pixels_are_zero_and_hot_pixels_are_hot():
    """Dead pixels never count, hot ones count more than the dose; some of each stand alone and some in clusters."""
    spec = MovieSpec(hot_per_megapixel=100.0, dead_per_megapixel=60.0, ny=600, nx=600)
    detector = build_detector(spec)
    counts = detector.expected(np.full(spec.shape, 0.8, np.float32))
    dead = np.zeros(spec.shape, bool)
    dead[tuple(detector.dead_yx.T)] = True
    assert not counts[dead].any()
    assert (counts[~dead] > 0).all()
    hot = np.zeros(spec.shape, bool)
    hot[tuple(detector.hot_yx.T)] = True
    assert (counts[hot & ~dead] > 0.8 * detector.response[hot & ~dead] + 0.2).all()
    for mask in (dead, hot):
        padded = np.pad(mask, 1)
        neighbours = sum(np.roll(padded, s, (0, 1)) for s in ((0, 1), (0, -1), (1, 0), (-1, 0)))[1:-1, 1:-1]
        assert (neighbours[mask] == 0).any()
        assert (neighbours[mask] > 0).any()


def test_camera_ages_slowly():
    """From movie to movie the response stays, and a few hot pixels change."""
    spec = MovieSpec(hot_per_megapixel=400.0, **SMALL)
    detector = build_detector(spec)
    older = aged(detector, spec)
    assert older.response is detector.response
    before, after = ({tuple(yx) for yx in d.hot_yx} for d in (detector, older))
    assert 0.02 < len(before - after) / len(before) < 0.25
    assert after - before
    assert len(older.hot_rate_e) == len(older.hot_yx)


def test_no_bad_pixels_when_none_are_asked_for():
    """Zero per megapixel is none."""
    detector = build_detector(MovieSpec(hot_per_megapixel=0.0, dead_per_megapixel=0.0, **SMALL))
    assert len(detector.hot_yx) == len(detector.dead_yx) == 0
    assert len(aged(detector, MovieSpec(hot_per_megapixel=0.0, **SMALL)).hot_yx) == 0


def test_illumination_is_a_slope_of_mean_one():
    """The beam's mean is 1 and its edges differ by what was asked for."""
    beam = illumination(MovieSpec(illumination_gradient=0.1, **SMALL))
    assert beam.mean() == pytest.approx(1.0, abs=1e-5)
    assert 0.18 < np.ptp(beam) < 0.3
