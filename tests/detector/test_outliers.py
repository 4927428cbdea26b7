"""Outlier pixels: which are found, which are not, and what stands in for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage

from komad import kernels
from komad.detector import calibrate, find_outliers
from komad.model import ALL_FRAMES, OutlierPixels

SHAPE = (256, 320)
Counts = npt.NDArray[np.generic]


def find(
    frames: Counts, *, gain=None, dark=None, defects=None, hot=None, dead=None, xray=12.0
) -> OutlierPixels:  # type: ignore[no-untyped-def]
    """Outliers of frames (n_frames, y, x), or of a single one."""
    frames = frames if frames.ndim == 3 else frames[None]
    return find_outliers(
        frames,
        kernels.sum_frames(frames),
        calibrate(frames.shape[1:], gain=gain, dark=dark),
        defects=defects,
        hot_sigma=hot,
        dead_sigma=dead,
        xray_sigma=12,
    )


def places(outliers: OutlierPixels) -> set[tuple[int, int]]:
    """As a set of (y, x)."""
    return {(int(y), int(x)) for y, x in outliers.yx}


def counts(mean: npt.ArrayLike, seed: int, shape: tuple[int, ...] = SHAPE) -> npt.NDArray[np.uint32]:
    """Poisson numbers."""
    return np.random.default_rng(seed).poisson(mean, shape).astype(np.uint32)


def blurred(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """As a camera whose electrons reach the next pixels sees it: nothing is sharper."""
    return scipy.ndimage.gaussian_filter(picture, 0.6, mode="nearest")


def test_hot_and_dead_pixels_are_found_and_nothing_else() -> None:
    """Planted hot and dead pixels, also beside each other and in corners, are found, counted, and no good one is."""
    total = counts(48, 1)
    hot, dead = [(5, 7), (5, 8), (100, 3)], [(255, 319), (60, 60)]
    total[tuple(zip(*hot, strict=True))], total[tuple(zip(*dead, strict=True))] = 400, 0
    found = find(total)
    assert places(found) == {*hot, *dead}
    assert (found.n_hot, found.n_dead, found.n_defects, found.n_xrays) == (3, 2, 0, 0)
    np.testing.assert_array_equal(found.keep, 0)
    assert (found.frame == ALL_FRAMES).all()


@pytest.mark.parametrize("mean", [0.02, 0.1, 1.0, 4.0, 10.0, 48.0, 200.0])
def test_counting_makes_no_outliers(mean: float) -> None:
    """Of a million pixels that only count electrons, fewer than ten are replaced, however weak the exposure."""
    assert len(find(counts(mean, 2, (1024, 1024)))) < 10


@pytest.mark.parametrize("mean", [0.1, 1.0, 4.0, 10.0, 48.0, 200.0])
@pytest.mark.parametrize("fraction", [1e-4, 0.005, 0.05])
def test_all_that_counting_cannot_explain_is_found(mean: float, fraction: float) -> None:
    """Few or many pixels of any excess: all above six standard deviations and six counts; hardly a good one."""
    rng = np.random.default_rng(3)
    excess = np.where(rng.random(SHAPE) < fraction, np.exp(rng.uniform(1, 7, SHAPE)), 0)
    total = counts(mean + excess, 4)
    bad = np.zeros(SHAPE, bool)
    bad[tuple(find(total).yx.T)] = True
    surely = (excess > 0) & (total > mean + 6.5 * np.sqrt(mean) + 6)
    assert surely.sum() > 5
    assert bad[surely].all()
    assert bad[excess == 0].sum() < 0.25 * bad.sum()
    assert bad[excess == 0].mean() < 0.005


def test_a_dead_pixel_shows_where_no_counts_are_too_rare() -> None:
    """From 18 electrons per pixel no count at all is no chance any more; at 8 it happens; in between, many say it."""
    for mean, is_found in ((8, False), (20, True), (48, True)):
        total = counts(mean, 5)
        total[10, 10] = 0
        assert places(find(total)) == ({(10, 10)} if is_found else set())
    total = counts(16, 5)
    total[::12, ::10] = 0
    assert find(total).n_dead > 0.8 * np.count_nonzero(total == 0)


def test_the_settings_replace_the_thresholds() -> None:
    """At hot_sigma, eq. 6 gives half of the weight; standard deviations are those of a normal distribution as rare."""
    total = counts(10_000, 6)
    total[20, 30], total[40, 50] = 10_000 + 810, 10_000 - 790
    assert places(find(total)) == {(20, 30), (40, 50)}
    assert places(find(total, hot=12)) == {(40, 50)}
    assert places(find(total, dead=12)) == {(20, 30)}
    kept = find(total, hot=7.8, dead=12).keep
    assert 0.1 < kept[0] < 0.9
    assert len(find(total, hot=7).keep) == 2


def test_the_gain_is_applied_before_the_test() -> None:
    """Columns that count twice as much are normal once the gain says so, and scatter less than others."""
    response = np.ones(SHAPE)
    response[:, ::16], response[:, 8::16] = 2, 0.5
    total = counts(48 * response, 7)
    assert len(find(total, gain=(1 / response).astype(np.float32))) < 3
    total[3, 16] = 180
    assert (3, 16) in places(find(total, gain=(1 / response).astype(np.float32)))


def test_a_dark_reference_does_not_hide_what_are_counts() -> None:
    """A pedestal of 0.2 counts per frame, more than the electrons of a weak movie, makes nothing an outlier."""
    frames = counts(0.1, 8, (40, *SHAPE)) + counts(0.2, 9, (40, *SHAPE))
    assert len(find(frames, dark=np.full(SHAPE, 0.2, np.float32))) < 5


def test_defects_and_impossible_gains_are_outliers() -> None:
    """Known defects, gains that are zero, negative or no number are replaced as a whole, whatever was counted there."""
    gain, defects = np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool)
    gain[1, 1], gain[2, 2], gain[4, 4], defects[3, 3] = 0, np.nan, -1, True
    total = counts(48, 10)
    total[3, 3] = 48
    found = find(total, gain=gain, defects=defects)
    assert places(found) == {(1, 1), (2, 2), (3, 3), (4, 4)}
    assert (found.n_hot, found.n_dead, found.n_defects) == (0, 0, 4)
    np.testing.assert_array_equal(found.keep, 0)


SCENES = ("carbon", "grid bar", "gold", "ice", "slope")


def scene(kind: str) -> npt.NDArray[np.float64]:
    """Transmission of something that is no empty ice, sharp at its edges."""
    y, x = np.indices((512, 512))
    picture = np.ones((512, 512))
    rng = np.random.default_rng(11)
    if kind == "carbon":
        grains = scipy.ndimage.gaussian_filter(rng.standard_normal(picture.shape), 1.5)
        picture = np.where(x + 0.3 * y < 350, 0.7, 1.0) * (1 + 0.1 * grains / grains.std())
    elif kind == "grid bar":
        picture[x + 0.1 * y < 200] = 0
    elif kind == "slope":
        picture = 0.4 + 1.2 * x / 512
    else:
        for _ in range(30):
            cy, cx = rng.uniform(0, 512, 2)
            if kind == "gold":
                picture[np.hypot(y - cy, x - cx) < rng.uniform(4, 12)] = 0.15
            else:
                picture[(abs(y - cy) < rng.uniform(4, 40)) & (abs(x - cx) < rng.uniform(4, 40))] = 1.5
    return picture


@pytest.mark.parametrize("mean", [4.0, 40.0, 200.0])
@pytest.mark.parametrize("kind", SCENES)
def test_the_specimen_is_no_outlier(kind: str, mean: float) -> None:
    """Carbon, a grid bar, gold beads, ice crystals and a slope lose no pixel; hot pixels on them are found."""
    expected = mean * blurred(scene(kind))
    total = counts(expected, 12, expected.shape)
    assert len(find(total)) < 3
    rng = np.random.default_rng(13)
    y, x = rng.integers(0, 512, (2, 100))
    total[y, x] += (10 * np.sqrt(total[y, x] + mean) + 10).astype(np.uint32)
    found = places(find(total))
    assert sum((int(a), int(b)) in found for a, b in zip(y, x, strict=True)) > 85
    assert len(found) < 125


def test_what_is_wider_than_the_point_spread_is_no_outlier_unless_no_beam_is_so_bright() -> None:
    """A bright spot 6 pixels wide stays; single bad columns, pairs of them, and blocks of many times the beam go."""
    total = counts(48, 14)
    y, x = np.indices(SHAPE)
    total[np.hypot(y - 102, x - 102) < 3.2] += 60
    assert find(total).n_hot == 0
    total[:, 20] += 100
    total[:, 60:62] += 100
    total[200:206, 200:206] = 900
    found = places(find(total))
    assert {(y, x) for y in range(256) for x in (20, 60, 61)} <= found
    assert {(y, x) for y in range(200, 206) for x in range(200, 206)} <= found
    assert not any(99 <= y < 106 and 99 <= x < 106 for y, x in found)


def test_steps_of_the_histogram_are_no_tails() -> None:
    """Super-resolution: neighbours share electrons, and even numbers are more frequent than odd ones."""
    rng = np.random.default_rng(15)
    single = rng.poisson(4, (1024, 1024))
    shared = single + np.roll(rng.poisson(2, single.shape), 1, axis=1)
    uneven = shared + (shared % 2) * rng.integers(0, 2, shared.shape)
    assert len(find(uneven.astype(np.uint32))) < 10


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_units_make_no_difference(scale: float) -> None:
    """Frames that are electrons times a number have the same outliers, and so have those whose gain is the number."""
    total = counts(48, 16)
    total[9, 9], total[50, 60] = 110, 0
    same = places(find(total))
    assert same == {(9, 9), (50, 60)}
    assert places(find((total * scale).astype(np.float32))) == same
    assert places(find(total, gain=np.full(SHAPE, scale, np.float32))) == same


@pytest.mark.parametrize("offset", [-80.0, 0.0])
def test_values_that_are_no_counts_have_few_outliers(offset: float) -> None:
    """A signed movie around or below zero: the planted pixels are found and nothing else."""
    total = np.random.default_rng(17).normal(offset, 40, SHAPE).astype(np.float32)
    assert len(find(total)) == 0
    total[7, 9], total[20, 30] = 900, -900
    found = find(total)
    assert {(7, 9), (20, 30)} <= places(found)
    assert len(found) < 4


def test_what_is_no_number_is_an_outlier() -> None:
    """NaN and infinity, in one frame of many, are replaced throughout; the search does not mind them."""
    frames = counts(5, 18, (8, *SHAPE)).astype(np.float32)
    frames[3, 100, 200], frames[0, 1, 1], frames[5, 2, 2] = np.nan, np.inf, -np.inf
    found = find(frames)
    assert places(found) == {(100, 200), (1, 1), (2, 2)}
    np.testing.assert_array_equal(found.keep, 0)


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (5, 300)])
def test_a_tiny_picture_has_outliers_too(shape: tuple[int, int]) -> None:
    """Smaller than a block: nothing breaks, and a hot pixel among enough others is found."""
    total = counts(20, 19, shape)
    assert len(find(total)) == 0
    if total.size > 1:
        total[3, 3] = 2000
        assert places(find(total)) == {(3, 3)}


@pytest.mark.parametrize("value", [0, 7])
def test_a_picture_without_noise_has_no_outliers(value: int) -> None:
    """Beam off, or saturated: nothing to replace but what differs."""
    total = np.full(SHAPE, value, np.uint32)
    assert len(find(total)) == 0
    total[50, 60] = 200
    assert places(find(total)) == {(50, 60)}


def test_when_every_pixel_is_bad_all_are_found() -> None:
    """A gain of zeros, and frames that are no numbers."""
    assert find(counts(5, 20), gain=np.zeros(SHAPE, np.float32)).n_defects == SHAPE[0] * SHAPE[1]
    assert len(find(np.full((3, 16, 16), np.nan, np.float32))) == 256


def test_inputs_are_never_changed() -> None:
    """Read-only frames, gain and defects; x-rays, which are taken off a copy of the sum."""
    frames, gain, defects = counts(2, 21, (5, *SHAPE)), np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool)
    frames[1, 5, 5], defects[3, 3] = 200, True
    sums = kernels.sum_frames(frames)
    for array in (frames, gain, defects, *sums):
        array.setflags(write=False)
    found = find_outliers(
        frames,
        sums,
        calibrate(SHAPE, gain=gain, dark=None),
        defects=defects,
        hot_sigma=None,
        dead_sigma=None,
        xray_sigma=12,
    )
    assert places(found) == {(5, 5), (3, 3)}


def correlation(frames: npt.NDArray[np.floating]) -> float:  # type: ignore[type-arg]
    """Mean Pearson correlation between frames: McLeod et al. (2017) eq. 7."""
    matrix = np.corrcoef(frames.reshape(len(frames), -1))
    return float(matrix[np.triu_indices(len(frames), 1)].mean())


@pytest.mark.parametrize(("fraction", "mean"), [(0.003, 1.2), (0.007, 1.2), (0.05, 0.3)])
@pytest.mark.parametrize("fill", ["mean", "draw"])
def test_correlated_noise_falls_five_fold(fraction: float, mean: float, fill: kernels.OutlierFill) -> None:
    """McLeod et al. (2017) figure 7c: in vacuum, by the outlier filter alone; few pixels, more, super-resolution."""
    rng = np.random.default_rng(22)
    shape = (512, 512)
    excess = np.where(rng.random(shape) < fraction, np.exp(rng.uniform(np.log(0.1), np.log(4), shape)), 0)
    frames = rng.poisson(mean + excess, (20, *shape)).astype(np.uint8)
    ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    plan = kernels.plan_outliers(find(frames), shape, fill)
    filled = kernels.reduce(frames, ones, zeros, plan, factor=1)
    assert abs(correlation(filled)) < correlation(frames.astype(np.float32)) / 5
