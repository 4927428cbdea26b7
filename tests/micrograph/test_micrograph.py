"""Sums and spectrum against exact Fourier filters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.micrograph import Sums, correct_frames, group_sums, power_spectrum
from komad.micrograph.correct import fourier_crop, output_shape
from komad.micrograph.groups import groups_for_spectrum, successive_groups
from komad.micrograph.weights import DoseRange
from komad.model import outliers_at
from komad.optics.exposure import LowRankWeights, dose_weights, factorise, signal_left

SHAPE = (192, 256)


def low_rank(exposure: npt.NDArray[np.float64]) -> LowRankWeights:
    """Dose weights of frames with this exposure at 1 Å pixels."""
    frequency = np.linspace(0, 0.71, 1024)
    return factorise(dose_weights(signal_left(frequency, exposure, voltage_kv=300)), frequency)


def still_sums(
    frames: npt.NDArray[np.uint8],
    *,
    dose: float | None = None,
    bin_factor: float = 1.0,
    even_odd: bool = True,
    **asked: Any,
) -> Sums:
    """Sums of frames that do not move."""
    n = len(frames)
    nodes = [len(positions) for positions in kernels.node_positions(SHAPE)]
    return correct_frames(
        frames,
        np.ones(SHAPE, np.float32),
        np.zeros(SHAPE, np.float32),
        kernels.plan_outliers(outliers_at([]), SHAPE),
        shifts_px=np.zeros((n, *nodes, 2), np.float32),
        used=np.ones(n, bool),
        weights=low_rank(dose * np.arange(1, n + 1)) if dose else None,
        even_odd=even_odd,
        bin_factor=bin_factor,
        **asked,
    )


def exactly(
    frames: npt.NDArray[np.uint8],
    exposure: npt.NDArray[np.float64],
    part: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float64]:
    """Every frame filtered by its own weight, and those of `part` added."""
    radius = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None, :])
    weights = dose_weights(signal_left(radius.ravel(), exposure, voltage_kv=300))
    filtered = weights.reshape(len(frames), *radius.shape) * np.fft.rfft2(frames)
    return np.fft.irfft2(filtered[slice(None) if part is None else part].sum(axis=0), s=SHAPE)


def counts(n: int = 20) -> npt.NDArray[np.uint8]:
    """Plain counts."""
    return np.random.default_rng(0).poisson(2, (n, *SHAPE)).astype(np.uint8)


def test_dose_weighted_sum_equals_the_filter_of_each_frame() -> None:
    """The low-rank sum equals filtering every frame by its own weight and adding, to 1e-3 of its spread."""
    frames = counts()
    exact = exactly(frames, 2.0 * np.arange(1, 21))
    weighted = still_sums(frames, dose=2.0).dose_weighted
    assert weighted is not None
    assert np.abs(weighted - exact).max() < 1e-3 * exact.std()


def test_weighted_halves_are_the_parts_of_the_weighted_sum() -> None:
    """Each half has its own frames with the weights that they have in the whole, and both add up to it."""
    frames = counts(9)
    even = np.arange(1, 10) % 2 == 0
    sums = still_sums(frames, dose=2.0, even_odd_weighted=True)
    for half, part in ((sums.even_weighted, even), (sums.odd_weighted, ~even)):
        exact = exactly(frames, 2.0 * np.arange(1, 10), part)
        assert half is not None
        assert np.abs(half - exact).max() < 1e-3 * exact.std()
    np.testing.assert_allclose(sums.even_weighted + sums.odd_weighted, sums.dose_weighted, atol=1e-4)
    np.testing.assert_allclose(sums.even, frames[even].sum(axis=0), atol=1e-3)


def test_weighted_halves_without_the_plain_ones() -> None:
    """Either pair of halves can be had alone; without weights there are no weighted ones."""
    sums = still_sums(counts(4), dose=2.0, even_odd=False, even_odd_weighted=True)
    assert sums.even is None
    assert sums.even_weighted is not None
    assert still_sums(counts(4), even_odd_weighted=True).even_weighted is None


@pytest.mark.parametrize("dose", [None, 1.5])
def test_the_sum_of_a_dose_range_has_its_own_weights(dose: float | None) -> None:
    """Frames of the range are weighted among themselves, beside all other sums or without dose weighting."""
    frames = counts(12)
    part = np.isin(np.arange(12), [2, 3, 4, 5])
    exposure = 1.5 * np.arange(3, 7)
    dose_range = DoseRange(frames=part, weights=low_rank(exposure))
    sums = still_sums(frames, dose=dose, dose_range=dose_range)
    exact = exactly(frames[part], exposure)
    assert sums.dose_range is not None
    assert np.abs(sums.dose_range - exact).max() < 1e-3 * exact.std()
    np.testing.assert_allclose(sums.even, frames[1::2].sum(axis=0), atol=1e-3)


def test_a_sum_keeps_no_other_sum_in_memory() -> None:
    """No picture is a part of the array of all running sums."""
    sums = still_sums(counts(4), dose=1.0, even_odd_weighted=True)
    for picture in (sums.full, sums.even, sums.odd, sums.dose_weighted, sums.even_weighted):
        assert picture is not None
        assert picture.base is None or picture.base.size <= picture.size + 2 * SHAPE[0]


def test_group_sums_add_up_to_the_whole() -> None:
    """Each group is the sum of its frames; frames that belong to none are not in any."""
    frames = counts(7)
    used = np.array([True, False, True, True, True, True, False])
    groups = successive_groups(used, 2)
    assert [group.tolist() for group in groups] == [[0, 2], [3, 4], [5]]
    nodes = [len(positions) for positions in kernels.node_positions(SHAPE)]
    pictures = group_sums(
        frames,
        np.ones(SHAPE, np.float32),
        np.zeros(SHAPE, np.float32),
        kernels.plan_outliers(outliers_at([]), SHAPE),
        shifts_px=np.zeros((7, *nodes, 2), np.float32),
        groups=groups,
    )
    for picture, group in zip(pictures, groups, strict=True):
        np.testing.assert_allclose(picture, frames[group].sum(axis=0), atol=1e-4)


@pytest.mark.parametrize(("dose", "size"), [(1.2, 3), (0.1, 40), (9.0, 1)])
def test_groups_for_the_spectrum_have_about_four_electrons(dose: float, size: int) -> None:
    """As many frames as come nearest to 4 e/Å², one at least."""
    groups = groups_for_spectrum(np.ones(80, bool), dose * np.arange(1, 81))
    assert len(groups[0]) == size


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
    spectrum, spectrum_pixel = power_spectrum([picture], pixel_size_angstrom=pixel)
    assert spectrum.shape == (512, 512)
    peak_y, peak_x = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert abs(peak_y - 256) == pytest.approx(512 * spectrum_pixel / 10, abs=0.6)
    assert peak_x == 256


def test_spectrum_of_noise_is_flat_and_symmetric() -> None:
    """White noise of unit spread has amplitude one everywhere, equal at opposite frequencies."""
    noise = np.random.default_rng(1).normal(size=(3000, 3000)).astype(np.float32)
    spectrum, _ = power_spectrum([noise], pixel_size_angstrom=1.4)
    assert np.sqrt(np.square(spectrum).mean()) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(spectrum[1:, 1:], spectrum[:0:-1, :0:-1], rtol=1e-5)


def test_small_and_coarse_pictures_have_a_spectrum_too() -> None:
    """A picture smaller than one tile is padded; the pixel size says where Nyquist is."""
    spectrum, pixel = power_spectrum([np.ones((200, 300), np.float32)], pixel_size_angstrom=3.0)
    assert spectrum.shape == (512, 512)
    assert pixel == pytest.approx(3.0)
    assert np.isfinite(spectrum).all()


def test_powers_of_several_pictures_are_added() -> None:
    """Four independent pictures of unit noise have twice the amplitude of one."""
    rng = np.random.default_rng(3)
    pictures = (rng.normal(size=(1200, 1200)).astype(np.float32) for _ in range(4))
    spectrum, _ = power_spectrum(pictures, pixel_size_angstrom=1.4)
    assert np.sqrt(np.square(spectrum).mean()) == pytest.approx(2, abs=0.04)
