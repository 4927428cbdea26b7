"""Contrast transfer, detector transfer, radiation damage."""

import re

import numpy as np
import pytest

from komad.simulate.imaging import (
    damage,
    interaction_rad_per_v_angstrom,
    modulation_transfer,
    transfer,
)
from komad.simulate.spec import MovieSpec


@pytest.mark.parametrize(("voltage", "value"), [(100, 9.244e-4), (200, 7.288e-4), (300, 6.526e-4)])
def test_interaction_constant(voltage, value):
    """The interaction constant has its textbook value."""
    assert interaction_rad_per_v_angstrom(voltage) == pytest.approx(value, rel=1e-3)


def test_ctf_zeros_lie_where_the_closed_form_puts_them():
    """Without Cs and amplitude contrast the transfer changes sign at k = sqrt(n / (lambda z))."""
    spec = MovieSpec(
        ny=512, nx=512, cs_mm=0.0, amplitude_contrast=0.0, defocus_um=2.0, pixel_size_angstrom=1.0
    )
    box = 4096
    row = transfer(spec, (box, box))[0]
    crossings = np.flatnonzero(np.diff(np.sign(row[1:-1])) != 0) + 1.5
    wavelength = 0.0196875  # Å at 300 kV
    n = np.arange(1, 11)
    expected = np.sqrt(n / (wavelength * 2.0e4)) * box
    np.testing.assert_allclose(crossings[:10], expected, atol=1.0)


def test_underfocus_makes_protein_dark():
    """At low frequency a positive potential takes intensity away in underfocus and adds it in overfocus."""
    under, over = (
        transfer(MovieSpec(defocus_um=z, amplitude_contrast=0.0), (256, 256))[0, 3] for z in (1.5, -1.5)
    )
    assert under < 0 < over


def test_nyquist_lines_are_zero():
    """The lines whose phase is not defined under a sub-pixel shift are left out."""
    total = transfer(MovieSpec(), (64, 64))
    assert not total[32].any()
    assert not total[:, 32].any()


def test_envelope_follows_the_b_factor():
    """The ratio of two transfers with different B is the Gaussian of the difference."""
    spec = {"pixel_size_angstrom": 1.0}
    ratio = transfer(MovieSpec(b_factor_angstrom2=100.0, **spec), (64, 64))[3, 5]
    ratio /= transfer(MovieSpec(b_factor_angstrom2=20.0, **spec), (64, 64))[3, 5]
    k2 = (3**2 + 5**2) / 64**2
    assert ratio == pytest.approx(np.exp(-80.0 / 4 * k2), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "file"), [("k3", "mtf_k3_standard_300kV_FL2.star"), ("falcon4", "mtf_falcon4EC_300kV.star")]
)
def test_mtf_is_the_published_curve(name, file, real_data):
    """The tables in the package are the makers' curves."""
    rows = re.findall(r"^\s*([\d.]+)\s+([\d.]+)\s*$", (real_data / "mtf" / file).read_text(), re.MULTILINE)
    curve = np.array([row for row in rows if float(row[0]) <= 0.5], float)
    assert len(curve) > 30
    np.testing.assert_allclose(modulation_transfer(name, curve[:, 0]), curve[:, 1], atol=2e-4)


def test_damage_follows_the_critical_exposure():
    """Amplitudes fall as exp(-dose / (2 Nc(k))) with the dose at mid-frame, faster at 200 kV."""
    spec = MovieSpec(n_frames=10, dose_per_frame=2.0, pre_exposure=3.0, pixel_size_angstrom=1.0)
    k = 20 / 100
    critical = 0.245 * k**-1.665 + 2.81
    left = damage(spec, 100, 4)
    assert left[0, 20] == pytest.approx(np.exp(-12.0 / (2 * critical)), rel=1e-5)
    assert left[0, 0] == 1.0
    at_200 = damage(
        MovieSpec(n_frames=10, dose_per_frame=2.0, pre_exposure=3.0, pixel_size_angstrom=1.0, voltage_kv=200),
        100,
        4,
    )
    assert at_200[0, 20] == pytest.approx(np.exp(-12.0 / (2 * 0.8 * critical)), rel=1e-5)
