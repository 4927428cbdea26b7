"""The pattern that stays with the detector: its likelihood, its power, and that it cannot hold a drift."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.motion import pattern
from komad.motion.global_shifts import refine
from komad.motion.pattern import Sums, fit_ratio, pulls
from komad.motion.weights import Weighting
from tests.motion.synthetic import Synthetic, draw, falling_q, grid, log_density

FloatArray = npt.NDArray[np.float64]

SMALL = grid(16, n_rings=4, low=0.1)
N_FRAMES = 5
PATH = np.array([[2.0, -1.0], [1.0, 0.5], [0.3, 0.2], [-1.0, 0.1], [-2.3, 0.2]])


def sums(made: Synthetic, shifts: FloatArray) -> Sums:
    """The sums that belong to these shifts."""
    spectra = made.spectra
    level = spectra.rings.picture(spectra.q)[None].astype(np.complex64)
    aligned, overlap = (
        kernels.aligned_sum(values, spectra.rings.ky, spectra.rings.kx, shifts[None])[0]
        for values in (spectra.values, level)
    )
    return Sums(aligned=aligned, plain=made.plain, overlap=overlap)


def small_movie(ratio: float) -> Synthetic:
    """Few frames of few coefficients, damaged."""
    return draw(
        SMALL,
        signal=np.array([3.0, 2.0, 1.0, 0.5]),
        noise=np.array([1.0, 1.5, 2.0, 1.2]),
        q=falling_q(N_FRAMES, SMALL),
        shifts=PATH,
        pattern=ratio,
        seed=3,
    )


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 5.0])
def test_likelihood_is_that_of_the_normal_distribution(ratio: float) -> None:
    """In every coefficient the three sums give the log density with covariance N + S a a^H + P 1 1^H."""
    made = small_movie(0.3)
    spectra, inside = made.spectra, made.spectra.rings.index >= 0
    parts = sums(made, PATH)
    a, u, c = (picture[inside].astype(complex) for picture in (parts.aligned, parts.plain, parts.overlap))
    ring = spectra.rings.index[inside]
    noise = made.found.noise[0][ring]
    snr = made.found.signal[0][ring] / noise
    gain = pattern._gain(
        ratio / N_FRAMES,
        snr,
        1 + snr * spectra.total_q[ring],
        N_FRAMES,
        np.square(np.abs(a)) / noise,
        np.square(np.abs(u)) / noise,
        (a.conj() * c * u).real / noise,
        np.square(np.abs(c)),
    )
    np.testing.assert_allclose(gain, log_density(made, PATH, ratio), atol=1e-4)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 5.0])
def test_pulls_are_the_slope_of_the_likelihood(ratio: float) -> None:
    """Frames pulled towards the specimen, less the pattern: finite differences of the normal log density agree."""
    made = small_movie(0.3)
    spectra = made.spectra
    at = PATH + np.random.default_rng(1).normal(0, 0.3, PATH.shape)
    specimen, static = pulls(ratio, sums(made, at), made.found, spectra)
    level = spectra.rings.picture(spectra.q)[None].astype(np.complex64)
    slope, held = (
        kernels.alignment_gradient(values, spectra.rings.ky, spectra.rings.kx, at[None], pull[None])[0]
        for values, pull in ((spectra.values, specimen), (level, static))
    )
    expected = np.empty_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-4
        rise = log_density(made, at + step, ratio).sum() - log_density(made, at - step, ratio).sum()
        expected[place] = rise / 2e-4
    np.testing.assert_allclose(slope - held, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(held).max() > 0.01 * np.abs(expected).max()


RINGS = grid(256, n_rings=32)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_power_of_the_pattern_is_found(ratio: float, seed: int) -> None:
    """At known shifts, to about the step of the powers that are tried."""
    shifts = np.linspace([4, -2], [-4, 2], 12)
    made = draw(RINGS, signal=0.1, q=falling_q(12, RINGS), shifts=shifts, pattern=ratio, seed=seed)
    found = fit_ratio(sums(made, shifts), made.found, made.spectra)
    assert found == pytest.approx(ratio, rel=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_where_there_is_no_pattern_hardly_any_is_found(seed: int) -> None:
    """At most what chance allows: a fiftieth of the noise."""
    shifts = np.linspace([4, -2], [-4, 2], 12)
    made = draw(RINGS, signal=0.1, q=falling_q(12, RINGS), shifts=shifts, seed=seed)
    assert fit_ratio(sums(made, shifts), made.found, made.spectra) < 0.02


def drift_slope(ratio: float, drift: float, seed: int) -> float:
    """Measured over true drift of a weak movie that drifts by `drift` small pixels; the search left a fifth of it."""
    n = 24
    shifts = np.linspace([drift / 2, -drift / 4], [-drift / 2, drift / 4], n)
    signal = 0.2 * np.exp(-8 * RINGS.frequency)
    made = draw(RINGS, signal=signal, q=falling_q(n, RINGS), shifts=shifts, pattern=ratio, seed=seed)
    found = refine(
        made.spectra,
        made.plain,
        0.8 * shifts,
        moments=np.arange(n) * 1.2,
        weighting=Weighting(kind="optimal", b_factor_angstrom2=500.0, small_pixel=4.0),
        trusted=True,
        max_rounds=12,
        tolerance=0.002,
    )
    return float(np.vdot(found.shifts, shifts) / np.vdot(shifts, shifts))


@pytest.mark.parametrize(
    ("ratio", "drift"), [(0.0, 3.0), (0.05, 3.0), (0.3, 3.0), (0.3, 6.0), (1.0, 3.0), (1.0, 6.0)]
)
def test_a_drift_is_not_held_by_the_pattern(ratio: float, drift: float) -> None:
    """The mean over movies of measured over true drift is within 5 % of one."""
    assert np.mean([drift_slope(ratio, drift, seed) for seed in range(3)]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("ratio", "drift"), [(0.3, 3.0), (1.0, 6.0)])
def test_a_pattern_that_is_ignored_holds_the_drift(
    ratio: float, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model is for: without it a tenth of the drift and more is lost."""
    monkeypatch.setattr(pattern, "fit_ratio", lambda *_: 0.0)
    assert np.mean([drift_slope(ratio, drift, seed) for seed in range(3)]) < 0.9
