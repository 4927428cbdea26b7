"""The displacement field: conventions, sizes, file."""

import json

import numpy as np
import pytest

from komad.errors import ParameterError
from komad.simulate.spec import MovieSpec
from komad.simulate.truth import LOCAL_ORDERS, MotionTruth, draw_motion, read_truth, truth_path, write_truth

AS_MEASURED = {"n_frames": 24, "dose_per_frame": 1.277, "pixel_size_angstrom": 0.885, "ny": 3838, "nx": 3710}


def local_rms(truth: MotionTruth, frame: int) -> float:
    """RMS over the field of the local part."""
    y, x = np.meshgrid(
        np.linspace(0, truth.shape[0] - 1, 21), np.linspace(0, truth.shape[1] - 1, 21), indexing="ij"
    )
    field = truth.displacement_px(frame, y, x) - truth.global_px[frame]
    return float(np.sqrt(np.square(field).sum(-1).mean()))


def test_shift_is_minus_the_displacement_averaged_over_the_field():
    """Global shifts are the negative mean of the field over all pixels."""
    truth = draw_motion(MovieSpec(n_frames=3, ny=60, nx=90, local_motion=3.0, seed=4))
    y, x = np.indices(truth.shape)
    for frame, shift in enumerate(truth.global_shifts_px()):
        mean = truth.displacement_px(frame, y, x).mean(axis=(0, 1))
        np.testing.assert_allclose(shift, -mean, atol=0.01)


def test_field_is_the_polynomial_it_says():
    """A single coefficient of the term P1(y) P0(x) displaces the edges by plus and minus itself, in its own axis."""
    local = np.zeros((1, len(LOCAL_ORDERS), 2))
    local[0, LOCAL_ORDERS.index((1, 0))] = (0.0, 2.0)
    truth = MotionTruth(shape=(100, 40), global_px=np.array([[1.0, 5.0]]), local_px=local)
    np.testing.assert_allclose(truth.displacement_px(0, -0.5, 7), [1.0, 3.0])
    np.testing.assert_allclose(truth.displacement_px(0, 99.5, 30), [1.0, 7.0])
    assert truth.displacement_px(0, np.zeros((3, 1)), np.zeros(4)).shape == (3, 4, 2)


def test_dome_pushes_outwards_and_leaves_the_mean_alone():
    """The largest radial motion by the last frame is as asked, all other motion off; the mean over the field is 0."""
    spec = MovieSpec(
        n_frames=4,
        ny=300,
        nx=260,
        pixel_size_angstrom=0.5,
        global_motion=0,
        local_motion=0,
        doming_angstrom=6.0,
    )
    truth = draw_motion(spec)
    assert truth.dome is not None
    field = truth.displacement_px(3, *np.indices(truth.shape))
    np.testing.assert_allclose(field.mean(axis=(0, 1)), 0.0, atol=1e-3)
    at_top = truth.displacement_px(3, *truth.dome.top_px)
    for direction in ([1, 0], [0, 1], [-0.6, 0.8]):
        place = truth.dome.top_px + truth.dome.width_px * np.array(direction)
        outwards = truth.displacement_px(3, *place) - at_top
        np.testing.assert_allclose(outwards, 12.0 * np.array(direction), atol=1e-9)
    assert np.hypot(*np.moveaxis(field - at_top, -1, 0)).max() == pytest.approx(12.0, abs=0.01)


def test_motion_has_the_size_and_shape_of_real_trajectories():
    """Simulated as the 16 real movies were taken: total, early and late speeds and local spread match theirs."""
    truths = [draw_motion(MovieSpec(seed=seed, **AS_MEASURED)) for seed in range(40)]
    steps = np.array([np.hypot(*np.diff(truth.global_px, axis=0).T) for truth in truths])
    totals = [np.hypot(*(truth.global_px[-1] - truth.global_px[0])) for truth in truths]
    assert 10 < np.mean(totals) < 17  # real: 13.5
    assert 0.6 < steps[:, :3].mean() < 1.1  # real: 0.81 px per frame
    assert 0.4 < steps[:, 8:].mean() < 0.7  # real: 0.54
    for frame, real in ((3, 0.75), (10, 1.54), (23, 2.45)):
        assert np.mean([local_rms(truth, frame) for truth in truths]) == pytest.approx(real, rel=0.3)


def test_motion_can_be_switched_off():
    """Factors of zero leave a specimen that does not move."""
    truth = draw_motion(MovieSpec(n_frames=4, global_motion=0.0, local_motion=0.0))
    assert not truth.displacement_px(3, np.arange(10), np.arange(10)).any()


def test_motion_does_not_depend_on_the_pixel_size():
    """The same seed moves by the same number of ångström."""
    fine, coarse = (draw_motion(MovieSpec(n_frames=5, pixel_size_angstrom=pixel)) for pixel in (0.5, 1.0))
    np.testing.assert_allclose(fine.global_px, 2 * coarse.global_px)
    np.testing.assert_allclose(fine.local_px, 2 * coarse.local_px)


def test_truth_file_round_trip(tmp_path):
    """What is read back gives the same field; the file holds the shifts for others and is not named like a movie."""
    spec = MovieSpec(n_frames=6, ny=64, nx=48, seed=9, doming_angstrom=3.0)
    truth = draw_motion(spec)
    path = truth_path(tmp_path / "a.b_0001.mrc")
    assert path.name == "a.b_0001_truth.json"
    write_truth(path, truth, spec)
    back = read_truth(path)
    np.testing.assert_array_equal(back.displacement_px(5, 10.5, 3.0), truth.displacement_px(5, 10.5, 3.0))
    document = json.loads(path.read_text())
    np.testing.assert_array_equal(document["shifts_px"], truth.global_shifts_px())
    assert document["spec"]["seed"] == 9


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"local_orders": [[0, 1]], "shape": [1, 1]}'])
def test_what_is_not_a_truth_file_is_refused(tmp_path, text):
    """A file that is something else is named in the error."""
    path = tmp_path / "x_truth.json"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"x_truth\.json"):
        read_truth(path)
