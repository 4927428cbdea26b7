"""The power of the gain: equations 9 to 11 of McLeod et al. (2017)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad.detector.gamma import fit_gamma, fit_power_linear, gamma_of, power_linear
from komad.errors import ParameterError

K2 = (0.12, -1.04, -0.0336, 1.04)
"""As published."""


@pytest.mark.parametrize(
    ("setting", "rate", "gamma"),
    [
        ("off", None, 1.0),
        (0.9, None, 0.9),
        ("k2", 1.0, 0.12 - 0.0336 + 1.04),
        ("k2", 4.0, 0.12 * 4**-1.04 - 0.0336 * 4 + 1.04),
        ((0.0, 1.0, 0.1, 0.5), 3.0, 0.8),
        ("k2", 0.0, 1.0),
        ("k2", 1e-6, 4.0),
    ],
)
def test_power_of_a_movie(setting, rate: float | None, gamma: float) -> None:  # type: ignore[no-untyped-def]
    """Off is 1, a number stands for itself, four numbers are equation 11; without bounds it never is."""
    assert gamma_of(setting, rate) == pytest.approx(gamma, abs=6e-4)


@pytest.mark.parametrize("setting", ["k2", K2])
def test_a_power_that_needs_the_dose_rate(setting) -> None:  # type: ignore[no-untyped-def]
    """Without the time of a frame it is an error that names what to set."""
    with pytest.raises(ParameterError, match=r"acquisition\.frame_time_s"):
        gamma_of(setting, None)


def etching(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Gain of a sensor with diagonal sweeps, as it stays after thinning, and noise from pixel to pixel."""
    y, x = (np.arange(size)[:, None] / 512 for size in shape)
    sweeps = 0.06 * np.cos(2 * np.pi * (4 * y + 2.5 * x.T)) + 0.03 * np.cos(2 * np.pi * (3 * x.T - 2 * y))
    return np.exp(sweeps + 0.03 * np.random.default_rng(7).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("true", [0.75, 1.0, 1.4])
def test_fitted_power(true: float) -> None:
    """The power by which a flat exposure was made uneven is found, with counting noise and an uneven beam."""
    gain = etching((512, 600))
    slope = 1 + 0.05 * np.linspace(-1, 1, 512)[:, None]
    flat = np.random.default_rng(1).poisson(200 * slope * gain**-true).astype(np.float32)
    before = flat.copy()
    assert fit_gamma(flat, gain) == pytest.approx(true, abs=0.03)
    np.testing.assert_array_equal(flat, before)


def test_fitted_power_passes_over_bad_pixels() -> None:
    """Pixels without a gain or without a number count for nothing."""
    gain = etching((512, 512))
    flat = np.random.default_rng(1).poisson(200 * gain**-0.8).astype(np.float32)
    gain[100:140, :] = 0
    gain[5, 5], gain[6, 6], flat[7, 7] = np.nan, -1, np.inf
    assert fit_gamma(flat, gain) == pytest.approx(0.8, abs=0.03)


def test_a_power_that_cannot_be_fitted() -> None:
    """An even gain and an empty exposure say nothing."""
    gain = etching((256, 256))
    with pytest.raises(ParameterError, match="exposure is empty"):
        fit_gamma(np.zeros_like(gain), gain)
    with pytest.raises(ParameterError, match="even over patches of 64 pixels"):
        fit_gamma(np.full_like(gain, 40), np.ones_like(gain))


def test_fitted_power_linear() -> None:
    """The published numbers come back from powers at seven dose rates, also when these scatter a little."""
    rates = np.array([0.25, 0.5, 1, 2, 4, 7, 9])
    exact = power_linear(rates, *K2)
    assert fit_power_linear(rates, exact) == pytest.approx(K2, rel=1e-4)
    scattered = exact + np.random.default_rng(0).normal(0, 0.003, 7)
    np.testing.assert_allclose(power_linear(rates, *fit_power_linear(rates, scattered)), exact, atol=0.01)


@pytest.mark.parametrize(
    "rates", [[1, 2, 4, 8], [1, 1, 2, 2, 3, 3], [5, 5.1, 5.2, 5.3, 5.4], [0, 1, 2, 3, 4]]
)
def test_too_few_dose_rates(rates: list[float]) -> None:
    """Fewer than five, too close together, or none: an error that says how many are needed."""
    with pytest.raises(ParameterError, match="at least 5 dose rates"):
        fit_power_linear(rates, [1.0] * len(rates))
