"""Critical exposure, dose weights, low rank."""

import numpy as np
import pytest

from komad.errors import ParameterError
from komad.optics.exposure import (
    critical_exposure,
    dose_weights,
    factorise,
    signal_left,
    voltage_factor,
)


def test_critical_exposure_at_10_angstrom() -> None:
    """Nc(0.1/Å) = 0.245 * 10^1.665 + 2.81 at 300 kV, and 0.8 of that at 200 kV."""
    expected = 0.245 * 10**1.665 + 2.81
    assert critical_exposure(np.array([0.1]), voltage_kv=300)[0] == pytest.approx(expected)
    assert critical_exposure(np.array([0.1]), voltage_kv=200)[0] == pytest.approx(0.8 * expected)


@pytest.mark.parametrize(
    ("voltage", "factor"), [(100, 0.64), (120, 0.672), (200, 0.8), (250, 0.9), (300, 1.0)]
)
def test_voltage_factor_is_linear_between_measured_voltages(voltage: float, factor: float) -> None:
    """The factor is 0.64, 0.8, 1.0 at 100, 200, 300 kV and linear between."""
    assert voltage_factor(voltage) == pytest.approx(factor)


@pytest.mark.parametrize("voltage", [80, 400])
def test_other_voltages_are_refused(voltage: float) -> None:
    """Outside 100 to 300 kV the error says what to do."""
    with pytest.raises(ParameterError, match="dose_weighting = false"):
        voltage_factor(voltage)


def test_weights_keep_white_noise_white() -> None:
    """The squares of the weights over frames add up to one at every frequency; zero frequency is flat."""
    q = signal_left(np.linspace(0, 0.5, 50), 1.2 * np.arange(1, 41), voltage_kv=300)
    weights = dose_weights(q)
    np.testing.assert_allclose(np.square(weights).sum(axis=0), 1)
    np.testing.assert_allclose(weights[:, 0], 1 / np.sqrt(40))


@pytest.mark.parametrize(
    ("n_frames", "dose", "limit"), [(40, 1.2, 2e-5), (400, 0.1, 2e-5), (3, 10, 1e-7), (1, 1, 1e-7)]
)
def test_six_terms_are_enough(n_frames: int, dose: float, limit: float) -> None:
    """Six products reproduce the weights of any fractionation to 2e-5, the first one being the plain sum."""
    frequency = np.linspace(0, 0.7, 500)
    q = signal_left(frequency, dose * np.arange(1, n_frames + 1), voltage_kv=300)
    low_rank = factorise(dose_weights(q), frequency)
    rebuilt = low_rank.frame_coefficients.astype(float) @ low_rank.radial
    assert np.abs(rebuilt - dose_weights(q)).max() < limit
    assert (low_rank.frame_coefficients[:, 0] == 1).all()
