"""Stack sums of simulated detectors: Poisson counts of a known pattern, and what lies in the beam."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.detector import Calibration, calibrate, stack_facts
from komad.model import OutlierPixels, StackSum, outliers_at
from komad.simulate.scene import CARBON_DARKENING, draw_hole
from komad.simulate.spec import MovieSpec

FloatArray = npt.NDArray[np.float64]

SHAPE = (256, 320)
N_FRAMES = 40
NO_OUTLIERS = outliers_at([])


def no_references(shape: tuple[int, int] = SHAPE) -> Calibration:
    """Frames are what they are."""
    return calibrate(shape, gain=None, dark=None)


def stack_of(
    expected: FloatArray,  # (ny, nx) e/px in all
    seed: int,
    *,
    calibration: Calibration | None = None,
    outliers: OutlierPixels = NO_OUTLIERS,
    n_frames: int = N_FRAMES,
) -> StackSum:
    """What a counting camera makes of it."""
    total = np.random.default_rng(seed).poisson(expected).astype(np.uint16)
    return as_stack(total, calibration=calibration, outliers=outliers, n_frames=n_frames)


def as_stack(
    total: npt.NDArray[np.generic],
    *,
    calibration: Calibration | None = None,
    outliers: OutlierPixels = NO_OUTLIERS,
    n_frames: int = N_FRAMES,
) -> StackSum:
    """A sum with its facts."""
    calibration = calibration or no_references((total.shape[0], total.shape[1]))
    mean = float(total.mean())
    return StackSum(
        total=total,  # type: ignore[arg-type]
        frame_means=np.full(n_frames, mean / n_frames),
        outliers=outliers,
        facts=stack_facts(total, calibration, outliers, n_frames=n_frames),
    )


def pixel_pattern(spread: float, shape: tuple[int, int] = SHAPE, seed: int = 1000) -> FloatArray:
    """1 with an error of its own in each pixel."""
    return 1 + spread * np.random.default_rng(seed).standard_normal(shape)


def column_pattern(spread: float, shape: tuple[int, int] = SHAPE, seed: int = 1001) -> FloatArray:
    """1 with an error of its own in each column."""
    return 1 + spread * np.random.default_rng(seed).standard_normal(shape[1])[None, :] * np.ones(shape)


def carbon(seed: int, shape: tuple[int, int] = SHAPE) -> FloatArray:
    """The field with the edge of a hole in it: the film keeps electrons away."""
    hole = draw_hole(MovieSpec(ny=shape[0], nx=shape[1], seed=seed))
    return 1 - CARBON_DARKENING * hole.film(*np.mgrid[: shape[0], : shape[1]])


def grid_bar(shape: tuple[int, int] = SHAPE) -> FloatArray:
    """A quarter of the field is dark."""
    field = np.ones(shape)
    field[:, : shape[1] // 4] = 0.05
    return field


def crystals(seed: int, shape: tuple[int, int] = SHAPE) -> FloatArray:
    """Patches of crystalline ice, 48 pixels wide, much darker where they diffract."""
    rng = np.random.default_rng(seed)
    patches = rng.random((shape[0] // 48 + 1, shape[1] // 48 + 1)) < 0.3
    return 1 - 0.3 * np.kron(patches, np.ones((48, 48)))[: shape[0], : shape[1]]


def beam_edge(shape: tuple[int, int] = SHAPE) -> FloatArray:
    """The beam's rim crosses a corner."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 1 / (1 + np.exp((np.hypot(y, x) - 0.7 * np.hypot(*shape)) / 8))
