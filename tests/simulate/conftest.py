"""Shared by the tests of the simulator."""

from pathlib import Path

import numpy as np
import pytest

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """Folder of real files beside the checkout."""
    if not REAL_DATA.is_dir():
        pytest.skip("no real data beside the checkout")
    return REAL_DATA


def measure_displacement(
    moved: np.ndarray, reference: np.ndarray, largest_frequency: float = 0.2
) -> np.ndarray:
    """(y, x) by which `moved` lies further than `reference`: whole pixels by correlation, the rest by phase."""
    cross = np.fft.fft2(moved) * np.conj(np.fft.fft2(reference))
    correlation = np.fft.ifft2(cross).real
    peak = np.array(np.unravel_index(np.argmax(correlation), correlation.shape))
    size = np.array(moved.shape)
    whole = np.where(peak > size // 2, peak - size, peak).astype(float)
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in moved.shape), indexing="ij")
    rest = cross * np.exp(2j * np.pi * (ky * whole[0] + kx * whole[1]))
    inside = (np.hypot(ky, kx) < largest_frequency) & (np.hypot(ky, kx) > 0)
    k = np.stack([ky[inside], kx[inside]], axis=1)
    for _ in range(5):  # Newton steps on the phases' weighted sum of squares
        weight = np.abs(rest[inside])
        step = np.linalg.solve(k.T @ (weight[:, None] * k), k.T @ (weight * -np.angle(rest[inside]))) / (
            2 * np.pi
        )
        whole += step
        rest = rest * np.exp(2j * np.pi * (ky * step[0] + kx * step[1]))
    return whole
