"""Sums and spectrum against exact Fourier filters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.micrograph import Sums, correct_frames, power_spectrum
from komad.micrograph.correct import fourier_crop, output_shape
from komad.optics.exposure import dose_weights, factorise, signal_left

SHAPE = (192, 256)


def still_sums(frames: npt.NDArray[np.uint8], *, dose: float | None = None, bin_factor: float = 1.0) -> Sums:
    """Sums of frames that do not move."""
    n = len(frames)
    nodes = [len(positions) for positions in kernels.node_positions(SHAPE)]
    frequency = np.linspace(0, 0.71, 1024)
    weights = None
    if dose:
        q = signal_left(frequency, dose * np.arange(1, n + 1), voltage_kv=300)
        weights = factorise(dose_weights(q), frequency)
    return correct_frames(
        frames,
        np.ones(SHAPE, np.float32),
        np.zeros(SHAPE, np.float32),
        kernels.plan_outliers(np.zeros((0, 2), np.int32), SHAPE),
        shifts_px=np.zeros((n, *nodes, 2), np.float32),
        used=np.ones(n, bool),
        weights=weights,
        even_odd=True,
        bin_factor=bin_factor,
    )


def counts(n: int = 20) -> npt.NDArray[np.uint8]:
    """Plain counts."""
    return np.random.default_rng(0).poisson(2, (n, *SHAPE)).astype(np.uint8)


def test_dose_weighted_sum_equals_the_filter_of_each_frame() -> None:
    """The low-rank sum equals filtering every frame by its own weight and adding, to 1e-4 of its spread."""
    frames, dose = counts(), 2.0
    ky, kx = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None, :]
    radius = np.hypot(ky, kx)
    q = signal_left(radius.ravel(), dose * np.arange(1, 21), voltage_kv=300)
    weights = dose_weights(q).reshape(20, *radius.shape)
    exact = np.fft.irfft2((weights * np.fft.rfft2(frames)).sum(axis=0), s=SHAPE)
    weighted = still_sums(frames, dose=dose).dose_weighted
    assert weighted is not None
    assert np.abs(weighted - exact).max() < 1e-3 * exact.std()


def test_even_and_odd_add_up_to_the_whole() -> None:
    """Even frames counted from 1 are indices 1, 3, 5; both halves together are the unweighted sum."""
    frames = counts(5)
    sums = still_sums(frames)
    assert sums.even is not None
    assert sums.odd is not None
    np.testing.assert_allclose(sums.even, frames[1::2].sum(axis=0), atol=1e-4)
    np.testing.assert_allclose(sums.even + sums.odd, sums.unweighted, atol=1e-4)
    assert sums.dose_weighted is None


@pytest.mark.parametrize("bin_factor", [1.5, 2.0, 3.7])
def test_fourier_crop_keeps_a_wave_and_the_mean(bin_factor: float) -> None:
    """A plane wave below the new Nyquist frequency is the same wave on the coarser grid."""
    shape = output_shape(SHAPE, bin_factor)

    def wave(size: tuple[int, int]) -> npt.NDArray[np.float64]:
        y, x = np.arange(size[0]) / size[0], np.arange(size[1]) / size[1]
        return 5 + np.cos(2 * np.pi * (3 * y[:, None] - 7 * x[None, :]) + 0.3)

    np.testing.assert_allclose(
        fourier_crop(wave(SHAPE).astype(np.float32), bin_factor), wave(shape), atol=1e-5
    )


def test_binned_sums_share_one_size() -> None:
    """Every sum of a binned movie has the even size nearest to size / bin."""
    sums = still_sums(counts(4), dose=1.0, bin_factor=1.6)
    assert sums.dose_weighted is not None
    assert sums.even is not None
    assert sums.unweighted.shape == sums.dose_weighted.shape == sums.even.shape == (120, 160)
    assert sums.dose_weighted.mean() == pytest.approx(sums.unweighted.mean() / 2, rel=1e-3)


def test_spectrum_of_a_wave_peaks_at_its_frequency() -> None:
    """A wave of 10 Å period along y and none along x peaks 10 Å from the middle, along y."""
    pixel = 1.1
    y = np.arange(2048)[:, None] * pixel
    picture = (np.cos(2 * np.pi * y / 10) * np.ones((1, 1500))).astype(np.float32)
    spectrum, spectrum_pixel = power_spectrum(picture, pixel_size_angstrom=pixel)
    assert spectrum.shape == (512, 512)
    peak_y, peak_x = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert abs(peak_y - 256) == pytest.approx(512 * spectrum_pixel / 10, abs=0.6)
    assert peak_x == 256


def test_spectrum_of_noise_is_flat_and_symmetric() -> None:
    """White noise of unit spread has amplitude one everywhere, equal at opposite frequencies."""
    noise = np.random.default_rng(1).normal(size=(3000, 3000)).astype(np.float32)
    spectrum, _ = power_spectrum(noise, pixel_size_angstrom=1.4)
    assert np.sqrt(np.square(spectrum).mean()) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(spectrum[1:, 1:], spectrum[:0:-1, :0:-1], rtol=1e-5)


def test_small_and_coarse_pictures_have_a_spectrum_too() -> None:
    """A picture smaller than one tile is padded; the pixel size says where Nyquist is."""
    spectrum, pixel = power_spectrum(np.ones((200, 300), np.float32), pixel_size_angstrom=3.0)
    assert spectrum.shape == (512, 512)
    assert pixel == pytest.approx(3.0)
    assert np.isfinite(spectrum).all()
