"""A whole movie: dose, reproducibility, refusal of nonsense."""

import numpy as np
import pytest

from komad.errors import ParameterError
from komad.simulate import MovieSpec, simulate_movie
from komad.simulate.detector import build_detector

CLEAN = {"hot_per_megapixel": 0.0, "dead_per_megapixel": 0.0}


def test_mean_count_is_the_dose():
    """Empty ice counts dose times pixel area, within the Poisson error."""
    spec = MovieSpec(n_frames=10, ny=256, nx=300, specimen="ice", dose_per_frame=1.5, **CLEAN)
    movie = simulate_movie(spec)
    assert movie.frames.dtype == np.uint8
    assert movie.frames.shape == (10, 256, 300)
    dose = 1.5 * spec.pixel_size_angstrom**2
    error = np.sqrt(dose / movie.frames.size)
    assert movie.frames.mean(dtype=float) == pytest.approx(dose, abs=5 * error)


def test_gain_times_mean_counts_is_flat():
    """After the gain, pixels of an empty movie differ by no more than counting noise; before it they do."""
    spec = MovieSpec(
        n_frames=60, ny=128, nx=128, specimen="ice", dose_per_frame=10.0, illumination_gradient=0.0, **CLEAN
    )
    movie = simulate_movie(spec)
    mean = movie.frames.mean(axis=0)
    noise = np.sqrt(mean.mean() / spec.n_frames) / mean.mean()
    assert np.std(mean * movie.gain) / mean.mean() == pytest.approx(noise, rel=0.05)
    assert np.std(mean) / mean.mean() > 1.3 * noise


def test_same_seed_same_movie_other_seed_other_movie():
    """Equal specs give equal counts, gain and truth; another seed changes all three."""
    spec = {"n_frames": 3, "ny": 200, "nx": 180}
    first, again, other = (simulate_movie(MovieSpec(seed=seed, **spec)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.gain, again.gain)
    np.testing.assert_array_equal(first.truth.local_px, again.truth.local_px)
    assert (first.frames != other.frames).any()
    assert (first.gain != other.gain).any()
    assert (first.truth.global_px != other.truth.global_px).any()


def test_frames_have_independent_noise():
    """Two frames of empty ice with a true gain do not correlate."""
    movie = simulate_movie(
        MovieSpec(n_frames=2, ny=512, nx=512, specimen="ice", illumination_gradient=0.0, **CLEAN)
    )
    a, b = (frame * movie.gain for frame in movie.frames)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / 512


def test_frames_show_the_specimen():
    """The counts of a well exposed movie correlate with its noise-free picture."""
    spec = MovieSpec(n_frames=2, ny=512, nx=512, dose_per_frame=40.0, **CLEAN)
    movie = simulate_movie(spec)
    picture = movie.scene.contrast(1)
    assert np.corrcoef((movie.frames[1] * movie.gain).ravel(), picture.ravel())[0, 1] > 0.1


def test_detector_can_be_shared():
    """Two movies of one camera have its gain."""
    detector = build_detector(MovieSpec(ny=100, nx=100, seed=7))
    movie = simulate_movie(MovieSpec(n_frames=1, ny=100, nx=100, seed=8), detector=detector)
    assert movie.gain is detector.gain_reference


def test_sixteen_bit_movies_hold_large_counts():
    """More than 255 counts need and get 16 bits."""
    spec = MovieSpec(
        n_frames=1,
        ny=64,
        nx=64,
        specimen="ice",
        dose_per_frame=250.0,
        pixel_size_angstrom=1.09,
        max_count=4000,
    )
    frames = simulate_movie(spec).frames
    assert frames.dtype == np.uint16
    assert frames.max() > 255


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_frames": 0},
        {"dose_per_frame": 0.0},
        {"pixel_size_angstrom": -1.0},
        {"voltage_kv": 400.0},
        {"max_count": 70000},
        {"dose_per_frame": 1000.0},
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong):
    """Nonsense parameters raise before anything is computed."""
    with pytest.raises(ParameterError):
        MovieSpec(**wrong)
