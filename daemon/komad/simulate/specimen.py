"""Apoferritin from its atoms: positions, scattering, projected potential.

Independent-atom model: electron scattering factors of Peng, Ren, Dudarev & Whelan (1996) Acta Cryst. A52, 257-276 (five
Gaussians), one bound hydrogen per heavy atom (a protein's average), minus the ice that each atom displaces (a Gaussian
of the atom's volume, as in Fraser, MacRae & Suzuki (1978) J. Appl. Cryst. 11, 693-694).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.spatial.transform import Rotation

from komad.arrays import thread_pool
from komad.optics.frequency import rfft_frequency, rfft_radius

FloatArray = npt.NDArray[np.floating[Any]]

POTENTIAL_V_ANGSTROM2 = 47.87801
"""h²/(2 pi m e): volume integral of the potential per Å of scattering factor, V Å²."""
ATOM_VOLUME_ANGSTROM3 = 17.2
"""Per heavy atom with its hydrogen, from 1.21 Å³/Da."""
ICE_MOLECULES_PER_ANGSTROM3 = 0.031
"""Vitreous ice of 0.93 g/cm³."""

# Peng et al. (1996), table 1: f(k) = sum of a exp(-b k²/4), a in Å, b in Å².
PENG = {
    "H": ((0.0349, 0.1201, 0.1970, 0.0573, 0.1195), (0.5347, 3.5867, 12.3471, 18.9525, 38.6269)),
    "C": ((0.0893, 0.2563, 0.7570, 1.0487, 0.3575), (0.2465, 1.7100, 6.4094, 18.6113, 50.2523)),
    "N": ((0.1022, 0.3219, 0.7982, 0.8197, 0.1715), (0.2451, 1.7481, 6.1925, 17.3894, 48.1431)),
    "O": ((0.0974, 0.2921, 0.6910, 0.6990, 0.2039), (0.2067, 1.3815, 4.6943, 12.7105, 32.4726)),
    "S": ((0.2497, 0.5628, 1.3899, 2.1865, 0.7715), (0.2681, 1.6711, 7.0267, 19.5377, 50.3888)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Molecule:
    """Atoms without hydrogens, centred on the origin."""

    elements: npt.NDArray[np.str_]
    """(n_atoms,) 'C', 'N', 'O' or 'S'."""
    positions_angstrom: npt.NDArray[np.float32]
    """(n_atoms, 3)."""

    @property
    def diameter_angstrom(self) -> float:
        """Of the smallest centred sphere around all atoms."""
        return 2.0 * float(np.linalg.norm(self.positions_angstrom, axis=1).max())


def octahedral_rotations() -> npt.NDArray[np.float32]:
    """(24, 3, 3): the rotations that turn a cube into itself, four-fold axes along x, y and z."""
    matrices = [
        np.diag(signs)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    return np.array([matrix for matrix in matrices if np.linalg.det(matrix) > 0], np.float32)


@cache
def ferritin_subunit() -> Molecule:
    """One chain of PDB entry 6Z6U where it sits in the 24-mer (the only molecule here that is not centred)."""
    text = (resources.files("komad.simulate") / "structure" / "ferritin_chain_6z6u.txt").read_text("utf-8")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return Molecule(
        elements=np.array([row[0] for row in rows]),
        positions_angstrom=np.array([row[1:] for row in rows], np.float32),
    )


@cache
def molecule(name: str) -> Molecule:
    """Return 'apoferritin', the 24-mer, or 'chain', one subunit of it (20 kDa)."""
    subunit = ferritin_subunit()
    positions = subunit.positions_angstrom
    if name == "chain":
        return Molecule(elements=subunit.elements, positions_angstrom=positions - positions.mean(axis=0))
    rotations = octahedral_rotations()
    return Molecule(
        elements=np.tile(subunit.elements, len(rotations)),
        positions_angstrom=np.einsum("sij,nj->sni", rotations, positions).reshape(-1, 3),
    )


def scattering_factor(element: str, frequency: FloatArray) -> FloatArray:
    """Electron scattering factor (Å) of a neutral atom at `frequency` (1/Å)."""
    amplitudes, widths = PENG[element]
    k2 = np.square(frequency) / 4.0
    return np.asarray(sum(a * np.exp(-b * k2) for a, b in zip(amplitudes, widths, strict=True)))


def contrast_factor(element: str, frequency: FloatArray) -> FloatArray:
    """Scattering factor (Å) of a heavy atom and its hydrogen in ice, less the ice they displace."""
    zero = np.zeros(1)
    water = float(scattering_factor("O", zero)[0] + 2 * scattering_factor("H", zero)[0])
    displaced = ATOM_VOLUME_ANGSTROM3 * ICE_MOLECULES_PER_ANGSTROM3 * water
    ball = np.exp(-np.pi * ATOM_VOLUME_ANGSTROM3 ** (2 / 3) * np.square(frequency))
    return scattering_factor(element, frequency) + scattering_factor("H", frequency) - displaced * ball


@cache
def potential_spectra(
    name: str, n_views: int, box: int, pixel_size_angstrom: float
) -> npt.NDArray[np.complex64]:
    """Spectra of the projected potential of a molecule in random views (the same ones for all movies).

    Returns
    -------
    (n_views, box, box // 2 + 1)
        `rfft2` of pictures in V Å with the molecule's centre at index box // 2. Read-only.
    """
    atoms = molecule(name)
    rotations = Rotation.from_quat(np.random.default_rng(0).normal(size=(n_views, 4))).as_matrix()
    k = rfft_radius((box, box)) / pixel_size_angstrom
    factors = {
        element: (POTENTIAL_V_ANGSTROM2 / pixel_size_angstrom**2 * contrast_factor(element, k)).astype(
            np.float32
        )
        for element in np.unique(atoms.elements)
    }

    def view(rotation: FloatArray) -> npt.NDArray[np.complex64]:
        yx = (atoms.positions_angstrom @ rotation.T.astype(np.float32))[:, :2] / pixel_size_angstrom
        spectrum = np.zeros(k.shape, np.complex64)
        for element, factor in factors.items():
            spectrum += factor * _point_spectrum(yx[atoms.elements == element], box)
        return spectrum

    spectra = np.stack(list(thread_pool().map(view, rotations)))
    spectra.setflags(write=False)
    return spectra


def _point_spectrum(yx: FloatArray, box: int) -> npt.NDArray[np.complex64]:
    """Transform of unit points at (y, x) from the centre.

    Spread by a quadratic B-spline on a grid twice as fine; its transform, sinc³, is divided out.
    """
    fine = 2 * box
    position = 2.0 * (yx + box // 2)
    nearest = np.rint(position).astype(np.int64)
    part = position - nearest
    weights = np.stack([(0.5 - part) ** 2 / 2, 0.75 - part**2, (0.5 + part) ** 2 / 2])
    grid = np.zeros(fine * fine)
    for dy, dx in itertools.product(range(3), repeat=2):
        index = (nearest[:, 0] + dy - 1) % fine * fine + (nearest[:, 1] + dx - 1) % fine
        grid += np.bincount(index, weights=weights[dy, :, 0] * weights[dx, :, 1], minlength=fine * fine)
    spectrum = scipy.fft.rfft2(grid.reshape(fine, fine).astype(np.float32), workers=1)
    half = box // 2
    spectrum = np.concatenate([spectrum[: box - half, : half + 1], spectrum[-half:, : half + 1]])
    ky, kx = rfft_frequency((box, box))
    return np.asarray(spectrum / (np.sinc(ky / 2) * np.sinc(kx / 2)) ** 3, np.complex64)
