"""A camera that ages."""

from itertools import islice

import numpy as np
import pytest

from komad.simulate.ageing import Ageing, ageing_camera
from komad.simulate.spec import MovieSpec

SPEC = MovieSpec(ny=64, nx=2000, n_frames=1, hot_per_megapixel=400.0, dead_per_megapixel=100.0)


def session(n: int, **changes: object) -> list:  # type: ignore[type-arg]
    """The camera at the first `n` movies."""
    return list(islice(ageing_camera(SPEC, Ageing(**changes)), n))  # type: ignore[arg-type]


def test_hot_pixels_grow_in_number() -> None:
    """More spots from movie to movie; without growth about as many as before, small numbers of clusters apart."""
    growing, steady = session(60, more_hot_per_megapixel=40.0), session(60, more_hot_per_megapixel=0.0)
    assert len(growing[-1].hot_yx) > 3 * len(growing[0].hot_yx)
    assert len(steady[-1].hot_yx) == pytest.approx(len(steady[0].hot_yx), rel=0.7)


def test_columns_drift_away_and_the_gain_reference_stays() -> None:
    """The column pattern keeps its spread, resembles that of the next movie most, and fades more slowly later."""
    cameras = session(60, column_spread=0.02)
    alive = cameras[0].response > 0
    columns = []
    for camera in cameras:
        assert camera.gain_reference is cameras[0].gain_reference
        assert not camera.response[~alive].any()
        flat = np.where(alive, camera.gain_reference * camera.response, np.nan)
        columns.append(np.nanmean(flat, axis=0) - 1)
    assert np.std(columns[0]) == pytest.approx(0.02, rel=0.1)
    assert np.std(columns[-1]) == pytest.approx(0.02, rel=0.1)
    near, middle, far = (np.corrcoef(columns[0], columns[i])[0, 1] for i in (1, 10, 59))
    assert 0.8 < near < 0.95
    assert 0.45 < middle < 0.75
    assert 0.1 < far < 0.45
    assert near - middle > (middle - far) / 5


def test_equal_specs_give_equal_cameras() -> None:
    """The seed decides everything."""
    for one, other in zip(session(3), session(3), strict=True):
        np.testing.assert_array_equal(one.response, other.response)
        np.testing.assert_array_equal(one.hot_yx, other.hot_yx)
