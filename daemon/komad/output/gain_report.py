"""Pictures for `komad gain`: the pattern before and after, and the power of the gain over the dose rate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from komad.detector.gain import GainVerdict, OrientationScore, orient
from komad.detector.gamma import K2, PowerLinear, power_linear
from komad.formats.atomic import write_bytes

FloatArray = npt.NDArray[np.float32]

K2_RATES = (0.25, 9.0)
"""e/px/s, at which the power was measured for the K2 Summit."""
DETAIL_PX = 256
"""Side of the detail that is shown."""


def draw_orientation(
    path: Path,
    total: FloatArray,  # (ny, nx)
    gain: FloatArray,  # as it lies in its file
    verdict: GainVerdict,
) -> None:
    """Draw a detail of the sum of raw frames, without gain, with it as configured and as it fits best; and the scores.

    All details share one grey scale: what the gain takes away is gone, what it adds is there.

    Raises
    ------
    OutputError
        The picture cannot be written.
    """
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    grid: Any = figure.add_gridspec(2, 3, height_ratios=(1.35, 1))
    best = next(score for score in verdict.scores if score.part == max(s.part for s in verdict.scores))
    shown = [("as the camera wrote it", None), (f"as configured: {verdict.configured}", verdict.configured)]
    if best != verdict.configured:
        shown.append((f"the best: {best}", best))
    details = [(title, _detail(total, gain, way)) for title, way in shown]
    low, high = np.percentile(details[0][1], (1, 99))
    for column, (title, detail) in enumerate(details):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(detail, cmap="gray", origin="lower", vmin=low, vmax=high)
        axes.set(title=f"{title}\nspread {detail.std():.2%}", xticks=[], yticks=[])
    _draw_scores(figure.add_subplot(grid[1, :]), verdict)
    _save(figure, path)


def _detail(total: FloatArray, gain: FloatArray, way: OrientationScore | None) -> FloatArray:
    """The middle of the sum relative to its mean, times the gain."""
    place = tuple(
        slice((size - min(size, DETAIL_PX)) // 2, (size + min(size, DETAIL_PX)) // 2) for size in total.shape
    )
    detail = total[place].astype(np.float32)
    if way is not None:
        detail = detail * np.nan_to_num(
            orient(gain, gain_rot=way.gain_rot, gain_flip=way.gain_flip)[place], posinf=0.0, neginf=0.0
        )
    detail /= max(float(np.median(detail)), 1e-6)
    # Outlier pixels would hide in the spread what the gain does.
    return np.clip(detail, *np.percentile(detail, (0.1, 99.9)))


def _draw_scores(axes: Axes, verdict: GainVerdict) -> None:
    scores = sorted(verdict.scores, key=lambda score: (score.gain_rot, score.gain_flip))
    names = [
        f"rot {score.gain_rot}, flip {score.gain_flip}"
        + ("\nconfigured" if score == verdict.configured else "")
        for score in scores
    ]
    colours = ["C2" if score == verdict.best and verdict.verdict != "unclear" else "C7" for score in scores]
    errors = [score.error if np.isfinite(score.error) else 0.0 for score in scores]
    axes.bar(names, [score.part for score in scores], yerr=errors, color=colours, capsize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("part of the gain's pattern\nthat the movies show")
    axes.set_title(verdict.sentence, fontsize=10, wrap=True)


def draw_gamma(
    path: Path, rates: Sequence[float], gammas: Sequence[float], numbers: PowerLinear | None
) -> None:
    """Draw the measured powers over the dose rate, as figure 9 of McLeod et al. (2017), and the fit if there is one.

    Raises
    ------
    OutputError
        The picture cannot be written.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(rates, gammas, "x", color="C0", markersize=8, label="measured")
    at = np.geomspace(min(rates), max(*rates, 1.01 * min(rates)), 200)
    if numbers is not None:
        words = ", ".join(f"{number:.3g}" for number in numbers)
        axes.plot(at, power_linear(at, *numbers), color="C2", label=f"fit: {words}")
    published = at[(at >= K2_RATES[0]) & (at <= K2_RATES[1])]
    if len(published):
        k2 = power_linear(published, *K2)
        axes.plot(published, k2, color="C7", linestyle=":", label="published for the K2 Summit")
    axes.set(xlabel="dose rate, e/px/s", ylabel="power of the gain")
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(path, picture.getvalue())
