"""The movies that accuracy is measured on: one of each trouble, simulated, with fixed seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from komad.simulate import MovieSpec
from komad.simulate.truth import draw_motion


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of movie."""

    name: str
    seed: int
    length: int = 2048
    """Pixels per side."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What differs from an ordinary movie: 40 frames of 1.2 e/Å², 0.83 Å, 300 kV, apoferritin, usual motion."""
    drift_angstrom: float | None = None
    """Global motion is scaled so that the whole frame goes this far from the first frame to the last."""
    corners_angstrom: float | None = None
    """Local motion is scaled so that this is how far the four corners go, on average, beyond the mean of the field."""

    def spec(self, seed_offset: int) -> MovieSpec:
        """What to simulate; another offset gives another movie of the same kind."""
        # RELION reads bytes as signed: counts stay below 128.
        values = {"n_frames": 40, "ny": self.length, "nx": self.length, "max_count": 127} | dict(self.changes)
        spec = MovieSpec(seed=self.seed + seed_offset, **values)
        truth = draw_motion(spec)
        if self.drift_angstrom is not None:
            way = np.hypot(*(truth.global_px[-1] - truth.global_px[0])) * spec.pixel_size_angstrom
            spec = replace(spec, global_motion=self.drift_angstrom / float(way))
        if self.corners_angstrom is not None:
            y, x = np.meshgrid(*([-0.5, n - 0.5] for n in spec.shape), indexing="ij")
            local = truth.displacement_px(spec.n_frames - 1, y, x) - truth.global_px[-1]
            way = np.hypot(local[..., 0], local[..., 1]).mean() * spec.pixel_size_angstrom
            spec = replace(spec, local_motion=self.corners_angstrom / float(way))
        return spec


CASES = (
    Case(name="ordinary", seed=2001),
    Case(name="dose-0.3", seed=2002, changes={"dose_per_frame": 0.3}),
    Case(name="dose-2", seed=2003, changes={"dose_per_frame": 2.0}),
    Case(name="weak", seed=2004, changes={"specimen": "chain"}),
    Case(name="very-weak", seed=2005, changes={"specimen": "chain", "dose_per_frame": 0.5}),
    Case(name="strong-local", seed=2006, corners_angstrom=10.0),
    Case(name="nearly-still", seed=2007, changes={"global_motion": 0.05, "local_motion": 0.05}),
    Case(name="gain-3", seed=2008, changes={"gain_error": 0.03}),
    Case(name="carbon-edge", seed=2009, changes={"carbon_edge": True}),
    Case(name="empty-ice", seed=2010, changes={"specimen": "ice"}),
    Case(name="drift-30", seed=2011, drift_angstrom=30.0),
    Case(name="fine-pixels", seed=2012, changes={"pixel_size_angstrom": 0.6}),
    Case(name="12-frames", seed=2013, changes={"n_frames": 12, "dose_per_frame": 4.0}),
    Case(name="dome", seed=2014, changes={"local_motion": 0.5, "doming_angstrom": 6.0}),
    Case(name="ordinary-1k", seed=1001, length=1024),
    Case(name="dose-2-1k", seed=1002, length=1024, changes={"dose_per_frame": 2.0}),
    Case(name="gain-1-1k", seed=1003, length=1024, changes={"gain_error": 0.01}),
    Case(name="strong-local-1k", seed=1004, length=1024, corners_angstrom=10.0),
)
"""A new case goes to the end of its size with a seed of its own."""
