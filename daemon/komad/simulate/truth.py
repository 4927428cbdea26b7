"""Where the specimen truly went: a displacement field known at every point and frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre
from scipy.special import erf

from komad.errors import ParameterError
from komad.simulate.spec import MovieSpec

FloatArray = npt.NDArray[np.float64]

# Sizes of real motion, from RELION's motion STARs of 16 movies of EMPIAR-10204 (K2, 200 kV, 0.885 Å, 24 frames of
# 1.277 e/Å²): least-squares fit of drift + exponential to the global shifts, RMS over movies of the local coefficients.
EARLY_ANGSTROM = 2.5
"""Fast motion at the start that relaxes."""
EARLY_DOSE = 4.5
"""e/Å² over which it relaxes."""
DRIFT_ANGSTROM_PER_DOSE = 0.36
WANDER_ANGSTROM = 0.2
"""RMS per axis of the smooth rest."""
LOCAL_DOSE = 7.0
"""e/Å² over which most of the local motion relaxes."""
LOCAL_EARLY_PART = 0.7
"""Of the local motion at LOCAL_END_DOSE; the rest grows evenly with dose."""
LOCAL_END_DOSE = 30.0

# Spatial terms P_i(y) P_j(x) of Legendre polynomials over the field, with the RMS amplitude (Å, per axis) at
# LOCAL_END_DOSE. RELION's model has no third order; a little is assumed. No constant term: the field's mean is global.
LOCAL_ANGSTROM: Mapping[tuple[int, int], float] = {
    (0, 1): 1.55, (1, 0): 1.63, (0, 2): 0.70, (1, 1): 1.50, (2, 0): 0.84,
    (0, 3): 0.25, (1, 2): 0.25, (2, 1): 0.25, (3, 0): 0.25,
}  # fmt: skip
LOCAL_ORDERS = tuple(LOCAL_ANGSTROM)

DOME_WIDTH = (0.12, 0.22)
"""Distance from the top of a dome to its largest radial motion, as a part of the shorter side: between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dome:
    """Radial displacement around a bump of the film: r exp(-r²/2) of the distance r from the top in widths."""

    shape: tuple[int, int]
    """(ny, nx) of the field."""
    top_px: FloatArray
    """(2,) as (y, x)."""
    width_px: float
    """Distance from the top at which the displacement is largest."""
    largest_px: FloatArray
    """(n_frames,) displacement there, outwards."""

    def displacement_px(self, frame: int, y: FloatArray, x: FloatArray) -> FloatArray:
        """(..., 2) as (y, x); its mean over the field is taken out."""
        v, u = (y - self.top_px[0]) / self.width_px, (x - self.top_px[1]) / self.width_px
        bump = np.exp((1.0 - np.square(v) - np.square(u)) / 2.0)
        return self.largest_px[frame] * (np.stack([v * bump, u * bump], axis=-1) - self._mean())

    def _mean(self) -> FloatArray:
        """(2,) mean over the field of the displacement whose largest is 1."""
        first = (-0.5 - self.top_px) / self.width_px
        last = (np.array(self.shape) - 0.5 - self.top_px) / self.width_px
        slopes = (np.exp(-np.square(first) / 2) - np.exp(-np.square(last) / 2)) / (last - first)
        bells = np.sqrt(np.pi / 2) * (erf(last / np.sqrt(2)) - erf(first / np.sqrt(2))) / (last - first)
        return np.asarray(np.exp(0.5) * slopes * bells[::-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionTruth:
    """Displacement (what the specimen did; the shift that corrects it is the negative), pixels of the movie."""

    shape: tuple[int, int]
    """(ny, nx) of the field."""
    global_px: FloatArray
    """(n_frames, 2) as (y, x): displacement averaged over the field."""
    local_px: FloatArray
    """(n_frames, n_terms, 2) as (y, x): coefficients of P_i(y) P_j(x), (i, j) as in LOCAL_ORDERS, y and x running
    from -1 to 1 between the outer edges of the field."""
    dome: Dome | None = None
    """Local motion beside the polynomials."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.global_px)

    def displacement_px(self, frame: int, y: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
        """(..., 2) as (y, x): how far what was at (y, x) before the exposure has gone by the middle of `frame`."""
        y, x = np.broadcast_arrays(np.asarray(y, np.float64), np.asarray(x, np.float64))
        v = (2.0 * y + 1.0) / self.shape[0] - 1.0
        u = (2.0 * x + 1.0) / self.shape[1] - 1.0
        order = max(max(pair) for pair in LOCAL_ORDERS)
        coefficients = np.zeros((order + 1, order + 1, 2))
        for (i, j), value in zip(LOCAL_ORDERS, self.local_px[frame], strict=True):
            coefficients[i, j] = value
        field = self.global_px[frame] + np.moveaxis(legendre.legval2d(v, u, coefficients), 0, -1)
        return field if self.dome is None else field + self.dome.displacement_px(frame, y, x)

    def global_shifts_px(self) -> FloatArray:
        """(n_frames, 2) as (y, x): the correction averaged over the field.

        Legendre polynomials of order 1 and more have zero mean over the field, and so has the dome: this is exact.
        """
        return -self.global_px


def draw_motion(spec: MovieSpec) -> MotionTruth:
    """Draw the motion of a movie: early relaxation, drift and wander of the whole, a smooth local field, a dome."""
    rng = spec.random("motion")
    dose = spec.frame_dose() - spec.pre_exposure
    whole = spec.global_motion * _global_angstrom(dose, rng)
    local = spec.local_motion * _local_angstrom(dose, rng)
    return MotionTruth(
        shape=spec.shape,
        global_px=whole / spec.pixel_size_angstrom,
        local_px=local / spec.pixel_size_angstrom,
        dome=_dome(spec, dose) if spec.doming_angstrom else None,
    )


def _dome(spec: MovieSpec, dose: FloatArray) -> Dome:
    rng = spec.random("dome")
    shape = np.array(spec.shape)
    growth = 1.0 - np.exp(-dose / LOCAL_DOSE)
    return Dome(
        shape=spec.shape,
        top_px=shape * rng.uniform(0.3, 0.7, 2),
        width_px=float(shape.min() * rng.uniform(*DOME_WIDTH)),
        largest_px=spec.doming_angstrom / spec.pixel_size_angstrom * growth / growth[-1],
    )


def _global_angstrom(dose: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(n_frames, 2)."""
    angle = rng.uniform(0, 2 * np.pi)
    drift = DRIFT_ANGSTROM_PER_DOSE * rng.uniform(0.6, 1.4) * _direction(angle)
    early = EARLY_ANGSTROM * rng.uniform(0.6, 1.4) * _direction(angle + rng.normal(0, 0.6))
    relaxed = 1.0 - np.exp(-dose / (EARLY_DOSE * rng.uniform(0.6, 1.4)))
    period = rng.uniform(8.0, 40.0, (5, 1))  # e/Å²
    waves = np.sin(2 * np.pi * dose / period + rng.uniform(0, 2 * np.pi, (5, 1)))
    wander = WANDER_ANGSTROM * np.sqrt(2 / 5) * waves.T @ rng.normal(size=(5, 2))
    return dose[:, None] * drift + relaxed[:, None] * early + wander


def _local_angstrom(dose: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(n_frames, n_terms, 2)."""
    rms = np.array(list(LOCAL_ANGSTROM.values()))
    end = rms[:, None] * rng.normal(size=(len(rms), 2))
    relaxed = 1.0 - np.exp(-dose[:, None] / (LOCAL_DOSE * rng.uniform(0.5, 1.5, len(rms))))
    growth = LOCAL_EARLY_PART * relaxed + (1.0 - LOCAL_EARLY_PART) * dose[:, None] / LOCAL_END_DOSE
    return growth[:, :, None] * end


def _direction(angle: float) -> FloatArray:
    return np.array([np.sin(angle), np.cos(angle)])


def truth_path(movie_path: Path) -> Path:
    """`<stem>_truth.json` beside the movie: no watcher takes it for a movie."""
    return movie_path.with_name(f"{movie_path.stem}_truth.json")


def write_truth(path: Path, truth: MotionTruth, spec: MovieSpec) -> None:
    """Write the truth as JSON: global shifts to compare with, the field's coefficients, and the spec."""
    document = {
        "shifts_px": truth.global_shifts_px().tolist(),
        "global_px": truth.global_px.tolist(),
        "local_orders": LOCAL_ORDERS,
        "local_px": truth.local_px.tolist(),
        "shape": truth.shape,
        "dome": None if truth.dome is None else _plain(truth.dome),
        "spec": asdict(spec),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _plain(dome: Dome) -> dict[str, object]:
    return {
        "top_px": dome.top_px.tolist(),
        "width_px": dome.width_px,
        "largest_px": dome.largest_px.tolist(),
    }


def read_truth(path: Path) -> MotionTruth:
    """Read what `write_truth` wrote.

    Raises
    ------
    ParameterError
        The file is not a truth file of this version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if tuple(map(tuple, document["local_orders"])) != LOCAL_ORDERS:
            raise ParameterError(f"{path} uses other spatial terms; simulate the movie again")
        ny, nx = document["shape"]
        dome = document["dome"]
        return MotionTruth(
            shape=(ny, nx),
            global_px=np.array(document["global_px"]),
            local_px=np.array(document["local_px"]),
            dome=None if dome is None else _dome_of((ny, nx), dome),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{path} is not the truth of a simulated movie ({error}); name a *_truth.json"
        ) from error


def _dome_of(shape: tuple[int, int], plain: Mapping[str, Any]) -> Dome:
    return Dome(
        shape=shape,
        top_px=np.array(plain["top_px"]),
        width_px=plain["width_px"],
        largest_px=np.array(plain["largest_px"]),
    )
