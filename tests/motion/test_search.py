"""The wide search: far motion is found, noise and the detector are not followed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad.config import Processing
from komad.motion import estimate_motion
from komad.motion.global_shifts import _highest, _window, search
from komad.motion.spectra import Rings, make_rings
from tests.motion.synthetic import draw, falling_q, grid
from tests.toy import rms_error

N_FRAMES = 16


def far_path(length: float) -> npt.NDArray[np.float64]:
    """(N_FRAMES, 2) motion that relaxes, mean 0; small pixels."""
    t = np.arange(N_FRAMES)[:, None]
    path = np.array([1.0, -0.6]) * length * (1 - np.exp(-t / 5))
    return np.asarray(path - path.mean(axis=0))


def searched(
    rings: Rings, path: npt.NDArray[np.float64], *, pattern: float = 0.0, strength: float = 1.0, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Shifts that are found within 160 Å."""
    signal = strength * np.exp(-20 * rings.frequency)
    made = draw(rings, signal=signal, q=falling_q(N_FRAMES, rings), shifts=path, pattern=pattern, seed=seed)
    return search(made.spectra, small_pixel=4.0, max_shift=40.0)


@pytest.mark.parametrize("length", [1.0, 8.0, 30.0])
@pytest.mark.parametrize("shape", [(256, 256), (192, 320), (512, 384)])
def test_near_and_far_motion_is_found(shape: tuple[int, int], length: float) -> None:
    """To a fraction of a pixel, also on a coarser grid of a picture that is not square."""
    path = far_path(length)
    rings = make_rings(shape, n_rings=32, low=0.02)
    assert rms_error(searched(rings, path), path) < 0.25


@pytest.mark.parametrize("pattern", [0.05, 0.3])
def test_a_pattern_does_not_stop_the_search(pattern: float) -> None:
    """What stays with the detector is neither followed nor taken for proof that nothing moved."""
    path = far_path(8.0)
    assert rms_error(searched(grid(256, n_rings=32, low=0.02), path, pattern=pattern), path) < 0.25


@pytest.mark.parametrize("seed", range(3))
def test_peaks_of_noise_are_not_believed(seed: int) -> None:
    """Frames without a specimen stay where they are, with a detector pattern or without."""
    rings = grid(128, n_rings=32, low=0.02)
    for pattern in (0.0, 0.3):
        assert not searched(rings, far_path(0.0), strength=0.0, pattern=pattern, seed=seed).any()


def test_motion_beyond_the_limit_is_not_searched_for() -> None:
    """No step of the search goes farther than the largest motion that is allowed."""
    rings = grid(256, n_rings=32, low=0.02)
    made = draw(
        rings, signal=np.exp(-20 * rings.frequency), q=falling_q(N_FRAMES, rings), shifts=far_path(30.0)
    )
    near = search(made.spectra, small_pixel=4.0, max_shift=3.0)
    assert rms_error(near, far_path(30.0)) > 3


def correlated(places: dict[tuple[int, int], float]) -> npt.NDArray[np.complex64]:
    """(32, 17) spectrum of a correlation that is zero but there."""
    picture = np.zeros((32, 32))
    for place, height in places.items():
        picture[place] = height
    return np.fft.rfft2(picture).astype(np.complex64)


def test_the_detectors_own_peak_is_passed_over() -> None:
    """While frames lie as the detector does, a peak at zero does not count; afterwards it does."""
    rings = grid(32, low=0.02)
    spectra = draw(rings, signal=1.0, q=np.ones((2, 16))).spectra
    window = _window((32, 32), 10.0)
    both = correlated({(0, 0): 5.0, (29, 4): 3.0})
    np.testing.assert_allclose(_highest(spectra, window, both[None], origin=False), [[-3, 4]], atol=1e-4)
    np.testing.assert_allclose(_highest(spectra, window, both[None], origin=True), [[0, 0]], atol=1e-4)


def test_the_top_of_a_peak_lies_between_pixels() -> None:
    """The parabola through a pixel and its neighbours; beyond the window nothing counts."""
    rings = grid(32, low=0.02)
    spectra = draw(rings, signal=1.0, q=np.ones((2, 16))).spectra
    peak = {(6, 3): 4.0, (5, 3): 3.0, (7, 3): 1.0, (6, 2): 2.0, (6, 4): 3.0, (15, 15): 9.0}
    found = _highest(spectra, _window((32, 32), 10.0), correlated(peak)[None], origin=False)
    np.testing.assert_allclose(found, [[6 - 0.25, 3 + 1 / 6]], atol=1e-4)


@pytest.mark.parametrize(("n_frames", "length"), [(300, 96), (12, 258)], ids=["many frames", "cut to 256"])
def test_the_search_sees_every_row_it_needs(n_frames: int, length: int) -> None:
    """Neither many frames nor a length that is cut for the transform leaves the search rows of the spectrum short."""
    base = np.random.default_rng(3).poisson(4.0, (length + 80, length + 80)).astype(np.float32)
    y = np.round(np.linspace(0, 60, n_frames)).astype(int)
    x = np.round(np.linspace(40, 10, n_frames)).astype(int)
    small = np.stack([base[10 + b : 10 + b + length, a : a + length] for b, a in zip(y, x, strict=True)])
    motion = estimate_motion(
        small,
        used=np.ones(n_frames, bool),
        shape=(length, length),
        binning=1,
        pixel_size_angstrom=4.0,
        exposure=None,
        voltage_kv=None,
        processing=Processing(local_motion=False, max_shift_angstrom=400),
    )
    true = np.stack([y - y[0], x - x[0]], axis=1)
    np.testing.assert_allclose(motion.shifts_px, true, atol=0.5)
