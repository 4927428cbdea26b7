"""Simulated movies as the motion is measured on, and what is true about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.config import Processing
from komad.model import MotionModel, outliers_at
from komad.motion import estimate_motion
from komad.simulate import MotionTruth, MovieSpec, simulate_movie
from komad.simulate.truth import draw_motion
from tests.bench.field import field_error_px, true_field

FloatArray = npt.NDArray[np.float64]

BINNING = 3
N_FRAMES = 16
DOSE = 2.5


@dataclass(frozen=True, kw_only=True)
class Movie:
    """Small frames, gain-corrected, that nobody may change; and the truth."""

    small: npt.NDArray[np.float32]
    truth: MotionTruth
    spec: MovieSpec

    @property
    def exposure(self) -> FloatArray:
        """(n_frames,) e/Å² at the end of each frame."""
        return self.spec.dose_per_frame * np.arange(1, len(self.small) + 1)

    def first(self, n: int) -> Movie:
        """The first frames only."""
        truth = replace(self.truth, global_px=self.truth.global_px[:n], local_px=self.truth.local_px[:n])
        return replace(self, small=self.small[:n], truth=truth)


def simulate(*, corners_angstrom: float | None = None, length: int = 1024, **changes: Any) -> Movie:
    """An ordinary movie of 1.25 Å pixels; `corners_angstrom` is how far the corners go beyond the mean of the field."""
    spec = MovieSpec(
        **{
            "n_frames": N_FRAMES,
            "ny": length,
            "nx": length,
            "dose_per_frame": DOSE,
            "pixel_size_angstrom": 1.25,
            "hot_per_megapixel": 0,
            "dead_per_megapixel": 0,
        }
        | changes
    )
    if corners_angstrom is not None:
        truth = draw_motion(spec)
        y, x = np.meshgrid(*([-0.5, n - 0.5] for n in spec.shape), indexing="ij")
        way = truth.displacement_px(spec.n_frames - 1, y, x) - truth.global_px[-1]
        way_angstrom = float(np.hypot(way[..., 0], way[..., 1]).mean()) * spec.pixel_size_angstrom
        spec = replace(spec, local_motion=corners_angstrom / way_angstrom)
    movie = simulate_movie(spec)
    no_outliers = kernels.plan_outliers(outliers_at([]), spec.shape)
    small = kernels.reduce(
        movie.frames, movie.gain, np.zeros(spec.shape, np.float32), no_outliers, factor=BINNING
    )
    small.setflags(write=False)
    return Movie(small=small, truth=movie.truth, spec=spec)


def crystal(contrast: float, seed: int) -> tuple[npt.NDArray[np.float32], FloatArray]:
    """24 frames (y, x) of a perfect lattice of 5 to 7 pixels that drifts evenly, and its displacement (24, 2)."""
    rng = np.random.default_rng(seed)
    length, n_frames = 160, 24
    reciprocal = np.linalg.inv(np.array([[5.5, 1.7], [-1.2, 6.5]])).T
    orders = [(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) > (0, 0)]
    waves = [np.array(order) @ reciprocal for order in orders]
    spots = [(q, rng.normal(), rng.uniform(0, 2 * np.pi)) for q in waves if np.hypot(*q) < 0.4]
    y, x = np.mgrid[:length, :length]
    displacement = np.linspace(0, 1, n_frames)[:, None] * [9.0, 7.0]
    frames = np.empty((n_frames, length, length), np.float32)
    for t, (dy, dx) in enumerate(displacement):
        picture = sum(a * np.cos(2 * np.pi * (q @ (y.ravel() - dy, x.ravel() - dx)) + p) for q, a, p in spots)
        picture *= contrast / np.sqrt(sum(a * a for _, a, _ in spots) / 2)
        frames[t] = 100 + picture.reshape(length, length) + rng.normal(size=(length, length))
    return frames, displacement


_KNOWN: Any = object()


def measure(
    movie: Movie,
    *,
    used: npt.NDArray[np.bool_] | None = None,
    exposure: FloatArray | None = _KNOWN,
    **processing: Any,
) -> MotionModel:
    """The motion of a movie, with settings that differ from the usual ones."""
    used = np.ones(len(movie.small), bool) if used is None else used
    return estimate_motion(
        movie.small if used.all() else movie.small[used],
        used=used,
        shape=movie.spec.shape,
        binning=BINNING,
        pixel_size_angstrom=movie.spec.pixel_size_angstrom,
        exposure=movie.exposure if exposure is _KNOWN else exposure,
        voltage_kv=movie.spec.voltage_kv,
        processing=Processing(**processing),
    )


def measured_field(motion: MotionModel, movie: Movie) -> FloatArray:
    """(n_frames, 2, 17, 17) displacement from edge to edge."""
    at = (np.linspace(-0.5, n - 0.5, 17) for n in movie.spec.shape)
    return -np.moveaxis(motion.shifts_on_grid_px(*at), -1, 1)


EVERYWHERE = (slice(None), slice(None))
CORNERS = (slice(None, None, 16), slice(None, None, 16))


def field_error(motion: MotionModel, movie: Movie, where: tuple[slice, slice] = EVERYWHERE) -> float:
    """RMS error of the displacement per axis over frames used and points; the mean over frames at a point left out."""
    place = (motion.used, slice(None), *where)
    return field_error_px(measured_field(motion, movie)[place], true_field(movie.truth)[place])
