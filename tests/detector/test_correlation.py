"""Correlated noise between frames."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from komad.detector import calibrate, frame_correlations, without_pattern
from komad.model import Pattern, outliers_at

SHAPE = (512, 640)
N_FRAMES = 20
NONE = outliers_at([])
PLAIN = calibrate(SHAPE, gain=None, dark=None)
ERROR = np.sqrt(2 / (SHAPE[0] * SHAPE[1])) / (N_FRAMES - 1)
"""Standard error for independent frames."""


def counts(mean, seed=0, n_frames=N_FRAMES):  # type: ignore[no-untyped-def]
    """(n_frames, ny, nx) Poisson counts."""
    return np.random.default_rng(seed).poisson(mean, (n_frames, *SHAPE)).astype(np.uint8)


def correlations(frames, *, calibration=PLAIN, outliers=NONE, koma=None):  # type: ignore[no-untyped-def]
    """After gain, outliers, KOMA."""
    return frame_correlations(frames, calibration, outliers, koma, fill="mean")


@pytest.mark.parametrize("mean", [0.1, 1.0, 8.0])
def test_independent_frames_have_none(mean: float) -> None:
    """Zero within its own small error, for sparse counts, too."""
    assert abs(correlations(counts(mean))[0]) < 3 * ERROR


@pytest.mark.parametrize(("spread", "mean"), [(0.03, 1.0), (0.1, 1.0), (0.05, 6.0)])
def test_a_fixed_pattern_has_what_follows_from_its_spread(spread: float, mean: float) -> None:
    """p² m / (1 + p² m); nothing is left when the pattern is taken off, one way or the other."""
    relative = (spread * np.random.default_rng(5).standard_normal(SHAPE)).astype(np.float32)
    frames = counts(mean * (1 + relative))
    pattern = Pattern(relative=relative, n_stacks=9, spread=spread, mean_e_per_px_frame=mean)
    expected = spread**2 * mean / (1 + spread**2 * mean)
    for method in ("subtract", "divide"):
        raw, filled, koma = correlations(frames, koma=without_pattern(PLAIN, pattern, method))
        assert raw == filled == pytest.approx(expected, abs=3 * ERROR + 0.01 * expected)
        assert abs(koma) < 3 * ERROR


def test_it_is_the_mean_of_equation_7_over_all_pairs() -> None:
    """The closed form equals the plain mean of Pearson's coefficient over all pairs of frames within a block."""
    shape = (32, 32)
    rng = np.random.default_rng(3)
    frames = rng.poisson(5 * (1 + 0.3 * rng.standard_normal(shape)).clip(0.1), (6, *shape)).astype(np.uint8)
    plain = calibrate(shape, gain=None, dark=None)
    pairs = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in combinations(frames, 2)]
    found = frame_correlations(frames, plain, NONE, None, fill="mean")[0]
    assert found == pytest.approx(np.mean(pairs), rel=0.01)


def test_illumination_and_large_features_have_no_part_in_it() -> None:
    """A beam that slopes by 30 %, and waves of 400 pixels of 10 % contrast, do not look like a detector's pattern."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    field = (1 + 0.15 * (x / SHAPE[1] - 0.5)) * (1 + 0.1 * np.sin(2 * np.pi * y / 400))
    assert field.var() > 0.005
    assert abs(correlations(counts(field))[0]) < 3 * ERROR + 2e-4


def test_the_outlier_filter_shows() -> None:
    """Hot pixels are what correlates; without them nothing does."""
    rng = np.random.default_rng(7)
    yx = np.unique(rng.integers(0, SHAPE, (1500, 2)), axis=0)
    expected = np.ones(SHAPE)
    expected[tuple(yx.T)] = 10
    raw, filled, koma = correlations(counts(expected), outliers=outliers_at(yx))
    assert raw > 0.2
    assert abs(filled) < 0.02 * raw
    assert koma == filled


def test_a_gain_takes_the_pattern_off() -> None:
    """Measured on corrected frames, not on raw ones."""
    response = 1 + 0.1 * np.random.default_rng(8).standard_normal(SHAPE)
    gain = (1 / response).astype(np.float32)
    assert abs(correlations(counts(response), calibration=calibrate(SHAPE, gain=gain, dark=None))[0]) < 1e-3
    assert correlations(counts(response))[0] > 0.008


def test_a_dark_frame_has_no_say() -> None:
    """Frames without beam, the first and the last, change nothing."""
    relative = (0.1 * np.random.default_rng(5).standard_normal(SHAPE)).astype(np.float32)
    frames = counts(1 + relative)
    dark = np.concatenate([np.zeros_like(frames[:2]), frames, np.zeros_like(frames[:1])])
    assert correlations(dark)[0] == pytest.approx(correlations(frames)[0], rel=1e-6)


@pytest.mark.parametrize(
    "frames",
    [
        counts(1.0, n_frames=1),
        np.full((4, *SHAPE), 3, np.uint8),
        np.full((4, *SHAPE), np.nan, np.float32),
        np.full((4, *SHAPE), 1e30, np.float32),
    ],
    ids=["one frame", "flat", "no numbers", "too large"],
)
def test_what_cannot_be_measured_is_no_number(frames: np.ndarray) -> None:
    """NaN, without a warning of NumPy's."""
    assert np.isnan(correlations(frames)).all()


def test_of_large_frames_a_part_is_enough() -> None:
    """A frame of 16 patches and more: the figure is that of the whole, as well as half a million pixels can tell."""
    shape = (1024, 2048)
    rng = np.random.default_rng(9)
    relative = 0.1 * rng.standard_normal(shape)
    frames = rng.poisson(1 + relative, (5, *shape)).astype(np.uint8)
    found = frame_correlations(frames, calibrate(shape, gain=None, dark=None), NONE, None, fill="mean")[0]
    assert found == pytest.approx(0.01 / 1.01, abs=3 * np.sqrt(2 / 2**19) / 4)
