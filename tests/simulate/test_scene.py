"""Things are drawn where the truth says they are, without interpolation loss."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft

from komad.simulate.scene import Scene, _film_picture, build_scene, draw_hole
from komad.simulate.spec import MovieSpec
from komad.simulate.sprites import add_sprites
from komad.simulate.truth import draw_motion
from tests.simulate.conftest import measure_displacement

DENSE = {"particles_per_um2": 4000.0}


def gaussian(size: int, y: float, x: float, sigma: float = 2.0) -> np.ndarray:
    """Picture of a Gaussian that fits well under the sampling limit."""
    iy, ix = np.indices((size, size))
    return np.exp(-(np.square(iy - y) + np.square(ix - x)) / (2 * sigma**2))


@pytest.mark.parametrize("position", [(20.0, 30.0), (25.25, 31.5), (40.9, 22.01)])
def test_sprite_lands_at_its_sub_pixel_position(position):
    """A Gaussian put at a fraction of a pixel is the Gaussian computed there."""
    spectra = scipy.fft.rfft2(gaussian(32, 16, 16))[None].astype(np.complex64)
    canvas = np.zeros((64, 64), np.float32)
    add_sprites(canvas, spectra, np.array([0]), np.array([position]))
    np.testing.assert_allclose(canvas, gaussian(64, *position), atol=2e-5)


def test_sprites_are_cut_at_the_border_and_added_where_they_overlap():
    """Half outside shows half, outside shows nothing, twice the same place shows it twice."""
    spectra = scipy.fft.rfft2(gaussian(32, 16, 16))[None].astype(np.complex64)
    canvas = np.zeros((40, 40), np.float32)
    add_sprites(
        canvas, spectra, np.zeros(4, int), np.array([[-1.5, 10.0], [60.0, 60.0], [20.0, 41.0], [20.0, 41.0]])
    )
    expected = gaussian(40, -1.5, 10.0) + 2 * gaussian(40, 20.0, 41.0)
    np.testing.assert_allclose(canvas, expected, atol=5e-5)


def whole_particles(scene: Scene) -> Scene:
    """The scene without the particles that the border cuts, now or later."""
    (layer,) = scene.layers
    reach = layer.box / 2 + 20
    inside = ((layer.centres_px > reach) & (layer.centres_px < np.array(scene.spec.shape) - reach)).all(
        axis=1
    )
    assert inside.sum() >= 2
    kept = replace(layer, picture=layer.picture[inside], centres_px=layer.centres_px[inside])
    return replace(scene, layers=(kept,))


def test_frames_lie_apart_by_the_true_global_motion():
    """Without noise and local motion, frames against the first give the true displacement to 0.02 px, sign included."""
    spec = MovieSpec(n_frames=6, ny=700, nx=800, local_motion=0.0, dose_per_frame=3.0, seed=3, **DENSE)
    scene = whole_particles(build_scene(spec, draw_motion(spec)))
    first = scene.contrast(0)
    for frame in (1, 3, 5):
        expected = scene.truth.global_px[frame] - scene.truth.global_px[0]
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(measure_displacement(scene.contrast(frame), first), expected, atol=0.02)


def test_each_particle_moves_as_the_field_at_its_centre():
    """In a strongly warped movie, each particle alone has gone where the field says, to 0.02 px."""
    spec = MovieSpec(n_frames=8, ny=800, nx=700, local_motion=3.0, dose_per_frame=3.0, seed=5, **DENSE)
    scene = whole_particles(build_scene(spec, draw_motion(spec)))
    (layer,) = scene.layers
    for index, (y, x) in enumerate(layer.centres_px):
        alone = replace(layer, picture=layer.picture[[index]], centres_px=layer.centres_px[[index]])
        lonely = replace(scene, layers=(alone,))
        expected = scene.truth.displacement_px(7, y, x) - scene.truth.displacement_px(0, y, x)
        found = measure_displacement(lonely.contrast(7), lonely.contrast(0))
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_particles_do_not_overlap_and_reach_beyond_the_edges():
    """Particles keep a diameter apart, have the density asked for, and some are cut by the border."""
    spec = MovieSpec(n_frames=1, ny=1500, nx=1500, seed=2)
    (layer,) = build_scene(spec, draw_motion(spec)).layers
    centres = layer.centres_px
    distance = np.hypot(*np.moveaxis(centres[:, None] - centres[None], -1, 0)) + 1e9 * np.eye(len(centres))
    assert distance.min() * spec.pixel_size_angstrom > 120
    inside = ((centres >= 0) & (centres < 1500)).all(axis=1)
    expected = (1500 * spec.pixel_size_angstrom) ** 2 * spec.particle_density_per_angstrom2
    assert 0.6 * expected < inside.sum() < 1.4 * expected
    assert not inside.all()


def test_damage_lowers_the_power_of_fine_detail_as_the_formula_says():
    """Power of the last against the first frame falls as exp(-dose / Nc(k)) in rings."""
    spec = MovieSpec(n_frames=20, ny=800, nx=800, global_motion=0.0, local_motion=0.0, seed=1, **DENSE)
    scene = whole_particles(build_scene(spec, draw_motion(spec)))
    power = [np.square(np.abs(np.fft.rfft2(scene.contrast(frame)))) for frame in (0, 19)]
    k = np.hypot(np.fft.fftfreq(800)[:, None], np.fft.rfftfreq(800)[None]) / spec.pixel_size_angstrom
    dose = 19 * spec.dose_per_frame
    for resolution in (20.0, 8.0, 4.0, 3.0):
        ring = np.abs(k - 1 / resolution) < 0.004
        critical = 0.245 * (1 / resolution) ** -1.665 + 2.81
        assert power[1][ring].sum() / power[0][ring].sum() == pytest.approx(
            np.exp(-dose / critical), rel=0.05
        )


def test_undamaged_specimen_lies_where_it_is_told():
    """Displaced as in a frame, the intact specimen lies as that frame shows it, with more of its fine detail."""
    spec = MovieSpec(n_frames=3, ny=800, nx=800, dose_per_frame=8.0, seed=1, **DENSE)
    scene = whole_particles(build_scene(spec, draw_motion(spec)))
    frame = scene.contrast(2)
    intact = scene.undamaged(lambda y, x: scene.truth.displacement_px(2, y, x))
    np.testing.assert_allclose(measure_displacement(intact, frame), 0.0, atol=0.005)
    fine = np.hypot(np.fft.fftfreq(800)[:, None], np.fft.rfftfreq(800)[None]) > 0.15
    power = [np.square(np.abs(np.fft.rfft2(picture)))[fine].sum() for picture in (intact, frame)]
    assert power[0] > 2 * power[1]


def test_carbon_at_rest_is_one_unbroken_film():
    """The windows add up to the film: darker, grainy, on one side of the edge only, without seams."""
    spec = MovieSpec(
        n_frames=1,
        ny=512,
        nx=640,
        specimen="ice",
        carbon_edge=True,
        global_motion=0.0,
        local_motion=0.0,
        seed=8,
    )
    scene = build_scene(spec, draw_motion(spec))
    picture = scene.contrast(0)
    hole = draw_hole(spec)
    film = hole.film(*np.indices(spec.shape))
    whole = _film_picture(spec, hole, 128)[128 : 128 + 512, 128 : 128 + 640]
    np.testing.assert_allclose(picture, whole, atol=2e-3)
    assert 0.1 < (film > 0.5).mean() < 0.5
    assert picture[film == 1].mean() == pytest.approx(-0.15, abs=0.01)
    assert 0.03 < picture[film == 1].std() < 0.12
    assert np.abs(picture[film == 0]).max() < 2e-3


def test_carbon_moves_with_the_field():
    """A piece of film far from the edge is displaced as the truth says."""
    spec = MovieSpec(n_frames=4, ny=512, nx=512, specimen="ice", carbon_edge=True, dose_per_frame=4.0, seed=8)
    scene = build_scene(spec, draw_motion(spec))
    side = 160
    film = draw_hole(spec).film(*np.indices(spec.shape))
    y0, x0 = (
        np.argwhere(
            [
                [film[y : y + side, x : x + side].min() == 1 for x in range(0, 340, 20)]
                for y in range(0, 340, 20)
            ]
        )[0]
        * 20
    )
    y, x = y0 + side / 2, x0 + side / 2
    expected = scene.truth.displacement_px(3, y, x) - scene.truth.displacement_px(0, y, x)
    whole = np.rint(expected).astype(int)
    taper = np.outer(np.hanning(side), np.hanning(side))
    cut = [
        scene.contrast(frame)[y0 + dy : y0 + dy + side, x0 + dx : x0 + dx + side]
        for frame, (dy, dx) in ((3, whole), (0, (0, 0)))
    ]
    found = whole + measure_displacement(*((piece + 0.15) * taper for piece in cut))
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_no_particles_lie_on_the_film():
    """With a carbon edge, particles are in the hole only."""
    spec = MovieSpec(n_frames=1, ny=1024, nx=1024, carbon_edge=True)
    particles, film = build_scene(spec, draw_motion(spec)).layers
    assert particles.damaged
    assert not film.damaged
    assert not draw_hole(spec).film(*particles.centres_px.T).any()
