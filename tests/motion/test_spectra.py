"""Rings, transforms, and signal and noise found again in spectra whose powers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.motion.spectra import (
    MAX_SIGNAL_SHARE,
    Statistics,
    aligned_power,
    make_rings,
    statistics,
    transform,
)
from tests.motion.synthetic import Synthetic, draw, falling_q, grid


def measured(made: Synthetic) -> Statistics:
    """Signal and noise at the true shifts."""
    spectra = made.spectra
    aligned = kernels.aligned_sum(spectra.values, spectra.rings.ky, spectra.rings.kx, made.shifts)
    return statistics(aligned_power(aligned, spectra), spectra)


def test_rings_leave_out_axes_low_band_and_corners() -> None:
    """Stripes of the detector lie on the axes, illumination is coarse, and beyond Nyquist of an axis it aliases."""
    rings = make_rings((48, 64), n_rings=12, low=0.08)
    ky, kx = np.meshgrid(np.fft.fftfreq(48), np.fft.rfftfreq(64), indexing="ij")
    radius = np.hypot(ky, kx)
    expected = (radius >= 0.08) & (radius < 0.5) & (ky != 0) & (kx != 0)
    np.testing.assert_array_equal(rings.index >= 0, expected)
    np.testing.assert_array_equal(rings.index[expected], np.floor(radius[expected] * 24))


def test_rings_know_their_mean_frequency_and_size() -> None:
    """So does the mean of a picture over them; an empty ring has its middle frequency and mean 0."""
    rings = make_rings((48, 64), n_rings=12, low=0.1)
    radius = np.hypot(rings.ky[:, None], rings.kx[None, :])
    for ring in range(12):
        inside = radius[rings.index == ring]
        assert rings.count[ring] == len(inside)
        if len(inside):
            assert rings.frequency[ring] == pytest.approx(inside.mean())
            assert rings.mean(radius)[ring] == pytest.approx(inside.mean())
    assert rings.count[0] == 0
    assert rings.frequency[0] == pytest.approx(0.25 / 12)
    assert rings.mean(radius)[0] == 0


def test_rings_of_a_lower_limit_keep_fewer_rows_and_columns() -> None:
    """What lies beyond the limit takes no memory; frequencies still belong to the full transform."""
    rings = make_rings((48, 64), n_rings=12, low=0.05, high=0.25)
    assert rings.index.shape == (25, 17)
    assert np.abs(rings.ky).max() == 0.25
    assert rings.kx.max() == 0.25
    assert np.hypot(*np.meshgrid(rings.ky, rings.kx, indexing="ij"))[rings.index >= 0].max() < 0.25


def frames_of_noise(seed: int = 0, shape: tuple[int, int, int] = (6, 96, 128)) -> npt.NDArray[np.float32]:
    """White noise of variance 9 around 100 that nobody may change."""
    frames = np.random.default_rng(seed).normal(100, 3, shape).astype(np.float32)
    frames.setflags(write=False)
    return frames


def test_transform_keeps_the_variance_of_white_noise() -> None:
    """Whatever the taper, in each window; frames are not changed, and coefficients without a ring are zero."""
    rings = make_rings((64, 64), n_rings=8, low=0.1)
    taper = np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)
    windows = [(slice(0, 64), slice(0, 64)), (slice(32, 96), slice(64, 128))]
    spectra = transform(frames_of_noise(), windows, taper, rings, np.ones((6, 8)), share=0.3)
    assert spectra.values.shape == (2, 6, 64, 33)
    assert np.average(spectra.power.mean(axis=0), weights=rings.count) == pytest.approx(9, rel=0.03)
    power = np.square(np.abs(spectra.values)).mean(axis=1)[:, rings.index >= 0].mean(axis=1)
    np.testing.assert_allclose(power, 9, rtol=0.05)
    assert not spectra.values[:, :, rings.index < 0].any()
    assert spectra.shape == (64, 64)


def test_transform_is_the_transform_of_the_tapered_window_times_q() -> None:
    """Of the right rows and columns, its mean taken off; power is taken before q."""
    frames, taper = frames_of_noise(), np.outer(np.hanning(48), np.hanning(64)).astype(np.float32)
    rings = make_rings((48, 64), n_rings=8, low=0.05, high=0.3)
    q = np.random.default_rng(4).uniform(0.3, 1, (6, 8))
    spectra = transform(frames, [(slice(10, 58), slice(30, 94))], taper, rings, q, share=1.0)
    part = frames[3, 10:58, 30:94].astype(float)
    full = np.fft.rfft2((part - part.mean()) * taper) / np.sqrt(np.square(taper).sum())
    kept = full[np.abs(np.fft.fftfreq(48)) <= 0.3][:, np.fft.rfftfreq(64) <= 0.3]
    expected = np.where(rings.index >= 0, kept * q[3][rings.index], 0)
    np.testing.assert_allclose(spectra.values[0, 3], expected, atol=1e-3)
    np.testing.assert_allclose(spectra.power[3], rings.mean(np.square(np.abs(kept))), rtol=1e-4)


def test_phases_alone_have_amplitude_one() -> None:
    """With `phase_only` every coefficient that takes part has amplitude q."""
    rings = make_rings((64, 64), n_rings=8, low=0.1)
    ones = np.ones((64, 64), np.float32)
    spectra = transform(
        frames_of_noise(),
        [(slice(0, 64), slice(0, 64))],
        ones,
        rings,
        np.full((6, 8), 0.5),
        share=1.0,
        phase_only=True,
    )
    np.testing.assert_allclose(np.abs(spectra.values)[:, :, rings.index >= 0], 0.5, rtol=1e-4)
    np.testing.assert_allclose(spectra.power[:, rings.count > 0], 1, rtol=1e-4)


def test_part_is_some_of_the_frames() -> None:
    """In values, power and damage alike; the whole is left as it was."""
    rings = grid()
    spectra = draw(rings, signal=1.0, q=falling_q(5, rings)).spectra
    part = spectra.part(np.array([3, 1]))
    np.testing.assert_array_equal(part.values, spectra.values[:, [3, 1]])
    np.testing.assert_array_equal(part.power, spectra.power[[3, 1]])
    np.testing.assert_array_equal(part.q, spectra.q[[3, 1]])
    np.testing.assert_allclose(part.total_q, spectra.q[3] ** 2 + spectra.q[1] ** 2)
    assert spectra.values.shape[1] == 5


def test_signal_and_noise_of_one_window_are_found() -> None:
    """A signal that falls with frequency, in frames that lose it to damage: within a tenth; the noise within 5 %."""
    rings = grid(192)
    signal = 2 * np.exp(-4 * rings.frequency)
    made = draw(rings, signal=signal, noise=1.5, q=falling_q(12, rings))
    found = measured(made)
    inner = slice(3, -1)  # the running mean over rings lacks a neighbour at the ends
    np.testing.assert_allclose(found.signal[0][inner], signal[inner], rtol=0.1)
    np.testing.assert_allclose(found.noise[0][inner], 1.5, rtol=0.05)


def test_where_there_is_no_signal_none_is_found() -> None:
    """Noise alone: what seems to be signal is a thousandth of it, the mean over rings and movies."""
    rings = grid()
    found = [measured(draw(rings, signal=0.0, q=np.ones((12, 16)), seed=seed)) for seed in range(6)]
    assert np.mean([np.average(one.signal[0], weights=rings.count) for one in found]) < 0.001
    np.testing.assert_allclose(
        [one.noise[0] @ rings.count / rings.count.sum() for one in found], 1, rtol=0.03
    )


def test_windows_have_as_much_signal_as_is_in_them() -> None:
    """From none to three times the mean: an empty window has hardly any, and the noise is that of all."""
    rings = grid(96)
    strength = np.array([0.0, 0.5, 1.0, 1.0, 0.5, 3.0])
    made = draw(rings, signal=3 * np.exp(-15 * rings.frequency), q=falling_q(10, rings), strength=strength)
    found = measured(made)
    share = found.signal @ rings.count / (made.found.signal[2] @ rings.count)
    assert share[0] < 0.05
    np.testing.assert_allclose(share[1:], strength[1:], rtol=0.06, atol=0.1)
    np.testing.assert_allclose(found.noise[:, rings.count > 100], 1, rtol=0.06)


def test_windows_have_a_noise_of_their_own() -> None:
    """Thick ice lets half of the electrons through: its window has half the noise, and as much signal as it shows."""
    rings = grid(96)
    signal = 3 * np.exp(-15 * rings.frequency)
    strength = np.array([1.0, 1.0, 2.0])
    made = draw(rings, signal=signal, q=np.ones((10, 16)), strength=strength)
    factor = np.array([1.0, 1.0, 0.5])
    values = made.spectra.values * np.sqrt(factor)[:, None, None, None].astype(np.float32)
    power = np.square(np.abs(values)).mean(axis=0)
    dark = replace(
        made.spectra,
        values=values,
        power=np.stack([rings.mean(frame) for frame in power]),
        level=factor / factor.mean(),
    )
    found = measured(replace(made, spectra=dark))
    np.testing.assert_allclose(found.noise @ rings.count / rings.count.sum(), factor, rtol=0.05)
    np.testing.assert_allclose(found.signal @ rings.count / (signal @ rings.count), 1, rtol=0.1)


def test_transform_tells_the_noise_level_of_each_window() -> None:
    """From what is fine: coarse structure in a window is no noise."""
    rings = make_rings((64, 64), n_rings=16, low=0.05)
    frames = frames_of_noise(shape=(6, 64, 192)).copy()
    frames[:, :, 128:] = (frames[:, :, 128:] - 100) * np.float32(0.5)
    wave = 20 * np.sin(2 * np.pi * 0.1 * (np.arange(64)[:, None] + np.arange(64)))
    frames[:, :, 64:128] += wave.astype(np.float32)
    windows = [(slice(0, 64), slice(x, x + 64)) for x in (0, 64, 128)]
    taper = np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)
    spectra = transform(frames, windows, taper, rings, np.ones((6, 16)), share=1.0)
    np.testing.assert_allclose(spectra.level, np.array([1, 1, 0.25]) / 0.75, rtol=0.05)


def test_one_window_cannot_outweigh_all_others() -> None:
    """Carbon with a hundred times the signal counts as MAX_SIGNAL_SHARE times the mean."""
    rings = grid(96)
    strength = np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 20.0])
    found = measured(draw(rings, signal=1.0, q=np.ones((10, 16)), strength=strength))
    share = found.signal[7] @ rings.count / (strength.mean() * rings.count.sum())
    assert share == pytest.approx(MAX_SIGNAL_SHARE, rel=0.05)


def test_weight_is_that_of_the_likelihood() -> None:
    """It is S / (N (Q S + N)), window by window and ring by ring."""
    rings = grid()
    made = draw(
        rings, signal=0.3 + rings.frequency, noise=2.0, q=falling_q(7, rings), strength=np.array([1.0, 2.0])
    )
    signal, noise = made.found.signal, made.found.noise
    total = sum(np.square(made.spectra.q[t]) for t in range(7))
    np.testing.assert_allclose(made.found.weight(made.spectra), signal / (noise * (total * signal + noise)))


def test_a_single_frame_has_no_signal() -> None:
    """One frame cannot tell signal from noise: all of it counts as noise."""
    rings = grid()
    made = draw(rings, signal=1.0, q=np.ones((1, 16)))
    found = measured(made)
    assert not found.signal.any()
    np.testing.assert_allclose(found.noise, made.spectra.power)
