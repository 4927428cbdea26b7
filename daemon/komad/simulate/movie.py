"""One movie: the scene, seen by the detector, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.simulate.detector import Detector, build_detector, count, illumination
from komad.simulate.scene import Scene, build_scene
from komad.simulate.spec import MovieSpec
from komad.simulate.truth import MotionTruth, draw_motion


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedMovie:
    """Counts as a camera would write them, and everything that is true about them."""

    frames: npt.NDArray[np.uint8 | np.uint16]
    """(n_frames, ny, nx), MRC row order."""
    truth: MotionTruth
    detector: Detector
    scene: Scene
    spec: MovieSpec

    @property
    def gain(self) -> npt.NDArray[np.float32]:
        """(ny, nx) gain reference that goes with the movie: the factor for the counts."""
        return self.detector.gain_reference


def simulate_movie(
    spec: MovieSpec, *, detector: Detector | None = None, truth: MotionTruth | None = None
) -> SimulatedMovie:
    """Simulate a movie; equal arguments give equal movies.

    Memory: the counts, plus about 16 bytes per pixel of one frame and thread.

    Parameters
    ----------
    spec
        What to simulate.
    detector
        The camera; the one that `spec` describes when left out. Movies of a session share one.
    truth
        The motion; drawn when left out.
    """
    truth = truth or draw_motion(spec)
    detector = detector or build_detector(spec)
    scene = build_scene(spec, truth)
    beam = illumination(spec) * np.float32(spec.dose_e_per_px_frame)
    frames = np.empty((spec.n_frames, *spec.shape), spec.dtype)

    def expose(frame: int) -> None:
        electrons = scene.contrast(frame)
        electrons += 1.0
        np.maximum(electrons, 0.0, out=electrons)
        electrons *= beam
        rng = spec.random("counts", frame)
        count(detector.expected(electrons), rng, max_count=spec.max_count, out=frames[frame])

    for _ in thread_pool().map(expose, range(spec.n_frames)):
        pass
    return SimulatedMovie(frames=frames, truth=truth, detector=detector, scene=scene, spec=spec)
