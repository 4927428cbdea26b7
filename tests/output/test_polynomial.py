"""RELION's polynomial: against RELION's own files, and against our field."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from komad.formats.star import read_star
from komad.model import Acquisition, MotionModel
from komad.model.motion import SplineField
from komad.output.polynomial import fit_polynomial, frame_weights, nearest_polynomial, polynomial_terms
from tests.output.conftest import SHIFTS, Write, local_motion
from tests.output.test_relion import TUTORIAL

FRAME = (3838, 3710)


def relion_shift(coefficients: list[float], z: float, x: float, y: float) -> tuple[float, float]:
    """(x, y) shift as a reader of the STAR evaluates it, written out term by term."""
    sums = []
    for c in (coefficients[:18], coefficients[18:]):
        time = [c[3 * i] * z + c[3 * i + 1] * z**2 + c[3 * i + 2] * z**3 for i in range(6)]
        sums.append(time[0] + time[1] * x + time[2] * x * x + time[3] * y + time[4] * y * y + time[5] * x * y)
    return sums[0], sums[1]


def field(coefficients_px: np.ndarray, n_frames: int = 24, shape: tuple[int, int] = FRAME) -> MotionModel:
    """A local field with knots at the first and last frames and between, and no motion of the whole."""
    return MotionModel(
        shifts_px=np.zeros((n_frames, 2)),
        shift_error_px=0.0,
        n_iterations=1,
        kind="local",
        reason="",
        local=SplineField(
            shape=shape,
            knots=np.linspace(0, n_frames - 1, len(coefficients_px)),
            moments=np.arange(n_frames, dtype=float),
            coefficients_px=coefficients_px,
        ),
    )


@pytest.mark.skipif(not TUTORIAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("movie", ["20170629_00022", "20170629_00035", "20170629_00043"])
def test_fit_of_relions_patch_shifts_gives_relions_coefficients(movie: str) -> None:
    """Value, sign, order and units are RELION's, to the digits in its file; its fit counts from mid-frame."""
    tables = read_star(TUTORIAL / f"{movie}_frameImage.star")
    general, local = tables["general"].columns, tables["local_shift"].columns
    z = np.array(local["rlnMicrographFrameNumber"]) - general["rlnMicrographStartFrame"] + 0.5
    y = np.array(local["rlnCoordinateY"]) / general["rlnImageSizeY"] - 0.5
    x = np.array(local["rlnCoordinateX"]) / general["rlnImageSizeX"] - 0.5
    shifts = np.stack([local["rlnMicrographShiftY"], local["rlnMicrographShiftX"]], axis=1)
    found = fit_polynomial(z, y, x, shifts, np.ones(len(z)))
    theirs = np.array(tables["local_motion_model"].columns["rlnMotionModelCoeff"])
    np.testing.assert_allclose(found[[1, 0]].ravel(), theirs, rtol=2e-3, atol=2e-5)


def test_a_field_that_the_model_can_hold_comes_back_exactly(write: Write, tmp_path: Path) -> None:
    """Evaluated as RELION does it, the STAR gives our shift at every place and frame, sign and order included."""
    # Straight and squared terms in the place are cubic splines; so is a cubic in the frame through four knots.
    rng = np.random.default_rng(3)
    knots = np.array([1.0, 2.0, 3.0, 4.0])
    v = np.arange(-1, 3) - 0.5  # centres of the four splines that span the field, in widths of it
    place = np.stack(np.meshgrid(v, v, indexing="ij"))
    terms = np.stack([np.ones((4, 4)), place[1], place[1] ** 2, place[0], place[0] ** 2, place[0] * place[1]])
    time = (knots - 1)[:, None] ** np.array([1, 2, 3])
    weights = rng.normal(size=(2, 3, 6))
    coefficients = np.einsum("kp,dps,sij->kijd", time, weights, terms)
    motion = replace(
        local_motion(),
        local=SplineField(shape=(48, 64), knots=knots, moments=np.arange(5.0), coefficients_px=coefficients),
    )
    write(result={"motion": motion})
    tables = read_star(tmp_path / "FoilHole_1.star")
    assert tables["general"].columns["rlnMotionModelVersion"] == 1
    model = tables["local_motion_model"].columns
    assert list(model["rlnMotionModelCoeffsIdx"]) == list(range(36))
    assert motion.local is not None
    first = tables["general"].columns["rlnMicrographStartFrame"]
    shift_x = tables["global_shift"].columns["rlnMicrographShiftX"]
    for frame in (2, 3, 5):
        for y, x in ((0.0, 0.0), (47.0, 63.0), (47.0, 0.0), (20.0, 41.0)):
            local = relion_shift(model["rlnMotionModelCoeff"], frame - first, x / 64 - 0.5, y / 48 - 0.5)
            ours = motion.shifts_on_grid_px([y], [x])[:, 0, 0]
            expected = (ours[frame - 1] - ours[1])[::-1]
            assert local[0] + shift_x[frame - 1] == pytest.approx(expected[0], abs=1e-4)
            assert local[1] == pytest.approx(motion.local.at_places([y], [x])[frame - 1, 0, 0], abs=1e-4)


def test_misfit_is_the_distance_that_is_left() -> None:
    """A ripple that the model cannot hold is reported at its size; an even growth leaves nothing."""
    even = np.zeros((4, 6, 6, 2))
    even[:, :, :, 1] = np.linspace(0, 3, 4)[:, None, None]
    exact = nearest_polynomial(field(even), np.ones(24))
    assert exact is not None
    assert exact.misfit_largest_px < 1e-9
    rippled = even.copy()
    rippled[1:, ::2, :, 0] = 0.5
    found = nearest_polynomial(field(rippled), np.ones(24))
    assert found is not None
    assert 0.05 < found.misfit_rms_px < found.misfit_largest_px < 1.0


def test_early_frames_count_more() -> None:
    """Where the cubic cannot follow, the fit is closer early; equal weights without a dose."""
    jump = np.zeros((10, 4, 4, 2))
    jump[1:, :, :, 1] = 2.0 * (1 - np.exp(-np.arange(1, 10)))[:, None, None]
    motion = field(jump, n_frames=40)
    assert motion.local is not None
    shift = motion.local.at_places([100.0], [100.0])[:, 0]
    known = Acquisition(pixel_size_angstrom=1.0, voltage_kv=300.0, dose_per_frame=1.0)
    early = {}
    for name, acquisition in (("weighted", known), ("even", Acquisition())):
        weights = frame_weights(acquisition, 40)
        found = nearest_polynomial(motion, weights)
        assert found is not None
        z = np.arange(40.0)
        model = polynomial_terms(z, 100 / FRAME[0] - 0.5, 100 / FRAME[1] - 0.5) @ found.coefficients_px.T
        early[name] = np.abs(model - shift)[:6, 1].max()
    assert early["weighted"] < 0.9 * early["even"]
    np.testing.assert_array_equal(frame_weights(Acquisition(), 40), np.ones(40))
    weights = frame_weights(known, 40)
    assert weights[0] == 1
    # Critical exposure at 10 Å and 300 kV: 0.245 * 10^1.665 + 2.81.
    assert weights[20] == pytest.approx(np.exp(-20 / (0.245 * 10**1.665 + 2.81)))


def test_hundreds_of_frames_lose_no_digits() -> None:
    """z³ of 400 frames is 64 million."""
    grown = np.zeros((4, 4, 4, 2))
    grown[:, :, :, 0] = (np.linspace(0, 1, 4) ** 3)[:, None, None] * np.arange(4)
    found = nearest_polynomial(field(grown, n_frames=400), np.ones(400))
    assert found is not None
    assert found.misfit_largest_px < 1e-8


@pytest.mark.parametrize("n_used", [1, 3, 4])
def test_too_few_frames_have_no_model(n_used: int) -> None:
    """Three powers of the frame need four frames."""
    motion = field(np.random.default_rng(0).normal(size=(3, 4, 4, 2)), n_frames=6)
    shifts = motion.shifts_px.copy()
    shifts[n_used:] = np.nan
    found = nearest_polynomial(replace(motion, shifts_px=shifts), np.ones(6))
    assert (found is None) == (n_used < 4)


def test_another_frame_of_reference_is_no_matter(write: Write, tmp_path: Path) -> None:
    """With the field zero in the last frame, the STAR is the same as with the first, for RELION wants that."""
    motion = local_motion()
    assert motion.local is not None
    write(result={"motion": motion})
    expected = read_star(tmp_path / "FoilHole_1.star")
    moved = replace(
        motion.local, coefficients_px=motion.local.coefficients_px - motion.local.coefficients_px[-1]
    )
    write(result={"motion": replace(motion, shifts_px=SHIFTS - SHIFTS[-1], local=moved)})
    found = read_star(tmp_path / "FoilHole_1.star")
    for table in ("global_shift", "local_motion_model", "local_shift"):
        for name, values in expected[table].columns.items():
            np.testing.assert_allclose(found[table].columns[name], values, atol=1e-5)


def test_patch_shifts_are_the_field_at_the_patches(write: Write, tmp_path: Path) -> None:
    """RELION's table: patch after patch, 1-based frames that were used, without the shift of the whole frame."""
    motion = local_motion()
    assert motion.local is not None
    write(result={"motion": motion})
    columns = read_star(tmp_path / "FoilHole_1.star")["local_shift"].columns
    assert list(columns["rlnMicrographFrameNumber"]) == [2, 3, 4, 5] * 4
    assert list(columns["rlnCoordinateX"])[4:8] == [47.5] * 4
    shift = motion.local.at_places([11.5], [47.5])[4, 0]
    assert (columns["rlnMicrographShiftY"][7], columns["rlnMicrographShiftX"][7]) == pytest.approx(
        tuple(shift), abs=1e-4
    )


def test_misfit_stands_in_star_and_json(write: Write, tmp_path: Path) -> None:
    """As a comment before the model."""
    write(result={"motion": local_motion()})
    lines = (tmp_path / "FoilHole_1.star").read_text().splitlines()
    comment = next(line for line in lines if line.startswith("# distance of this model"))
    assert "px RMS" in comment
    assert lines.index("data_local_motion_model") == lines.index(comment) + 2


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_star_printtable") is None, reason="RELION is not installed")
def test_relion_reads_the_model_in_spite_of_comments(write: Write, tmp_path: Path) -> None:
    """RELION's own reader finds every block, also after a warning that speaks of data_ and # version."""
    write(result={"motion": local_motion(), "warnings": ("see /data_2/x # version 2", "second")})

    def relion(table: str, label: str) -> list[float]:
        command = ["relion_star_printtable", "FoilHole_1.star", f"data_{table}", label]
        run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return [float(word) for word in run.stdout.split()]

    ours = read_star(tmp_path / "FoilHole_1.star")
    for table, label in (
        ("global_shift", "rlnMicrographShiftY"),
        ("local_motion_model", "rlnMotionModelCoeff"),
        ("local_shift", "rlnMicrographShiftX"),
    ):
        assert relion(table, label) == pytest.approx(ours[table].columns[label], rel=1e-5, abs=1e-6)
