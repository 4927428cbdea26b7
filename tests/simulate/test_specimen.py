"""Apoferritin: symmetry, atoms, scattering, projected potential."""

import gzip

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from komad.simulate.specimen import (
    POTENTIAL_V_ANGSTROM2,
    contrast_factor,
    ferritin_subunit,
    molecule,
    octahedral_rotations,
    potential_spectra,
    scattering_factor,
)


def test_octahedral_rotations_form_a_group_of_24():
    """The 24 matrices are different proper rotations, and the product of any two is one of them."""
    rotations = octahedral_rotations()
    keys = {rotation.tobytes() for rotation in rotations + 0.0}
    assert len(keys) == 24
    assert np.allclose(np.linalg.det(rotations), 1.0)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 3, 3) + 0.0
    assert {product.astype(np.float32).tobytes() for product in products} == keys


def test_symmetry_reproduces_the_deposited_24_mer(real_data):
    """The unique chain under the 24 rotations lies within 0.05 Å RMS of every chain that was deposited."""
    chains: dict[str, list[list[float]]] = {}
    with gzip.open(real_data / "structures" / "6z6u.pdb.gz", "rt") as lines:
        for line in lines:
            is_atom = line.startswith(("ATOM", "HETATM")) and line[17:20] != "HOH"
            if is_atom and line[76:78].strip() in {"C", "N", "O", "S"}:
                xyz = [float(line[start : start + 8]) for start in (30, 38, 46)]
                chains.setdefault(line[21], []).append(xyz)
    deposited = np.array(list(chains.values()))
    assert deposited.shape == (24, 1358, 3)
    deposited -= deposited.mean(axis=(0, 1))
    ours = molecule("apoferritin").positions_angstrom.reshape(24, 1358, 3)
    # The entry's own axes are four-fold axes already, to 0.02 degrees, but may be named differently.
    remaining = list(range(24))
    for chain in deposited:
        rms = [np.sqrt(np.square(ours[i] - chain).sum(axis=1).mean()) for i in remaining]
        best = int(np.argmin(rms))
        turn, _ = Rotation.align_vectors(chain, ours[remaining[best]])
        assert np.degrees(turn.magnitude()) < 0.1
        assert rms[best] < 0.05
        remaining.pop(best)


def test_molecules_have_the_size_of_ferritin():
    """The 24-mer is a shell of about 65 Å outer radius, hollow inside; a chain has 1358 atoms around the origin."""
    radius = np.linalg.norm(molecule("apoferritin").positions_angstrom, axis=1)
    assert len(radius) == 24 * 1358
    assert 60 < radius.max() < 70
    assert radius.min() > 30
    chain = molecule("chain")
    assert len(chain.elements) == len(ferritin_subunit().elements) == 1358
    assert np.allclose(chain.positions_angstrom.mean(axis=0), 0, atol=1e-3)
    assert chain.diameter_angstrom < 70


@pytest.mark.parametrize(
    ("element", "at_zero"), [("H", 0.529), ("C", 2.509), ("N", 2.211), ("O", 1.983), ("S", 5.161)]
)
def test_scattering_factors_at_zero_angle(element, at_zero):
    """Factors at zero angle are those of the tables for neutral atoms, and fall with frequency."""
    factors = scattering_factor(element, np.array([0.0, 0.2, 0.5]))
    assert factors[0] == pytest.approx(at_zero, abs=0.005)
    assert factors[0] > factors[1] > factors[2] > 0


def test_displaced_ice_weakens_coarse_detail_only():
    """Ice takes away about half the contrast at zero frequency and nothing at 1/2 Å."""
    for element in "CNO":
        zero, fine = (contrast_factor(element, np.array([k]))[0] for k in (0.0, 0.5))
        full_zero = (scattering_factor(element, np.zeros(1)) + scattering_factor("H", np.zeros(1)))[0]
        full_fine = (scattering_factor(element, np.array([0.5])) + scattering_factor("H", np.array([0.5])))[0]
        assert 0.3 * full_zero < zero < 0.6 * full_zero
        assert fine == pytest.approx(full_fine, rel=0.02)


def test_potential_is_the_sum_over_atoms():
    """The gridded spectrum agrees with the direct sum over atoms, phases included, to 1 percent up to 0.3 cycles/px."""
    box, pixel = 96, 1.1
    spectrum = potential_spectra("chain", 2, box, pixel)[1]
    rotation = Rotation.from_quat(np.random.default_rng(0).normal(size=(2, 4))).as_matrix()[1]
    atoms = molecule("chain")
    yx = (atoms.positions_angstrom @ rotation.T)[:, :2] + box // 2 * pixel
    for iy, ix in ((0, 0), (3, 5), (-7, 2), (20, 18), (-25, 10)):
        k = np.array([iy, ix]) / (box * pixel)
        direct = sum(
            contrast_factor(element, np.array([np.hypot(*k)]))[0]
            * np.exp(-2j * np.pi * yx[atoms.elements == element] @ k).sum()
            for element in "CNOS"
        )
        direct *= POTENTIAL_V_ANGSTROM2 / pixel**2
        scale = np.sqrt(1358) * POTENTIAL_V_ANGSTROM2 / pixel**2  # what independent atoms add up to
        assert abs(spectrum[iy, ix] - direct) < 0.01 * abs(direct) + 0.01 * scale


def test_contrast_of_apoferritin_is_that_of_a_weak_phase_object():
    """Seen through 120 Å of protein in ice, the phase at 300 kV is about a tenth of a radian, as in experiments."""
    picture = np.fft.irfft2(potential_spectra("apoferritin", 1, 256, 1.0)[0])
    inside = picture[np.hypot(*(np.indices((256, 256)) - 128)) < 60]
    assert 0.03 < 6.53e-4 * inside.mean() < 0.2
