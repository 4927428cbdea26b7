"""The motion field: its splines in closed form, its edges, and what is derived from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from komad.model.motion import (
    MotionModel,
    SplineField,
    early_late_px,
    path_length_px,
    spline_basis,
    time_basis,
)

SHAPE = (60, 90)


def field(coefficients_px: np.ndarray, knots: np.ndarray, moments: np.ndarray) -> SplineField:
    """A field over SHAPE."""
    return SplineField(shape=SHAPE, knots=knots, moments=moments, coefficients_px=coefficients_px)


@given(n=st.integers(4, 12), length=st.integers(1, 9000), place=st.floats(0, 1))
def test_splines_add_up_to_one_and_are_never_negative(n: int, length: int, place: float) -> None:
    """At any place from edge to edge, whatever their number: equal coefficients are an even shift."""
    values = spline_basis(place * length - 0.5, length, n)
    assert values.shape == (n,)
    assert values.sum() == pytest.approx(1.0)
    assert values.min() >= 0
    assert np.count_nonzero(values) <= 4


def test_splines_at_edge_and_middle_have_their_known_values() -> None:
    """1/6, 4/6, 1/6 where two intervals meet; the outer edges are -0.5 and length - 0.5."""
    sixths = np.array([1, 4, 1]) / 6
    values = spline_basis([-0.5, 29.5, 59.5], 60, 5)
    np.testing.assert_allclose(values[0], [*sixths, 0, 0], atol=1e-15)
    np.testing.assert_allclose(values[1], [0, *sixths, 0], atol=1e-15)
    np.testing.assert_allclose(values[2], [0, 0, *sixths], atol=1e-15)
    quarter = spline_basis(14.5, 60, 5)  # half an interval
    np.testing.assert_allclose(quarter, np.array([1, 23, 23, 1, 0]) / 48, atol=1e-15)


def test_beyond_the_edges_the_edge_holds() -> None:
    """A place that moved out of the frame is shifted as the edge is."""
    np.testing.assert_array_equal(spline_basis([-50.0, 500.0], 60, 6), spline_basis([-0.5, 59.5], 60, 6))


def test_coefficients_on_a_line_give_that_line() -> None:
    """Splines hold a straight shift exactly, up to the corners, in y and x at once."""
    v, u = np.arange(7) - 3.0, np.arange(5) - 2.0  # centres, in intervals: 4 along y, 2 along x
    coefficients = np.stack(np.broadcast_arrays(0.5 * v[:, None], -0.25 * u[None, :]), axis=-1)[None]
    motion = field(coefficients, knots=np.array([0.0]), moments=np.zeros(1))
    y, x = np.array([-0.5, 14.5, 29.5, 59.5]), np.array([-0.5, 44.5, 89.5])
    shift = motion.on_grid(y, x)[0]
    along_y, along_x = 0.5 * np.array([-2, -1, 0, 2]), -0.25 * np.array([-1, 0, 1])
    np.testing.assert_allclose(shift[..., 0], np.broadcast_to(along_y[:, None], (4, 3)), atol=1e-12)
    np.testing.assert_allclose(shift[..., 1], np.broadcast_to(along_x, (4, 3)), atol=1e-12)


def test_grid_and_places_agree() -> None:
    """A place alone is shifted as it is on a grid, frame by frame."""
    rng = np.random.default_rng(0)
    motion = field(rng.normal(size=(3, 5, 6, 2)), np.array([0.0, 4.0, 9.0]), np.arange(10.0))
    y, x = rng.uniform(-0.5, 59.5, 4), rng.uniform(-0.5, 89.5, 4)
    grid = motion.on_grid(y, x)
    assert grid.shape == (10, 4, 4, 2)
    np.testing.assert_allclose(motion.at_places(y, x), grid[:, range(4), range(4)], atol=1e-12)


def test_time_is_a_cubic_spline_through_the_knots() -> None:
    """As SciPy's own; at a knot the knot alone counts."""
    knots = np.array([0.5, 1.5, 4.0, 10.0, 22.0])
    values = np.array([0.0, 2.0, 2.5, 2.0, 3.0])
    moments = np.linspace(0.5, 22, 40)
    np.testing.assert_allclose(time_basis(moments, knots) @ values, CubicSpline(knots, values)(moments))
    np.testing.assert_allclose(time_basis(knots, knots), np.eye(5), atol=1e-12)


@pytest.mark.parametrize("n_knots", [1, 2, 3, 4, 9])
def test_time_adds_up_to_one_with_any_number_of_knots(n_knots: int) -> None:
    """Also beyond the knots, where the ends hold; a single knot is a field that stands still."""
    knots = np.cumsum(np.arange(1.0, n_knots + 1))
    basis = time_basis([-5.0, knots[0], knots.mean(), knots[-1], 1000.0], knots)
    assert basis.shape == (5, n_knots)
    np.testing.assert_allclose(basis.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(basis[0], np.eye(n_knots)[0], atol=1e-12)
    np.testing.assert_allclose(basis[-1], np.eye(n_knots)[-1], atol=1e-12)


def test_two_knots_are_a_straight_line() -> None:
    """Half way between them, each counts half."""
    np.testing.assert_allclose(time_basis([2.0, 3.0], np.array([1.0, 5.0])), [[0.75, 0.25], [0.5, 0.5]])


GLOBAL = MotionModel(
    shifts_px=np.array([[np.nan, np.nan], [0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]),
    shift_error_px=0.1,
    n_iterations=1,
    kind="global",
    reason="",
)


def test_whole_shift_is_global_plus_local() -> None:
    """On any grid, NaN where the frame was left out; displacement is its negative."""
    rng = np.random.default_rng(1)
    local = field(rng.normal(size=(2, 4, 4, 2)), np.array([0.0, 3.0]), np.arange(4.0))
    y, x = np.array([-0.5, 20.0]), np.array([1.0, 50.0, 89.5])
    whole = replace(GLOBAL, kind="local", local=local).shifts_on_grid_px(y, x)
    assert np.isnan(whole[0]).all()
    np.testing.assert_allclose(whole[2], [3.0, 4.0] + local.on_grid(y, x)[2])
    alone = GLOBAL.shifts_on_grid_px(y, x)
    np.testing.assert_array_equal(alone[3], np.broadcast_to([3.0, 5.0], (2, 3, 2)))
    np.testing.assert_array_equal(GLOBAL.displacement_px[2], [-3.0, -4.0])
    assert GLOBAL.used.tolist() == [False, True, True, True]


def test_supported_tells_motion_from_none() -> None:
    """A specimen at rest has frames that were used all the same."""
    assert GLOBAL.supported
    assert not replace(GLOBAL, kind="none").supported


def test_path_lengths() -> None:
    """5 px, then 1 px; a frame that was left out is no step; early ends with the frame that ends by 4 e/Å²."""
    assert path_length_px(GLOBAL.shifts_px) == 6
    assert early_late_px(GLOBAL.shifts_px, np.array([1.0, 2.0, 4.0, 6.0])) == (5, 1)
    assert early_late_px(GLOBAL.shifts_px, None) == (0, 6)
