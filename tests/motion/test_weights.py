"""Weights and the information in them, against simulated frames: what a likelihood promises, it must keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.motion.spectra import aligned_power
from komad.motion.weights import Weighting, fisher_information, log_likelihood
from tests.motion.synthetic import Synthetic, draw, falling_q, grid, log_density

FloatArray = npt.NDArray[np.float64]

RINGS = grid(32, n_rings=8, low=0.05)
N_FRAMES, N_DRAWS = 4, 400
SIGNAL = 2 * np.exp(-5 * RINGS.frequency)
SHIFTS = np.array([[1.5, -2.0], [0.5, 0.0], [0.0, 1.0], [-2.0, 1.0]])


def weighting(kind: Literal["optimal", "b_factor", "phase_only"], b_factor: float = 100.0) -> Weighting:
    """At 4 Å pixels."""
    return Weighting(kind=kind, b_factor_angstrom2=b_factor, small_pixel=4.0)


@pytest.fixture(scope="module")
def draws() -> Synthetic:
    """Many draws of the same powers, as so many windows."""
    q = falling_q(N_FRAMES, RINGS)
    return draw(RINGS, signal=SIGNAL, noise=1.5, q=q, shifts=SHIFTS, strength=np.ones(N_DRAWS), seed=4)


def gradients(made: Synthetic, weight: FloatArray, shifts: FloatArray) -> FloatArray:
    """(N_DRAWS, N_FRAMES, 2) slope of sum of w |A|² at the shifts."""
    spectra = made.spectra
    shifts = np.repeat(shifts[None], len(spectra.values), axis=0)
    aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, shifts)
    pull = aligned * spectra.rings.picture(weight)
    return kernels.alignment_gradient(spectra.values, spectra.rings.ky, spectra.rings.kx, shifts, pull)


def test_optimal_weight_is_that_of_the_likelihood(draws: Synthetic) -> None:
    """It is S / (N (Q S + N)), whatever the B-factor."""
    total_q = np.square(draws.spectra.q).sum(axis=0)
    expected = SIGNAL / (1.5 * (total_q * SIGNAL + 1.5))
    weight = weighting("optimal").weight(draws.found, draws.spectra)
    np.testing.assert_allclose(weight, np.broadcast_to(expected, weight.shape))


@pytest.mark.parametrize("kind", ["b_factor", "phase_only"])
def test_b_factor_weights_fall_as_asked(draws: Synthetic, kind: Literal["b_factor", "phase_only"]) -> None:
    """As exp(-B k²/2) on |A|², k in 1/Å, the same for all windows."""
    weight = weighting(kind).weight(draws.found, draws.spectra)
    k = draws.spectra.rings.frequency / 4.0
    np.testing.assert_allclose(
        weight / weight[:, :1], np.broadcast_to(np.exp(-50 * (k**2 - k[0] ** 2)), weight.shape)
    )


@pytest.mark.parametrize("kind", ["optimal", "b_factor"])
def test_information_is_the_mean_curvature(draws: Synthetic, kind: Literal["optimal", "b_factor"]) -> None:
    """Minus the second derivative by finite differences, the mean over draws, along y and along x: within 10 %."""
    weight = weighting(kind).weight(draws.found, draws.spectra)
    expected = fisher_information(weight, draws.found, draws.spectra)[0]
    step = 0.02
    for axis in (0, 1):
        measured = np.empty((N_FRAMES, N_FRAMES))
        for t in range(N_FRAMES):
            ahead, behind = SHIFTS.copy(), SHIFTS.copy()
            ahead[t, axis] += step
            behind[t, axis] -= step
            slope = gradients(draws, weight, ahead) - gradients(draws, weight, behind)
            measured[t] = -slope[:, :, axis].mean(axis=0) / (2 * step)
        np.testing.assert_allclose(measured, expected, atol=0.05 * np.diag(expected).min(), rtol=0.1)


def test_an_even_shift_of_all_frames_carries_no_information(draws: Synthetic) -> None:
    """Only motion can be seen: rows of the information add up to zero."""
    fisher = fisher_information(draws.found.weight(draws.spectra), draws.found, draws.spectra)
    assert fisher.shape == (N_DRAWS, N_FRAMES, N_FRAMES)
    np.testing.assert_allclose(fisher.sum(axis=2), 0, atol=1e-9 * fisher.max())


@pytest.mark.parametrize("kind", ["optimal", "b_factor"])
def test_slopes_scatter_as_the_information_says(
    draws: Synthetic, kind: Literal["optimal", "b_factor"]
) -> None:
    """At the true shifts their mean is zero and their variance the information; other weights are scaled for it."""
    weight = weighting(kind).weight(draws.found, draws.spectra)
    fisher = fisher_information(weight, draws.found, draws.spectra)[0]
    slopes = gradients(draws, weight, SHIFTS)
    for axis in (0, 1):
        found = np.cov(slopes[:, :, axis].T)
        assert np.trace(found) == pytest.approx(np.trace(fisher), rel=0.15)
        scatter = np.sqrt(np.diag(fisher) / N_DRAWS)
        assert (np.abs(slopes[:, :, axis].mean(axis=0)) < 4 * scatter).all()


def test_overlap_lessens_the_information(draws: Synthetic) -> None:
    """Coefficients that repeat each other count once."""
    weight = draws.found.weight(draws.spectra)
    half = replace(draws.spectra, share=0.5)
    np.testing.assert_allclose(
        fisher_information(weight, draws.found, half) * 2,
        fisher_information(weight, draws.found, draws.spectra),
    )


def test_values_are_laid_on_their_rings(draws: Synthetic) -> None:
    """Zero where a coefficient takes no part."""
    values = np.arange(1.0, 17.0).reshape(2, 8)
    picture = RINGS.picture(values)
    inside = RINGS.index >= 0
    np.testing.assert_array_equal(picture[:, inside], values[:, RINGS.index[inside]])
    assert not picture[:, ~inside].any()


def test_likelihood_is_that_of_the_normal_distribution() -> None:
    """Of all frames in all coefficients, with covariance N + S a a^H; that of noise alone is taken off."""
    made = draw(RINGS, signal=SIGNAL, noise=1.5, q=falling_q(N_FRAMES, RINGS), shifts=SHIFTS)
    spectra = made.spectra
    aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, SHIFTS[None])
    found = log_likelihood(aligned_power(aligned, spectra), made.found, spectra)
    assert found == pytest.approx(float(log_density(made, SHIFTS).sum()), rel=1e-4)


def test_likelihood_of_the_true_shifts_is_highest(draws: Synthetic) -> None:
    """Its mean over draws falls by half of the information times the square of an error, as a likelihood does."""
    spectra, found = draws.spectra, draws.found
    fisher = fisher_information(found.weight(spectra), found, spectra)[0]
    error = np.array([[0.1, 0.0], [0.0, 0.05], [0.0, 0.0], [-0.1, 0.0]])

    def likelihood(shifts: FloatArray) -> float:
        aligned = kernels.aligned_sum(
            spectra.values, spectra.rings.ky, spectra.rings.kx, np.repeat(shifts[None], N_DRAWS, axis=0)
        )
        return log_likelihood(aligned_power(aligned, spectra), found, spectra) / N_DRAWS

    expected = 0.5 * np.einsum("td,tu,ud->", error, fisher, error)
    assert likelihood(SHIFTS) - likelihood(SHIFTS + error) == pytest.approx(expected, rel=0.2)
