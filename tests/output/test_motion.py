"""Motion in `<stem>.json`: the whole field, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad.model import MotionModel
from komad.model.motion import SplineField
from komad.output.motion import motion_lengths_px
from tests.output.conftest import MOVIE, RESULT, SHIFTS, Write, local_motion


def record(write: Write, folder: Path, motion: MotionModel) -> dict[str, Any]:
    """`motion` as it comes out of the file."""
    write(result={"motion": motion})
    motion_part: dict[str, Any] = json.loads((folder / "FoilHole_1.json").read_text())["motion"]
    return motion_part


def test_displacement_is_what_the_field_says_from_edge_to_edge(write: Write, tmp_path: Path) -> None:
    """(frame, 2, 17, 17) as (y, x): minus the shift of the whole frame and of the field at that place."""
    motion = local_motion()
    assert motion.local is not None
    frames = record(write, tmp_path, motion)["displacement_px"]
    assert frames[0] is None
    found = np.array(frames[1:])
    assert found.shape == (4, 2, 17, 17)
    y, x = np.linspace(-0.5, 47.5, 17), np.linspace(-0.5, 63.5, 17)
    for row, column in ((0, 0), (0, 16), (16, 0), (16, 16), (5, 11)):
        local = motion.local.at_places([y[row]], [x[column]])[1:, 0]
        expected = -(SHIFTS[1:] + local)
        np.testing.assert_allclose(found[:, :, row, column], expected, atol=6e-5)


def test_displacement_of_the_whole_frame_is_the_same_everywhere(write: Write, tmp_path: Path) -> None:
    """Without a local field: minus the shift, y before x."""
    motion = record(write, tmp_path, RESULT.motion)
    found = np.array(motion["displacement_px"][1:])
    np.testing.assert_array_equal(found, np.broadcast_to(-SHIFTS[1:, :, None, None], (4, 2, 17, 17)))
    assert motion["local"] is None
    assert motion["kind"] == "global"


def test_the_spline_comes_back(write: Write, tmp_path: Path) -> None:
    """From knots, moments and coefficients in the file the same field can be made."""
    motion = local_motion()
    assert motion.local is not None
    found = record(write, tmp_path, motion)
    field = SplineField(
        shape=tuple(found["local"]["shape"]),
        knots=np.array(found["local"]["knots"]),
        moments=np.array(found["local"]["moments"]),
        coefficients_px=np.array(found["local"]["coefficients_px"]),
    )
    places = np.linspace(-0.5, 47.5, 7), np.linspace(-0.5, 63.5, 5)
    np.testing.assert_allclose(field.on_grid(*places), motion.local.on_grid(*places), atol=1e-4)
    assert found["reason"] == motion.reason
    assert found["fixed_pattern"] == 0.02
    assert found["patch_centres_yx_px"][1] == [11.5, 47.5]
    assert 0 < found["relion_model"]["misfit_rms_px"] <= found["relion_model"]["misfit_largest_px"]


def test_expected_error_adds_both_parts(write: Write, tmp_path: Path) -> None:
    """3 and 4 hundredths of a pixel of 0.83 Å; the whole frame alone without a local field; unknown stays unknown."""
    motion = local_motion()
    assert record(write, tmp_path, motion)["expected_error_angstrom"] == pytest.approx(0.05 * 0.83)
    alone = replace(motion, local=None, kind="global")
    assert record(write, tmp_path, alone)["expected_error_angstrom"] == pytest.approx(0.03 * 0.83)
    unknown = replace(motion, local_error_px=float("nan"))
    assert record(write, tmp_path, unknown)["expected_error_angstrom"] is None
    assert write(result={"motion": motion})["expected_error_angstrom"] == pytest.approx(0.05 * 0.83)


def test_lengths_have_a_local_part() -> None:
    """A field that stretches x evenly: RMS and corner in closed form; zero without a field."""
    # Uniform cubic B-splines give back a straight line from coefficients on a straight line: here -1 to 1.
    line = np.broadcast_to((np.arange(4) - 1.5)[:, None] * [0.0, 2.0], (4, 4, 2))
    motion = MotionModel(
        shifts_px=np.zeros((2, 2)),
        shift_error_px=0.0,
        n_iterations=1,
        kind="local",
        reason="",
        local=SplineField(
            shape=(48, 64),
            knots=np.array([0.0, 1.0]),
            moments=np.array([0.0, 1.0]),
            coefficients_px=np.stack([np.zeros((4, 4, 2)), line]),
        ),
    )
    lengths = motion_lengths_px(motion, MOVIE)
    assert lengths["local_corner"] == pytest.approx(1.0)
    assert lengths["local_rms"] == pytest.approx(np.sqrt(np.mean(np.linspace(-1, 1, 17) ** 2) / 2))
    assert motion_lengths_px(replace(motion, local=None), MOVIE)["local_rms"] == 0


def test_file_is_of_a_sensible_size(write: Write, tmp_path: Path) -> None:
    """A frame is a line: a movie of 5 frames does not fill thousands of lines, and has no long decimals."""
    write(result={"motion": local_motion()})
    text = (tmp_path / "FoilHole_1.json").read_text()
    assert len(text.splitlines()) < 220
    assert len(text) < 5 * 2 * 17 * 17 * 10 + 8000
