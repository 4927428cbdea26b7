"""The running total, and the pattern that neighbours share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from komad.detector import RunningTotal, calibrate, measure_pattern, without_pattern
from komad.detector.koma import UNIT
from komad.errors import MovieError
from komad.model import ALL_FRAMES, OutlierPixels, Pattern, StackSum
from komad.simulate.scene import CARBON_DARKENING
from tests.detector.stacks import (
    N_FRAMES,
    SHAPE,
    as_stack,
    carbon,
    column_pattern,
    no_references,
    pixel_pattern,
    stack_of,
)

DOSE = 40.0


def total_of(stacks: list[StackSum]) -> RunningTotal:
    """Their sum."""
    total = RunningTotal(SHAPE)
    for stack in stacks:
        total.add(stack, no_references())
    return total


def random_outliers(seed: int) -> OutlierPixels:
    """Single pixels and clusters, whole and in part, and one hit in two frames."""
    rng = np.random.default_rng(seed)
    flat = np.sort(rng.choice(SHAPE[0] * SHAPE[1], 400, replace=False))
    flat[:9] = (np.arange(3)[:, None] * SHAPE[1] + np.arange(3)).ravel()
    yx = np.stack(np.divmod(np.sort(np.append(flat, flat[-1])), SHAPE[1]), axis=1).astype(np.int32)
    keep = rng.choice([0.0, 0.4], len(yx)).astype(np.float32)
    frame = np.full(len(yx), ALL_FRAMES, np.int32)
    frame[-2:] = [3, 7]
    return OutlierPixels(yx=yx, keep=keep, frame=frame)


def test_a_total_is_the_same_however_it_was_reached() -> None:
    """Added in another order, with others that came and went: equal to the last bit; gain, dark and outliers too."""
    rng = np.random.default_rng(0)
    calibration = calibrate(
        SHAPE,
        gain=rng.normal(1, 0.05, SHAPE).astype(np.float32),
        dark=rng.normal(0.1, 0.01, SHAPE).astype(np.float32),
    )
    stacks = [
        stack_of(DOSE * np.ones(SHAPE), seed, calibration=calibration, outliers=random_outliers(seed))
        for seed in range(6)
    ]
    straight, roundabout = RunningTotal(SHAPE), RunningTotal(SHAPE)
    for stack in stacks[2:5]:
        straight.add(stack, calibration)
    for index, sign in [(0, 1), (4, 1), (1, 1), (0, -1), (3, 1), (5, 1), (1, -1), (2, 1), (5, -1)]:
        (roundabout.add if sign > 0 else roundabout.subtract)(stacks[index], calibration)
    assert straight.n_stacks == roundabout.n_stacks == 3
    np.testing.assert_array_equal(straight.total, roundabout.total)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_a_total_is_the_corrected_sum_in_units_of_its_mean(dtype: type) -> None:
    """Gain times sum over mean; outliers mixed with the good ones of the 5 x 5 around them."""
    rng = np.random.default_rng(1)
    calibration = calibrate(SHAPE, gain=rng.normal(1, 0.05, SHAPE).astype(np.float32), dark=None)
    counts = rng.poisson(DOSE, SHAPE).astype(dtype)
    outliers = random_outliers(7)
    stack = as_stack(counts, calibration=calibration, outliers=outliers)
    total = RunningTotal(SHAPE)
    total.add(stack, calibration)
    expected = counts * calibration.gain.astype(float) / stack.facts.mean_e_per_px
    good = np.ones(SHAPE, bool)
    good[tuple(outliers.yx.T)] = False
    filled = expected.copy()
    for (y, x), keep, frame in zip(outliers.yx, outliers.keep, outliers.frame, strict=True):
        around = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        part = keep if frame == ALL_FRAMES else 0
        filled[y, x] = part * expected[y, x] + (1 - part) * (
            expected[around][good[around]].mean() if good[around].any() else 1
        )
    np.testing.assert_allclose(total.total / UNIT, filled, atol=2 / UNIT)


def test_values_that_are_no_numbers_do_no_harm() -> None:
    """Outliers that are NaN or infinite are filled, and a total can be had back."""
    values = np.random.default_rng(2).poisson(DOSE, SHAPE).astype(np.float32)
    yx = np.array([[3, 4], [100, 200]], np.int32)
    values[tuple(yx.T)] = np.nan, np.inf
    outliers = OutlierPixels(yx=yx, keep=np.zeros(2, np.float32), frame=np.full(2, ALL_FRAMES, np.int32))
    total = RunningTotal(SHAPE)
    stack = as_stack(values, outliers=outliers)
    total.add(stack, no_references())
    np.testing.assert_allclose(total.total[tuple(yx.T)] / UNIT, 1, atol=0.2)
    total.subtract(stack, no_references())
    assert not total.total.any()


@pytest.mark.parametrize("n_stacks", [1, 8, 24])
def test_the_scale_is_what_leaves_the_least_error(n_stacks: int) -> None:
    """p² / (p² + n² / M), the share of the pattern in the mean of M stacks; the noise of a column is small."""
    spread = 0.03
    response = DOSE * pixel_pattern(spread) * column_pattern(0.02)
    others = total_of([stack_of(response, seed) for seed in range(n_stacks)])
    pattern = measure_pattern(others, stack_of(response, 99), no_references())
    assert pattern is not None
    noise2 = (1 + spread**2) / DOSE
    assert pattern.scale["pixels"] == pytest.approx(spread**2 / (spread**2 + noise2 / n_stacks), abs=0.06)
    column_noise2 = np.pi / 2 * noise2 / SHAPE[0]  # of a median
    assert pattern.scale["columns"] == pytest.approx(0.02**2 / (0.02**2 + column_noise2 / n_stacks), abs=0.1)
    assert pattern.n_stacks == n_stacks
    assert pattern.spread == pytest.approx(float(pattern.relative.std()), rel=0.03)
    assert pattern.shared_spread == pytest.approx(np.hypot(spread, 0.02), rel=0.1)
    left = response / DOSE - 1 - pattern.relative
    best = spread**2 * noise2 / n_stacks / (spread**2 + noise2 / n_stacks)
    assert left.std() == pytest.approx(np.sqrt(best), rel=0.15)


def test_columns_and_rows_go() -> None:
    """A pattern of lines is taken off but for a tenth of its power, with columns that differ as banks of 48 do, too."""
    lines = column_pattern(0.02) * column_pattern(0.01, SHAPE[::-1]).T
    response = DOSE * (lines + 0.01 * (np.arange(SHAPE[1]) // 48 % 2))
    others = total_of([stack_of(response, seed) for seed in range(16)])
    pattern = measure_pattern(others, stack_of(response, 99), no_references())
    assert pattern is not None
    left = response / response.mean() - 1 - pattern.relative
    for axis in (0, 1):
        profile = response.mean(axis=axis) / response.mean()
        assert left.mean(axis=axis).var() < 0.15 * profile.var()


def test_a_perfect_gain_stays_perfect() -> None:
    """Nothing is shared but noise: nothing to speak of is taken off, and KOMA adds no noise of its own."""
    others = total_of([stack_of(DOSE * np.ones(SHAPE), seed) for seed in range(8)])
    pattern = measure_pattern(others, stack_of(DOSE * np.ones(SHAPE), 99), no_references())
    assert pattern is not None
    assert pattern.scale["pixels"] < 0.03
    assert pattern.spread < 0.002 < 0.1 / np.sqrt(DOSE * 8)
    assert abs(pattern.correlation) < 0.02


def test_another_detector_is_left_alone() -> None:
    """Neighbours whose pattern the movie does not show (the detector has changed) have no say."""
    others = total_of([stack_of(DOSE * pixel_pattern(0.05, seed=1), seed) for seed in range(8)])
    pattern = measure_pattern(others, stack_of(DOSE * pixel_pattern(0.05, seed=2), 99), no_references())
    assert pattern is not None
    assert pattern.spread < 0.003


@pytest.mark.parametrize("seed", range(3))
def test_a_hole_edge_at_the_same_place_in_every_movie_stays(seed: int) -> None:
    """Of the 15 % step of a hole's edge, 6 pixels wide, and of a slope of the beam, a few per cent are taken off.

    Without noise, so that all of the pattern is taken off, and nothing hides the edge.
    """
    shape = (512, 512)
    calibration = no_references(shape)
    film = (1 - carbon(seed, shape)) / CARBON_DARKENING
    scene = carbon(seed, shape) * np.linspace(0.9, 1.1, shape[1])
    response = pixel_pattern(0.03, shape) * column_pattern(0.02, shape)
    patterns = []
    for field in (scene * response, scene, response):
        stack = as_stack((DOSE * field).astype(np.float32))
        total = RunningTotal(shape)
        total.add(stack, calibration)
        pattern = measure_pattern(total, stack, calibration)
        assert pattern is not None
        patterns.append(pattern.relative)
    both, of_scene, of_response = patterns
    inner = np.s_[5:-5, 5:-5]
    at_edge = (film > 0.01) & (film < 0.99)
    effect = of_scene / CARBON_DARKENING
    assert np.abs(effect[inner]).max() < 0.09
    assert effect[at_edge].std() < 0.04
    assert effect[~at_edge].std() < 0.006
    assert of_response.std() > 0.9 * np.hypot(0.03, 0.02)
    np.testing.assert_allclose(
        both[inner], (of_response * scene / scene.mean())[inner], atol=0.15 * CARBON_DARKENING
    )


@pytest.mark.parametrize("width", [1, 6])
@pytest.mark.parametrize("slant", [0.0, 0.017])
@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_a_straight_edge_along_the_columns_stays(width: int, slant: float, spread: float) -> None:
    """A square hole's edge, at the same place in every movie, does not pass for columns of the detector.

    Columns away from it go as without it.
    """
    shape = (512, 512)
    y, x = np.mgrid[: shape[0], : shape[1]]
    film = scipy.ndimage.gaussian_filter(np.clip((x - 200 + slant * (y - 256)) / width, 0, 1), 0.6)
    response = column_pattern(spread, shape)
    patterns = []
    for field in ((1 - CARBON_DARKENING * film) * response, response):
        stack = as_stack((DOSE * field).astype(np.float32))
        total = RunningTotal(shape)
        total.add(stack, no_references(shape))
        pattern = measure_pattern(total, stack, no_references(shape))
        assert pattern is not None
        patterns.append(pattern.relative.mean(axis=0))
    with_edge, without = patterns
    difference = with_edge - without
    at_edge = np.abs(np.arange(shape[1]) - 200) < 48
    assert difference[at_edge].std() < 0.05 * CARBON_DARKENING + 0.5 * spread
    assert difference[~at_edge].std() < 0.15 * spread + 1e-4


def test_own_outliers_have_no_pattern() -> None:
    """What is replaced by its neighbours is not corrected a second time, however hot it is."""
    outliers = random_outliers(3)
    response = DOSE * pixel_pattern(0.05)
    hot = response.copy()
    hot[tuple(outliers.yx.T)] = 5000
    others = total_of([stack_of(response, seed) for seed in range(8)])
    pattern = measure_pattern(others, stack_of(hot, 99, outliers=outliers), no_references())
    plain = measure_pattern(others, stack_of(response, 99), no_references())
    assert pattern is not None
    assert plain is not None
    assert not pattern.relative[tuple(outliers.yx.T)].any()
    assert pattern.scale["pixels"] == pytest.approx(plain.scale["pixels"], abs=0.03)
    assert pattern.correlation == pytest.approx(plain.correlation, abs=0.03)


def test_nothing_to_compare_with() -> None:
    """Without neighbours, or without counts in the movie, there is no pattern."""
    flat = stack_of(DOSE * np.ones(SHAPE), 0)
    dark = as_stack(np.zeros(SHAPE, np.uint16))
    assert measure_pattern(RunningTotal(SHAPE), flat, no_references()) is None
    assert measure_pattern(total_of([flat]), dark, no_references()) is None


def test_what_does_not_belong_into_a_total_is_refused() -> None:
    """Another size, or no beam, is an error that says so."""
    total = RunningTotal(SHAPE)
    with pytest.raises(MovieError, match=r"320 x 256 pixels does not fit .* of 64 x 64"):
        RunningTotal((64, 64)).add(stack_of(DOSE * np.ones(SHAPE), 0), no_references())
    with pytest.raises(MovieError, match="no beam"):
        total.add(as_stack(np.zeros(SHAPE, np.uint16)), no_references())
    assert total.n_stacks == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (8, 8), (5, 2), (33, 65)])
def test_tiny_frames(shape: tuple[int, int]) -> None:
    """Frames smaller than the filters give a pattern of finite numbers."""
    calibration = no_references(shape)
    total = RunningTotal(shape)
    for seed in range(3):
        total.add(stack_of(DOSE * np.ones(shape), seed), calibration)
    pattern = measure_pattern(total, stack_of(DOSE * np.ones(shape), 9), calibration)
    assert pattern is not None
    assert pattern.relative.shape == shape
    assert np.isfinite(pattern.relative).all()


def test_frames_without_beam_do_not_dilute_the_mean() -> None:
    """The mean that the pattern is a fraction of is that of the frames with beam."""
    own = stack_of(DOSE * np.ones(SHAPE), 0)
    half_lit = replace(own, frame_means=np.repeat([0.0, 2.0], N_FRAMES // 2))
    for stack, mean in ((own, DOSE / N_FRAMES), (half_lit, 2 * DOSE / N_FRAMES)):
        pattern = measure_pattern(total_of([own]), stack, no_references())
        assert pattern is not None
        assert pattern.mean_e_per_px_frame == pytest.approx(mean, rel=1e-3)


def test_the_pattern_goes_into_the_references() -> None:
    """Subtract: frame * gain - pattern * mean. Divide: all of it by 1 + pattern; with a dark reference, too."""
    rng = np.random.default_rng(0)
    gain, dark, relative = (rng.normal(m, 0.1, SHAPE).astype(np.float32) for m in (1, 2, 0))
    calibration = calibrate(SHAPE, gain=gain, dark=dark)
    pattern = Pattern(relative=relative, n_stacks=3, spread=0.1, mean_e_per_px_frame=1.5)
    frame = rng.poisson(5, SHAPE)
    corrected = (frame - dark) * gain
    for method, expected in (
        ("subtract", corrected - 1.5 * relative),
        ("divide", corrected / (1 + relative)),
    ):
        folded = without_pattern(calibration, pattern, method)
        assert folded.gain.dtype == folded.offset.dtype == np.float32
        np.testing.assert_allclose(frame * folded.gain + folded.offset, expected, atol=1e-4)


def test_a_power_of_the_gain() -> None:
    """gain**gamma, eq. 9; the dark is taken off first, and gains that are not positive stay unusable."""
    gain = np.random.default_rng(0).uniform(0.5, 2, SHAPE).astype(np.float32)
    gain[3, 4], gain[5, 6] = 0, -1
    calibration = calibrate(SHAPE, gain=gain, dark=np.full(SHAPE, 2, np.float32), gamma=0.85)
    good = gain > 0
    np.testing.assert_allclose(calibration.gain[good], gain[good] ** 0.85, rtol=1e-5)
    np.testing.assert_allclose(calibration.offset[good], -2 * gain[good] ** 0.85, rtol=1e-5)
    assert calibration.n_invalid == 2
    assert not calibration.gain[~good].any()
