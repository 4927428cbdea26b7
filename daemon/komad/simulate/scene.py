"""What lies in the field of view: particles in random views, and perhaps the edge of a carbon film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from komad.optics.electron import wavelength_angstrom
from komad.optics.frequency import fast_even_length, rfft_radius
from komad.simulate.imaging import damage, transfer
from komad.simulate.spec import MovieSpec
from komad.simulate.specimen import POTENTIAL_V_ANGSTROM2, molecule, potential_spectra, scattering_factor
from komad.simulate.sprites import Sprites, add_sprites
from komad.simulate.truth import MotionTruth

FloatArray = npt.NDArray[np.float64]

DELOCALISED_TO_ANGSTROM = 3.0
"""Boxes hold the fringes of details down to this size; finer ones are weak under the envelope."""
CARBON_ATOMS_PER_ANGSTROM2 = 5.0
"""Independent atoms that scatter as a film does. A film of 150 Å has 15 (2 g/cm³), but they keep apart, which takes
away most of the coarse grain; a third is assumed."""
CARBON_DARKENING = 0.15
"""Electrons that the film keeps from the picture."""
EDGE_WIDTH_PX = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A field of view whose parts move as the truth says."""

    spec: MovieSpec
    truth: MotionTruth
    layers: tuple[Sprites, ...]

    def contrast(self, frame: int) -> npt.NDArray[np.float32]:
        """(ny, nx): relative change of intensity in the middle of `frame`, without noise or detector pattern."""
        canvas = np.zeros(self.spec.shape, np.float32)
        for layer in self.layers:
            spectra = layer.spectra
            if layer.damaged:
                spectra = spectra * damage(self.spec, layer.box, frame)
            add_sprites(canvas, spectra, layer.picture, self.positions_px(layer, frame))
        return canvas

    def undamaged(
        self, displacement_px: Callable[[FloatArray, FloatArray], FloatArray]
    ) -> npt.NDArray[np.float32]:
        """(ny, nx): relative change of intensity of the intact specimen, displaced by a function of (y, x).

        The function gives (..., 2) as (y, x) for the places before the exposure.
        """
        canvas = np.zeros(self.spec.shape, np.float32)
        for layer in self.layers:
            positions = layer.centres_px + displacement_px(*layer.centres_px.T)
            add_sprites(canvas, layer.spectra, layer.picture, positions)
        return canvas

    def positions_px(self, layer: Sprites, frame: int) -> FloatArray:
        """(n_sprites, 2) as (y, x): where the sprites of a layer are drawn in `frame`."""
        y, x = layer.centres_px.T
        return layer.centres_px + self.truth.displacement_px(frame, y, x)


def build_scene(spec: MovieSpec, truth: MotionTruth) -> Scene:
    """Place the specimen."""
    hole = draw_hole(spec) if spec.carbon_edge else None
    layers = []
    if spec.particle_density_per_angstrom2 > 0:
        layers.append(_particles(spec, truth, hole))
    if hole is not None:
        layers.append(_carbon(spec, truth, hole))
    return Scene(spec=spec, truth=truth, layers=tuple(layers))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hole:
    """The round hole in the carbon film."""

    centre_px: FloatArray
    """(2,) as (y, x)."""
    radius_px: float

    def film(self, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """How much of the film is at (y, x): 0 in the hole, 1 on the film, smooth between."""
        distance = np.hypot(np.asarray(y) - self.centre_px[0], np.asarray(x) - self.centre_px[1])
        step = np.clip((distance - self.radius_px) / EDGE_WIDTH_PX + 0.5, 0.0, 1.0)
        return np.asarray(step * step * (3.0 - 2.0 * step))


def draw_hole(spec: MovieSpec) -> Hole:
    """Draw a hole wider than the field whose edge passes a fifth of the field from its middle."""
    angle = spec.random("hole").uniform(0, 2 * np.pi)
    inwards = np.array([np.sin(angle), np.cos(angle)])
    radius = 0.75 * max(spec.shape)
    middle = np.array(spec.shape) / 2.0
    return Hole(centre_px=middle + inwards * (radius - 0.2 * min(spec.shape)), radius_px=radius)


def _particles(spec: MovieSpec, truth: MotionTruth, hole: Hole | None) -> Sprites:
    """Particles that do not overlap, a little beyond the edges too, none on the film."""
    diameter_px = molecule(spec.specimen).diameter_angstrom / spec.pixel_size_angstrom
    margin = diameter_px / 2 + np.abs(truth.global_px).max()
    area_px = (spec.ny + 2 * margin) * (spec.nx + 2 * margin)
    wanted = round(area_px * spec.pixel_size_angstrom**2 * spec.particle_density_per_angstrom2)
    rng = spec.random("particles")
    centres = np.empty((0, 2))
    for _ in range(20 * wanted):  # darts; a field too full for its density keeps what fits
        if len(centres) == wanted:
            break
        dart = rng.uniform(-margin, np.array(spec.shape) + margin)
        if np.all(np.hypot(*(centres - dart).T) > diameter_px):
            centres = np.vstack([centres, dart])
    if hole is not None:
        centres = centres[hole.film(*centres.T) == 0.0]
    box = particle_box(spec)
    n_views = max(1, min(spec.n_orientations, len(centres)))
    spectra = potential_spectra(spec.specimen, n_views, box, spec.pixel_size_angstrom) * transfer(
        spec, (box, box)
    )
    return Sprites(
        spectra=spectra, picture=rng.integers(0, n_views, len(centres)), centres_px=centres, damaged=True
    )


def particle_box(spec: MovieSpec) -> int:
    """Side in pixels that holds a particle and the fringes around it: lambda z k on each side."""
    detail = max(DELOCALISED_TO_ANGSTROM, 2 * spec.pixel_size_angstrom)
    fringes = wavelength_angstrom(spec.voltage_kv) * abs(spec.defocus_um) * 1e4 / detail
    size = (molecule(spec.specimen).diameter_angstrom + 2 * fringes) / spec.pixel_size_angstrom
    return fast_even_length(int(np.ceil(size)))


def _carbon(spec: MovieSpec, truth: MotionTruth, hole: Hole) -> Sprites:
    """The film's grain and shade, cut into windows that overlap by half and add up to the whole at rest."""
    window = 256 if min(spec.shape) >= 2048 else 128
    step = window // 2
    margin = window + int(np.ceil(np.abs(truth.global_px).max()))
    picture = _film_picture(spec, hole, margin)
    profile = np.square(np.sin(np.pi * (np.arange(window) + 0.5) / window)).astype(np.float32)
    corners = [
        (y, x)
        for y in range(0, picture.shape[0] - window + 1, step)
        for x in range(0, picture.shape[1] - window + 1, step)
        if picture[y : y + window, x : x + window].any()
    ]
    pieces = np.stack([picture[y : y + window, x : x + window] for y, x in corners])
    spectra = scipy.fft.rfft2(pieces * profile[:, None] * profile, workers=-1)
    spectra[:, step] = 0.0
    spectra[:, :, -1] = 0.0
    return Sprites(
        spectra=spectra,
        picture=np.arange(len(corners)),
        centres_px=np.array(corners, np.float64) + step - margin,
        damaged=False,
    )


def _film_picture(spec: MovieSpec, hole: Hole, margin: int) -> npt.NDArray[np.float32]:
    """(ny + 2 margin, nx + 2 margin) contrast of a film of independent carbon atoms, zero in the hole."""
    shape = fast_even_length(spec.ny + 2 * margin), fast_even_length(spec.nx + 2 * margin)
    k = rfft_radius(shape) / spec.pixel_size_angstrom
    # Atoms at random: the spectrum of their projected potential is white noise times the scattering factor.
    amplitude = np.sqrt(CARBON_ATOMS_PER_ANGSTROM2) / spec.pixel_size_angstrom
    potential = (POTENTIAL_V_ANGSTROM2 * amplitude * scattering_factor("C", k)).astype(np.float32)
    noise = spec.random("carbon").standard_normal(shape, np.float32)
    spectrum = scipy.fft.rfft2(noise, workers=-1) * (potential * transfer(spec, shape))
    grain = scipy.fft.irfft2(spectrum, s=shape, workers=-1)
    y = np.arange(shape[0])[:, None] - margin
    x = np.arange(shape[1])[None, :] - margin
    film = hole.film(y, x).astype(np.float32)
    return np.asarray(film * (grain - CARBON_DARKENING), np.float32)
