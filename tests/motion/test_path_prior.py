"""Paths drawn from known processes, measured with known noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad.motion.path_prior import Path, fit_path, path_basis

FloatArray = npt.NDArray[np.float64]


def fit(fisher: FloatArray, at: FloatArray, moments: FloatArray, *, angstrom: float = 4.0) -> Path:
    """The path when a measurement of precision `fisher` says `at`."""
    return fit_path(fisher, fisher @ at, moments, angstrom=angstrom, strengths=None)


def even(n: int, precision: float) -> FloatArray:
    """(n, n) information of n points that are equally well measured, their mean free."""
    return precision * (np.eye(n) - 1 / n)


def smooth_path(n: int) -> FloatArray:
    """(n, 2) early motion that relaxes, and an even drift; mean 0."""
    t = np.arange(n)[:, None]
    path = np.array([1.5, -0.8]) * (1 - np.exp(-t / 4)) + np.array([0.02, 0.05]) * t
    return np.asarray(path - path.mean(axis=0))


@pytest.mark.parametrize("n", [2, 3, 12, 40])
def test_what_is_measured_well_is_reproduced(n: int) -> None:
    """Any path, a jump included, with two points and with many; its mean is zero."""
    rng = np.random.default_rng(n)
    at = np.cumsum(rng.normal(0, 0.3, (n, 2)), axis=0)
    at -= at.mean(axis=0)
    found = fit(even(n, 1e6), at + np.array([5.0, -3.0]), np.arange(n) * 1.2)
    np.testing.assert_allclose(found.shifts, at, atol=0.01)
    np.testing.assert_allclose(found.shifts.mean(axis=0), 0, atol=1e-9)
    assert found.n_determined == pytest.approx(2 * (n - 1), rel=0.05)


def test_points_without_information_lie_between_their_neighbours() -> None:
    """Frames that say nothing are carried smoothly, and are the less certain."""
    n, blind = 30, slice(12, 16)
    at = smooth_path(n)
    precision = np.full(n, 400.0)
    precision[blind] = 0
    fisher = np.diag(precision) - np.outer(precision, precision) / precision.sum()
    measured = at + np.random.default_rng(0).normal(0, 0.05, at.shape)
    measured[blind] = 50.0
    found = fit(fisher, measured, np.arange(n) * 1.2)
    np.testing.assert_allclose(found.shifts[blind], at[blind], atol=0.1)
    full = fit_path(
        even(n, 400.0), 400 * at, np.arange(n) * 1.2, angstrom=4.0, strengths=found.strengths, settled=True
    )
    assert found.covariance[13, 13] > 1.2 * full.covariance[13, 13]


@pytest.mark.parametrize("precision", [3.0, 1000.0])
def test_an_even_drift_is_not_shrunk(precision: float) -> None:
    """However weak the measurement: the slope is that of the measured points."""
    n = 40
    at = np.linspace([8.0, -4.0], [-8.0, 4.0], n)
    found = fit(even(n, precision), at, np.arange(n) * 1.0)
    assert np.vdot(found.shifts, at) / np.vdot(at, at) == pytest.approx(1, abs=0.01)


def test_a_smooth_path_is_smoothed() -> None:
    """Noise of a weak measurement is reduced to less than half."""
    at = smooth_path(40)
    noise = np.random.default_rng(1).normal(0, 0.3, at.shape)
    found = fit(even(40, 1 / 0.09), at + noise, np.arange(40) * 1.2)
    noise -= noise.mean(axis=0)
    assert np.sqrt(np.square(found.shifts - at).mean()) < 0.5 * noise.std()


@pytest.mark.parametrize("precision", [0.0, 0.1, 10.0, 1e4])
def test_measurement_and_prior_share_the_decision(precision: float) -> None:
    """The numbers that the measurement decides are between none and all, and more the better it is."""
    n = 16
    found = fit(even(n, precision), smooth_path(n), np.arange(n) * 1.2)
    assert -1e-9 <= found.n_determined <= 2 * n
    if precision:
        worse = fit(even(n, precision / 20), smooth_path(n), np.arange(n) * 1.2)
        assert worse.n_determined < found.n_determined
    else:
        assert found.n_determined == 0
        np.testing.assert_allclose(found.shifts, 0, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 16, 120])
@pytest.mark.parametrize("gap", [0.01, 0.3, 8.0])
@pytest.mark.parametrize("precision", [0.0, 1e-9, 1e-3])
def test_a_measurement_that_says_nothing_gives_no_path(n: int, gap: float, precision: float) -> None:
    """However close the frames are: a path of the prior's size at most, and no error of linear algebra."""
    found = fit(even(n, precision), np.linspace([1.0, -1.0], [-1.0, 1.0], n), gap * np.arange(n))
    assert np.abs(found.shifts).max() <= 1.0
    assert 0 <= found.n_determined < 2 * n
    assert (np.linalg.eigvalsh(found.covariance) > 0).all()


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_covariance_is_honest(noise: float) -> None:
    """Over many measured paths the squared error is what the covariance says, within a factor of 1.6."""
    n, seeds = 24, 12
    moments = np.arange(n) * 1.2
    squares, expected = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        t = moments[:, None]
        at = rng.normal(0, 1, 2) * (1 - np.exp(-t / 4.5)) + rng.normal(0, 0.05, 2) * t
        at = at - at.mean(axis=0)
        found = fit(even(n, noise**-2), at + rng.normal(0, noise, at.shape), moments)
        squares.append(np.square(found.shifts - at).mean())
        variance = np.diag(found.covariance) - found.covariance.mean()
        expected.append(variance.mean())
    assert 1 / 1.6 < np.mean(squares) / np.mean(expected) < 1.6


def test_settled_strengths_are_taken_as_they_are() -> None:
    """Once settled, the same strengths go out that came in, and give the same path."""
    at = smooth_path(20) + np.random.default_rng(2).normal(0, 0.1, (20, 2))
    fisher, moments = even(20, 100.0), np.arange(20) * 1.2
    first = fit(fisher, at, moments)
    again = fit_path(fisher, fisher @ at, moments, angstrom=4.0, strengths=first.strengths, settled=True)
    np.testing.assert_array_equal(again.strengths, first.strengths)
    np.testing.assert_allclose(again.shifts, first.shifts, atol=1e-9)


def test_the_unit_of_length_does_not_matter() -> None:
    """The same path in pixels of half the size has shifts of twice as many."""
    at = smooth_path(20) + np.random.default_rng(3).normal(0, 0.1, (20, 2))
    moments = np.arange(20) * 1.2
    coarse = fit(even(20, 100.0), at, moments, angstrom=4.0)
    fine = fit_path(
        even(20, 25.0),
        25 * 2 * (at - at.mean(axis=0)),
        moments,
        angstrom=2.0,
        strengths=coarse.strengths,
        settled=True,
    )
    np.testing.assert_allclose(fine.shifts, 2 * coarse.shifts, atol=1e-6)
    np.testing.assert_allclose(np.diag(fine.covariance)[:3], 4 * np.diag(coarse.covariance)[:3], rtol=0.01)


KNOTS = np.cumsum(np.linspace(1, 3, 12))


def test_local_paths_have_mean_zero() -> None:
    """And there is one fewer than knots."""
    basis = path_basis(KNOTS)
    assert basis.shape == (12, 11)
    np.testing.assert_allclose(basis.mean(axis=0), 0, atol=1e-12)
    assert np.linalg.matrix_rank(basis) == 11


def test_local_motion_slows_down_and_keeps_its_direction() -> None:
    """Speed falls as 1 / (1 + dose / 6); a tenth of the variance is independent, the rest correlates over 20 e/Å²."""
    increments = np.diff(path_basis(KNOTS), axis=0)
    covariance = increments @ increments.T
    gaps, middle = np.diff(KNOTS), (KNOTS[1:] + KNOTS[:-1]) / 2
    way = gaps / (1 + (middle - KNOTS[0]) / 6)
    steady = np.outer(way, way) / np.square(way).mean() * np.exp(-np.abs(middle[:, None] - middle) / 20)
    np.testing.assert_allclose(covariance, 0.9 * steady + 0.1 * np.diag(way) / way.mean(), atol=1e-9)
    assert np.trace(covariance) / 11 == pytest.approx(1)


@pytest.mark.parametrize("n", [2, 3])
def test_local_paths_of_few_knots(n: int) -> None:
    """Two knots have one path: apart by one unit."""
    basis = path_basis(KNOTS[:n])
    assert basis.shape == (n, n - 1)
    if n == 2:
        np.testing.assert_allclose(basis[:, 0], [-0.5, 0.5])
