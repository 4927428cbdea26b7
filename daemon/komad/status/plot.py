"""The plot of how the detector ages. Imports matplotlib: only for the command that draws it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.ndimage import median_filter

from komad.status.detector import GROWN, MIN_COMPARED, NOTICEABLE
from komad.status.history import changes
from komad.store.detector import N_COMPARED, History, MovieHealth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]
Measure = Callable[[MovieHealth], float | None]

RAW, OUTLIERS, KOMA, QUIET = "#D55E00", "#E69F00", "#0072B2", "0.45"
"""Told apart by those who do not see colours, too (Okabe and Ito)."""
SMOOTHED = 21
"""Movies whose median is drawn as a line over the dots, when there are three times as many."""
WIDE = 10.0
"""Ratio of two curves' medians from which their axis is logarithmic: down to WIDE**-2 of the largest, or to the noise
about zero; linear below, so that nothing left has its place, too."""


def detector_plot(history: History, *, file_format: str = "png") -> bytes:
    """Draw correlated noise, outliers, the pattern left by the gain, and what KOMA averaged, movie by movie.

    Parameters
    ----------
    history
        At least two movies.
    file_format
        png, pdf or svg.
    """
    figure = Figure(figsize=(10, 9.5), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 2, 1.3))
    _noise(axes[0], history)
    _outliers(axes[1], history)
    _pattern(axes[2], history)
    _koma(axes[3], history)
    _mark_changes(axes, history)
    _number_and_time(axes[-1], history)
    first, last = history.movies[0], history.movies[-1]
    title = f"The detector over {len(history.movies):,} movies, {first.stem} to {last.stem}"
    figure.suptitle(title, fontsize=11, fontweight="bold")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=file_format, dpi=110)
    return drawn.getvalue()


def _noise(axes: Axes, history: History) -> None:
    _head(
        axes,
        "correlated noise between frames, %",
        "rising with outliers replaced: take a new gain reference",
    )
    stages: list[tuple[str, str, Measure]] = [
        ("gain alone", RAW, lambda movie: movie.correlation_raw),
        ("+ outliers replaced", OUTLIERS, lambda movie: movie.correlation_outliers),
        ("+ KOMA", KOMA, lambda movie: movie.correlation_koma),
    ]
    _fit_scale(axes, [100 * _values(history.movies, measure) for _, _, measure in stages])
    axes.yaxis.set_major_formatter("{x:g}")
    for label, colour, measure in stages:
        _curve(axes, history, measure, factor=100, colour=colour, label=label)
    _legend(axes)


def _outliers(axes: Axes, history: History) -> None:
    _head(axes, "outlier pixels", "slow growth is wear; a jump is a fault of the camera, or a wrong gain")
    kinds: list[tuple[str, str, Measure]] = [
        ("bad in all frames", OUTLIERS, lambda movie: movie.n_outliers),
        ("x-rays", QUIET, lambda movie: movie.n_xrays),
    ]
    _fit_scale(axes, [_values(history.movies, measure) for _, _, measure in kinds], finest=1)
    for label, colour, measure in kinds:
        _curve(axes, history, measure, factor=1, colour=colour, label=label)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _legend(axes)


def _pattern(axes: Axes, history: History) -> None:
    _head(
        axes,
        "pattern left by the gain, %",
        f"above the dashed line ({GROWN:g} times the start): take a new gain reference",
    )
    for name in history.series:
        movies = [movie for movie in history.movies if movie.series == name]
        start = _values(movies[:N_COMPARED], lambda movie: movie.pattern_spread)
        if np.count_nonzero(np.isfinite(start)) >= MIN_COMPARED:
            limit = 100 * max(GROWN * float(np.nanmedian(start)), NOTICEABLE)
            axes.plot([movies[0].movie_id, movies[-1].movie_id], [limit, limit], "--", color=QUIET, lw=1)
    _curve(axes, history, lambda movie: movie.pattern_spread, factor=100, colour=RAW, label="")
    axes.set_ylim(bottom=0)


def _koma(axes: Axes, history: History) -> None:
    _head(axes, "KOMA", "stack sums averaged, of those wanted; how alike a movie and its neighbours are")
    _curve(
        axes,
        history,
        lambda movie: movie.n_stacks / movie.n_wanted if movie.n_wanted else None,
        factor=1,
        colour=KOMA,
        label="stack sums",
        smooth=False,
    )
    _curve(
        axes,
        history,
        lambda movie: movie.pattern_correlation,
        factor=1,
        colour=RAW,
        label="correlation with neighbours",
    )
    axes.set_ylim(-0.05, 1.1)
    _legend(axes)


def _curve(
    axes: Axes,
    history: History,
    measure: Measure,
    *,
    factor: float,
    colour: str,
    label: str,
    smooth: bool = True,
) -> None:
    """Dots with a line through them, or along their median when there are many; each series by itself."""
    for number, name in enumerate(history.series):
        movies = [movie for movie in history.movies if movie.series == name]
        x = np.array([movie.movie_id for movie in movies])
        y = factor * _values(movies, measure)
        known = np.isfinite(y)
        x, y = x[known], y[known]
        many = smooth and len(y) >= 3 * SMOOTHED
        axes.plot(x, y, ".", color=colour, alpha=0.3 if many else 1, markersize=3)
        line = median_filter(y, SMOOTHED) if many else y
        axes.plot(x, line, color=colour, linewidth=1.5 if many else 1, label=None if number else label)


def _values(movies: Sequence[MovieHealth], measure: Measure) -> FloatArray:
    """(n,) with NaN where nothing was measured."""
    return np.array([np.nan if (value := measure(movie)) is None else value for movie in movies], np.float64)


def _fit_scale(axes: Axes, curves: Sequence[FloatArray], *, finest: float = 0.0) -> None:
    """Linear from zero; logarithmic when one curve lies far below another. Less than `finest` is as good as nothing."""
    known = [curve[np.isfinite(curve)] for curve in curves]
    medians = [float(np.median(curve)) for curve in known if len(curve)]
    if not medians or max(medians) <= 0:
        return
    values = np.concatenate(known)
    low, high = float(np.quantile(values, 0.02)), float(values.max())
    if max(medians) < WIDE * max(min(medians), finest):
        axes.set_ylim(min(0.0, low), high * 1.15)
        return
    decade = np.floor(np.log10(max(medians) / WIDE**2))
    if low < 0:  # noise about zero reaches as far up as down
        decade = max(decade, np.ceil(np.log10(-low)))
    linear_to = max(10.0**decade, finest)
    axes.set_yscale("symlog", linthresh=linear_to, linscale=0.7)
    axes.set_ylim(min(-0.3 * linear_to, 1.5 * low), high * 2)


def _mark_changes(axes: Sequence[Axes], history: History) -> None:
    first, last = history.movies[0].movie_id, history.movies[-1].movie_id
    for movie_id, what in changes(history):
        for each in axes:
            each.axvline(movie_id - 0.5, color="0.2", linewidth=1, linestyle=":")
        left = movie_id > (first + 4 * last) / 5
        axes[2].annotate(
            what,
            (movie_id - 0.5, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if left else 4, 4),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color="0.2",
        )


def _number_and_time(axes: Axes, history: History) -> None:
    """Numbers of movies, and below them when these were found."""
    numbers = np.array([movie.movie_id for movie in history.movies])
    times = np.array([movie.found_at.timestamp() for movie in history.movies])
    pattern = "%H:%M" if times[-1] - times[0] < 20 * 3600 else "%d %b %H:%M"

    def shown(number: float, _: Any) -> str:
        if not numbers[0] <= number <= numbers[-1]:
            return ""
        moment = datetime.fromtimestamp(float(np.interp(number, numbers, times)), UTC)
        return f"{number:g}\n{moment.strftime(pattern)}"

    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(shown))
    axes.set_xlabel("number of the movie, and when it was found (UTC)")


def _head(axes: Axes, name: str, hint: str) -> None:
    axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(hint, loc="right", fontsize=9, color=QUIET)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
