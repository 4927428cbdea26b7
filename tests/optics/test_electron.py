"""Wavelength and contrast transfer against textbook values."""

import numpy as np
import pytest

from komad.optics.electron import contrast_transfer, wavelength_angstrom


@pytest.mark.parametrize(("voltage", "expected"), [(100, 0.037014), (200, 0.025079), (300, 0.019687)])
def test_wavelength(voltage: float, expected: float) -> None:
    """The relativistic wavelength agrees with the tables."""
    assert wavelength_angstrom(voltage) == pytest.approx(expected, abs=1e-6)


def test_first_zero_without_aberration() -> None:
    """Without Cs and amplitude contrast the first zero lies where lambda z k^2 = 1."""
    zero = np.sqrt(1 / (wavelength_angstrom(300) * 15000))
    args = {"defocus_angstrom": 15000, "voltage_kv": 300, "cs_mm": 0.0, "amplitude_contrast": 0.0}
    before, at, after = contrast_transfer(np.array([0.99, 1.0, 1.01]) * zero, **args)
    assert before < 0 < after
    assert at == pytest.approx(0, abs=1e-9)


def test_zero_frequency_is_the_amplitude_contrast() -> None:
    """At zero frequency the transfer is minus the amplitude contrast."""
    at_zero = contrast_transfer(
        np.zeros(1), defocus_angstrom=15000, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1
    )
    assert at_zero[0] == pytest.approx(-0.1)
