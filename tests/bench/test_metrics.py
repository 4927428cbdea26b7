"""The yardsticks of the benchmarks, against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest

from komad.formats import star
from komad.simulate import MotionTruth, MovieSpec
from komad.simulate.scene import build_scene
from komad.simulate.truth import LOCAL_ORDERS, draw_motion
from tests.bench.accuracy import Score
from tests.bench.field import (
    edge_to_edge,
    field_error_px,
    relion_field,
    relion_polynomial,
    since_first,
    true_field,
)
from tests.bench.frc import N_BANDS, noise_free, ring_correlation
from tests.bench.suite import CASES

RNG = np.random.default_rng(7)
SCORE = Score(
    movie="a",
    seed=1,
    kind="local",
    uncorrected_px=4.0,
    komad_px=0.5,
    relion_px={5: 1.0, 1: 0.8},
    relion_patches=5,
    frc_oracle=(0.9, 0.5, 0.04),
    frc_komad=(0.9, 0.4, 0.001),
    frc_relion=(),
)


def test_error_is_per_axis_and_forgives_what_is_the_same_in_all_frames():
    """A constant bend costs nothing; +a and -a in turn along one of the two axes costs a / sqrt(2)."""
    true = RNG.normal(size=(6, 2, 17, 17))
    wrong = true + RNG.normal(size=(2, 17, 17))
    assert field_error_px(wrong, true) == pytest.approx(0.0, abs=1e-12)
    wrong[:, 0] += 0.3 * (-1.0) ** np.arange(6)[:, None, None]
    assert field_error_px(wrong, true) == pytest.approx(0.3 / np.sqrt(2))


def test_field_is_told_at_the_places_of_the_first_frame():
    """With a linear field, inverted by hand: zero in the first frame, edges of the field included."""
    stretch = np.array([0.5, -2.0])
    local = np.zeros((2, len(LOCAL_ORDERS), 2))
    local[:, LOCAL_ORDERS.index((1, 0)), 0] = stretch
    truth = MotionTruth(shape=(100, 80), global_px=np.array([[3.0, 1.0], [7.0, -4.0]]), local_px=local)
    rows = edge_to_edge(100)
    assert rows[[0, -1]].tolist() == [-0.5, 99.5]
    # p = r + 3 + 0.5 (r - 49.5) / 50, solved for the place r before the exposure
    before = (rows - 3.0 + 0.5 * 49.5 / 50) / (1 + 0.5 / 50)
    expected = 4.0 + (stretch[1] - stretch[0]) * (before - 49.5) / 50
    field = since_first(truth, rows, np.array([0.0, 40.0]))
    np.testing.assert_array_equal(field[0], 0.0)
    np.testing.assert_allclose(field[1, :, 1, 0], expected, atol=1e-6)
    np.testing.assert_allclose(field[1, ..., 1], -5.0)
    assert true_field(truth).shape == (2, 2, 17, 17)


@pytest.mark.parametrize(
    ("index", "axis", "value"),
    [
        (0, 1, lambda y, x, z: z),
        (5, 1, lambda y, x, z: x * z**3),
        (7, 1, lambda y, x, z: x**2 * z**2),
        (17, 1, lambda y, x, z: x * y * z**3),
        (18 + 9, 0, lambda y, x, z: y * z),
        (18 + 13, 0, lambda y, x, z: y**2 * z**2),
    ],
)
def test_each_coefficient_of_relion_is_the_term_it_should_be(index, axis, value):
    """One coefficient set to one gives its term in x, y (from -1/2 to 1/2) and frame (from 0), on its axis alone."""
    coefficients = np.zeros(36)
    coefficients[index] = 1.0
    field = relion_polynomial(coefficients, 4)
    y, x = np.meshgrid(*[np.linspace(-0.5, 0.5, 17)] * 2, indexing="ij")
    expected = np.stack([value(y, x, z) * np.ones((17, 17)) for z in range(4)])
    np.testing.assert_allclose(field[:, axis], expected)
    assert not field[:, 1 - axis].any()


def test_relion_shift_is_minus_the_displacement(tmp_path):
    """Global and local shifts of a motion STAR are added and change their sign."""
    coefficients = [0.0] * 36
    coefficients[3] = 2.0  # x z, of the shift in x
    tables = [
        star.Table(
            "global_shift",
            {
                "rlnMicrographFrameNumber": [1, 2],
                "rlnMicrographShiftX": [0.0, 5.0],
                "rlnMicrographShiftY": [0.0, -1.0],
            },
            loop=True,
        ),
        star.Table(
            "local_motion_model",
            {"rlnMotionModelCoeffsIdx": list(range(36)), "rlnMotionModelCoeff": coefficients},
            loop=True,
        ),
    ]
    path = tmp_path / "movie.star"
    path.write_text(star.dumps(tables))
    field = relion_field(path)
    assert not field[0].any()
    np.testing.assert_allclose(field[1, 0], 1.0)
    np.testing.assert_allclose(field[1, 1, :, [0, 16]], [[-4.0] * 17, [-6.0] * 17])


def test_correlation_tells_signal_from_noise_in_each_band():
    """White signal and noise of equal power correlate by 1 / sqrt(2); offset and slopes do not matter."""
    signal, noise = RNG.normal(size=(2, 256, 320)).astype(np.float32)
    slope = 100 + 3 * np.arange(256, dtype=np.float32)[:, None]
    np.testing.assert_allclose(ring_correlation(signal + slope, signal), 1.0, atol=0.01)
    np.testing.assert_allclose(ring_correlation(signal + noise, signal), 0.5**0.5, atol=0.08)
    assert len(ring_correlation(signal, signal)) == N_BANDS
    assert np.isnan(ring_correlation(signal, np.zeros_like(signal))).all()


def test_specimen_is_drawn_where_the_corrected_sum_lies():
    """With the true field it lies as in the first frame; with a constant error of the field it goes along."""
    spec = MovieSpec(n_frames=4, ny=512, nx=512, dose_per_frame=4.0, particles_per_um2=4000.0, seed=3)
    scene = build_scene(spec, draw_motion(spec))
    field = true_field(scene.truth)
    first = scene.undamaged(lambda y, x: scene.truth.displacement_px(0, y, x))
    np.testing.assert_allclose(ring_correlation(noise_free(scene, field), first), 1.0, atol=1e-3)
    wrong = np.array([2.0, -3.0])
    moved = noise_free(scene, field + wrong[:, None, None])
    np.testing.assert_allclose(ring_correlation(np.roll(moved, (2, -3), axis=(0, 1)), first), 1.0, atol=1e-3)


def test_worst_band_leaves_out_where_the_truth_sees_nothing():
    """Bands below an oracle of 0.05 do not count; without figures there is none."""
    assert SCORE.worst_band(SCORE.frc_komad) == pytest.approx(0.8)
    assert math.isnan(SCORE.worst_band(SCORE.frc_relion))


def test_ratio_is_to_the_usual_and_to_the_best_patches():
    """RELION's error with the patches for the size, and the smallest of all; neither where it did not run."""
    assert SCORE.ratio == pytest.approx(0.5)
    assert SCORE.best_ratio == pytest.approx(0.625)
    without = replace(SCORE, relion_px={})
    assert math.isnan(without.ratio)
    assert math.isnan(without.best_ratio)


def test_suite_has_no_two_movies_alike():
    """Names and seeds are unique, another offset changes every movie, and drift and corners are as large as asked."""
    assert len({case.name for case in CASES}) == len({case.seed for case in CASES}) == len(CASES) >= 14
    for case in CASES:
        spec, other = case.spec(0), case.spec(5000)
        assert replace(spec, seed=0) == replace(
            other, seed=0, global_motion=spec.global_motion, local_motion=spec.local_motion
        )
        truth = draw_motion(other)
        end = truth.global_px[-1] * other.pixel_size_angstrom
        assert not np.allclose(truth.global_px, draw_motion(spec).global_px)
        if case.drift_angstrom is not None:
            start = truth.global_px[0] * other.pixel_size_angstrom
            assert np.hypot(*(end - start)) == pytest.approx(case.drift_angstrom)
        if case.corners_angstrom is not None:
            corners = true_corners_angstrom(truth, other) - end
            assert np.hypot(*corners.T).mean() == pytest.approx(case.corners_angstrom)


def true_corners_angstrom(truth: MotionTruth, spec: MovieSpec) -> np.ndarray:
    """(4, 2) displacement of the corners in the last frame."""
    ends = [(-0.5, n - 0.5) for n in spec.shape]
    corners = [truth.displacement_px(spec.n_frames - 1, y, x) for y in ends[0] for x in ends[1]]
    return np.array(corners) * spec.pixel_size_angstrom
