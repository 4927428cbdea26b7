"""What was found out about the detector: pixels to replace, what a stack sum is like, the pattern of the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

KomaMode = Literal["trailing", "centred", "off"]
KomaMethod = Literal["subtract", "divide"]

ALL_FRAMES = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class OutlierPixels:
    """Pixels that do not tell the truth: hot, dead, known defects, and hits of x-rays in single frames."""

    yx: npt.NDArray[np.int32]
    """(n, 2) as (y, x), sorted by row, then column, then frame."""
    keep: npt.NDArray[np.float32]
    """(n,) part of its own value that a pixel keeps, 0 to below 1: McLeod et al. (2017) eq. 6."""
    frame: npt.NDArray[np.int32]
    """(n,) the frame in which the pixel is replaced, from 0; ALL_FRAMES for those that are bad throughout."""
    n_hot: int = 0
    n_dead: int = 0
    n_defects: int = 0
    """Named by a defect file, or without a usable gain."""

    def __len__(self) -> int:
        """Number of entries; an x-ray counts once for each frame."""
        return len(self.yx)

    @property
    def n_xrays(self) -> int:
        """Hits in single frames."""
        return int(np.count_nonzero(self.frame != ALL_FRAMES))

    @property
    def throughout_yx(self) -> npt.NDArray[np.int32]:
        """(n, 2) as (y, x): those that are bad in all frames; what RELION calls hot pixels."""
        return self.yx[self.frame == ALL_FRAMES]


def outliers_at(places: npt.ArrayLike) -> OutlierPixels:
    """Pixels (n, 2) that are replaced as a whole in every frame."""
    yx = np.asarray(places, np.int32).reshape(-1, 2)
    yx = yx[np.lexsort((yx[:, 1], yx[:, 0]))]
    n = len(yx)
    return OutlierPixels(yx=yx, keep=np.zeros(n, np.float32), frame=np.full(n, ALL_FRAMES, np.int32))


@dataclass(frozen=True, kw_only=True, slots=True)
class StackFacts:
    """What decides whether a movie's stack sum shows the detector and not the specimen. Corrected by gain and dark."""

    mean_e_per_px: float
    """Mean of the sum of all frames, outliers left out."""
    contrast: float
    """Robust relative spread of the means of blocks of 32 x 32 pixels, a smooth illumination taken off."""
    gradient: float
    """Relative difference of the illumination between opposite edges of the field."""
    outlier_fraction: float
    """Of all pixels, bad ones throughout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KomaWindow:
    """Which movies' stack sums are averaged for one movie, chosen once and kept."""

    mode: KomaMode
    members: tuple[int, ...] = ()
    """Movie ids, rising; never the movie's own."""
    wanted: int = 0
    """Number of stacks that a full window has: twice the radius."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Movie id -> why a neighbour was not taken: one sentence."""
    note: str = ""
    """Why there are fewer than wanted; '' when there are not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """What the gain reference left of the detector, from neighbouring movies."""

    relative: npt.NDArray[np.float32]
    """(ny, nx): the excess of each pixel over the mean, as a fraction of it; to be taken off, already scaled."""
    n_stacks: int
    spread: float
    """Standard deviation of `relative`."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Part of the window's mean that the movie itself shows, 0 to 1: of single pixels, rows and columns."""
    correlation: float = float("nan")
    """Pearson correlation of the window's mean with the movie's own stack sum, both without what is smooth."""
    shared_spread: float = float("nan")
    """Relative standard deviation of the pattern that the movie and its neighbours share, noise taken off."""
    mean_e_per_px_frame: float = 0.0
    """The movie's own mean, of frames with beam: what `relative` is a fraction of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorReport:
    """The health of the detector as one movie shows it. NaN is what could not be measured."""

    correlation_raw: float = float("nan")
    """Mean Pearson correlation between frames, McLeod et al. (2017) eq. 7, after the gain alone."""
    correlation_outliers: float = float("nan")
    """The same after outliers were replaced."""
    correlation_koma: float = float("nan")
    """The same after KOMA; equal to `correlation_outliers` without."""
    n_hot: int = 0
    n_dead: int = 0
    n_defects: int = 0
    n_xrays: int = 0
    pattern_spread: float = float("nan")
    """Relative standard deviation of the pattern that neighbours share, noise taken off."""
    pattern_correlation: float = float("nan")
    """Of this movie's stack sum with that of its neighbours, after the gain."""
    window: KomaWindow = field(default_factory=lambda: KomaWindow(mode="off"))
    n_stacks: int = 0
    """Sums that were really averaged; fewer than the window has members when some were lost."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """`Pattern.scale`."""
