"""How close a demo session came to the truth: numbers and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from komad.formats.images import read_image
from komad.formats.movies import read_frames
from komad.output.thumbnail import area_bin, to_grey
from komad.simulate import read_truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CROP_ANGSTROM = 420.0
"""Side of the detail that is shown before and after."""
SHOWN_ANGSTROM_PER_PX = 3.3
"""Pictures are binned to about this, else only noise shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionComparison:
    """Measured and true motion of one movie."""

    stem: str
    measured_px: npt.NDArray[np.float64]
    """(n_frames, 2) as (y, x): shifts minus their mean."""
    true_px: npt.NDArray[np.float64]
    """The same for the truth."""
    pixel_size_angstrom: float

    @property
    def extent_px(self) -> float:
        """How far apart the specimen truly was, at most."""
        return float(np.ptp(self.true_px, axis=0).max())

    @property
    def rms_px(self) -> float:
        """RMS difference per axis."""
        return float(np.sqrt(np.mean((self.measured_px - self.true_px) ** 2)))


def compare(details_path: Path, truth_path: Path) -> MotionComparison:
    """Compare the shifts in a `<stem>.json` with the truth of its movie; only differences between frames count."""
    details: dict[str, Any] = json.loads(details_path.read_text(encoding="utf-8"))
    measured = np.array(details["motion"]["shifts_yx_px"], dtype=np.float64)
    true = read_truth(truth_path).global_shifts_px()
    return MotionComparison(
        stem=details["stem"],
        measured_px=measured - measured.mean(axis=0),
        true_px=true - true.mean(axis=0),
        pixel_size_angstrom=details["movie_pixel_size_angstrom"],
    )


def draw(
    path: Path,
    comparisons: Sequence[MotionComparison],
    *,
    stem: str,
    movie: Path,
    gain: Path,
    micrograph: Path,
) -> None:
    """Draw a session: a micrograph, motion measured and true, and a detail before and after correction.

    Parameters
    ----------
    path
        The PNG to write.
    stem, movie, gain, micrograph
        The movie that is shown, and its files; `micrograph` is the unweighted sum.
    """
    from matplotlib.figure import Figure

    angstrom_per_px = comparisons[0].pixel_size_angstrom
    after = read_image(micrograph)
    before = read_frames(movie).sum(axis=0, dtype=np.float32) * read_image(gain)
    figure = Figure(figsize=(11, 10.6), layout="constrained")
    axes: Any = figure.subplots(2, 2)
    _draw_picture(axes[0, 0], after, angstrom_per_px, f"{stem}, corrected")
    _draw_tracks(axes[0, 1], comparisons)
    _draw_picture(
        axes[1, 0], _detail(before, angstrom_per_px), angstrom_per_px, "detail, frames summed as they came"
    )
    _draw_picture(axes[1, 1], _detail(after, angstrom_per_px), angstrom_per_px, "the same, motion corrected")
    figure.savefig(path, dpi=110)


def _draw_picture(axes: Axes, image: npt.NDArray[np.float32], angstrom_per_px: float, title: str) -> None:
    factor = max(1, round(SHOWN_ANGSTROM_PER_PX / angstrom_per_px))
    height, width = (size * angstrom_per_px / 10 for size in image.shape)
    axes.imshow(to_grey(area_bin(image, factor)), cmap="gray", origin="lower", extent=(0, width, 0, height))
    axes.set(title=title, xlabel="nm", ylabel="nm")


def _draw_tracks(axes: Axes, comparisons: Sequence[MotionComparison]) -> None:
    for number, comparison in enumerate(comparisons):
        scale = -comparison.pixel_size_angstrom  # what the specimen did
        (y, x), (true_y, true_x) = (scale * comparison.measured_px).T, (scale * comparison.true_px).T
        label = f"{comparison.stem}: {comparison.rms_px:.3f} px RMS"
        axes.plot(true_x, true_y, color=f"C{number}", alpha=0.35, linewidth=5, solid_capstyle="round")
        axes.plot(x, y, color=f"C{number}", linewidth=1, marker=".", markersize=4, label=label)
    axes.set(
        title="motion of the specimen: measured (thin) on true (wide)",
        xlabel="x, Å",
        ylabel="y, Å",
        aspect="equal",
    )
    axes.legend(fontsize="small")
    axes.set_adjustable("datalim")


def _detail(image: npt.NDArray[np.float32], angstrom_per_px: float) -> npt.NDArray[np.float32]:
    """The middle of the picture."""
    half = min(round(CROP_ANGSTROM / angstrom_per_px), *image.shape) // 2
    y, x = (size // 2 for size in image.shape)
    return image[y - half : y + half, x - half : x + half]
