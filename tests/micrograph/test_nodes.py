"""Motion and magnification at the nodes of the fused pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.micrograph import shifts_at_nodes_px
from komad.model import MotionModel, outliers_at
from komad.model.motion import SplineField

SHAPE = (300, 420)
CENTRE = (np.array(SHAPE) - 1) / 2


def motion(shifts: npt.ArrayLike, local: SplineField | None = None) -> MotionModel:
    """A motion with these shifts of whole frames."""
    return MotionModel(
        shifts_px=np.asarray(shifts, np.float64),
        shift_error_px=0.01,
        n_iterations=1,
        kind="local" if local else "global",
        reason="",
        local=local,
    )


def bent(n_frames: int) -> SplineField:
    """A smooth local field of a few pixels, another one in each frame."""
    return SplineField(
        shape=SHAPE,
        knots=np.array([0.0, 1.0]),
        moments=np.arange(n_frames, dtype=np.float64),
        coefficients_px=np.random.default_rng(1).normal(0, 2, (2, 6, 7, 2)),
    )


def test_global_shifts_are_the_same_at_every_node() -> None:
    """Each node has the frame's shift; frames that are left out have zero."""
    nodes = shifts_at_nodes_px(motion([[1.5, -2], [np.nan, np.nan]]), SHAPE, magnification=None)
    assert nodes.dtype == np.float32
    assert nodes.shape == (2, *map(len, kernels.node_positions(SHAPE)), 2)
    np.testing.assert_array_equal(nodes[0], np.broadcast_to((1.5, -2), nodes[0].shape))
    assert not nodes[1].any()


def test_the_nodes_hold_a_field_to_a_few_hundredths_of_a_pixel() -> None:
    """Between the nodes a field that changes by 25 px over the camera is what the spline says, to the last pixel."""
    shape = (4092, 5760)
    field = replace(bent(1), shape=shape)
    y, x = np.r_[:4092:37, 4091], np.r_[:5760:41, 5759]
    exact = field.on_grid(y, x)[0]
    steepest = max(np.abs(np.gradient(exact, at, axis=a)).max() for a, at in enumerate((y, x)))
    field = replace(field, coefficients_px=field.coefficients_px * 0.006 / steepest)
    exact *= 0.006 / steepest
    nodes = shifts_at_nodes_px(motion([(0, 0)], field), shape, magnification=None)[0]
    nodes_y, nodes_x = kernels.node_positions(shape)
    for axis in range(2):
        along_x = np.array([np.interp(x, nodes_x, row) for row in nodes[..., axis]])
        between = np.array([np.interp(y, nodes_y, column) for column in along_x.T]).T
        assert np.abs(between - exact[..., axis]).max() < 0.03


def test_no_magnification_is_exactly_nothing() -> None:
    """Scales of one leave every bit as it is, whatever the angle."""
    model = motion([[1.5, -2], [0.1, 7]], bent(2))
    plain = shifts_at_nodes_px(model, SHAPE, magnification=None)
    np.testing.assert_array_equal(shifts_at_nodes_px(model, SHAPE, magnification=(1.0, 1.0, 33.0)), plain)


@pytest.mark.parametrize(
    ("magnification", "matrix"),
    [
        # (y, x) rows and columns; along x, along y, and half way between them.
        ((1.04, 1.0, 0.0), [[1, 0], [0, 1.04]]),
        ((1.04, 0.98, 90.0), [[1.04, 0], [0, 0.98]]),
        ((1.06, 1.0, 45.0), [[1.03, 0.03], [0.03, 1.03]]),
        ((1.03, 0.97, -20.0), None),
    ],
)
def test_a_grid_of_points_lands_where_the_stretch_takes_it(
    magnification: tuple[float, float, float], matrix: list[list[float]] | None
) -> None:
    """Spots move away from the centre by the two scales along the two axes, on top of the frame's own shift."""
    shift = np.array([2.0, -3.0])
    if matrix is None:
        major, minor, degrees = magnification
        turn = np.deg2rad(degrees)
        axes = np.array([[np.sin(turn), np.cos(turn)], [np.cos(turn), -np.sin(turn)]])
        stretch = axes.T @ np.diag([major, minor]) @ axes
    else:
        stretch = np.array(matrix)
    spots = np.array([(y, x) for y in (60.0, 150.0, 240.0) for x in (70.0, 210.0, 350.0)])
    yy, xx = np.indices(SHAPE)
    frame = sum(np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / 18) for y, x in spots - shift)
    nodes = shifts_at_nodes_px(motion([shift]), SHAPE, magnification=magnification)
    stretched = kernels.correct(
        np.asarray(frame, np.float32)[None],
        np.ones(SHAPE, np.float32),
        np.zeros(SHAPE, np.float32),
        kernels.plan_outliers(outliers_at([]), SHAPE),
        shifts=nodes,
        coefficients=np.ones((1, 1), np.float32),
    )[0]
    for spot in spots:
        expected = CENTRE + stretch @ (spot - CENTRE)
        y0, x0 = np.round(expected).astype(int)
        window = (slice(y0 - 12, y0 + 13), slice(x0 - 12, x0 + 13))
        weight = stretched[window]
        found = [float((weight * index[window]).sum() / weight.sum()) for index in (yy, xx)]
        np.testing.assert_allclose(found, expected, atol=0.04)


def test_motion_is_looked_up_where_the_content_comes_from() -> None:
    """Under a stretch the local field is that of the source, not that of the place to which the content goes."""
    model, magnification = motion([[0.5, 1.0]], bent(1)), (1.2, 0.9, 30.0)
    nodes = shifts_at_nodes_px(model, SHAPE, magnification=magnification)
    turn = np.deg2rad(30)
    axes = np.array([[np.sin(turn), np.cos(turn)], [np.cos(turn), -np.sin(turn)]])
    inverse = axes.T @ np.diag([1 / 1.2, 1 / 0.9]) @ axes
    y, x = kernels.node_positions(SHAPE)
    for i, j in [(0, 0), (3, 1), (len(y) - 1, len(x) - 1)]:
        here = np.array([y[i], x[j]])
        source = CENTRE + inverse @ (here - CENTRE)
        expected = here - source + model.shifts_on_grid_px(source[:1], source[1:])[0, 0, 0]
        np.testing.assert_allclose(nodes[0, i, j], expected, atol=1e-4)
