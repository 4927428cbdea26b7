"""How the detector did over a session, in words and as a table. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from komad.status.text import noise
from komad.store.detector import History, MovieHealth, Series

COLUMNS = (
    "movie_id",
    "stem",
    "found_at",
    "series",
    "correlation_raw",
    "correlation_outliers",
    "correlation_koma",
    "n_hot",
    "n_dead",
    "n_defects",
    "n_xrays",
    "pattern_spread",
    "pattern_correlation",
    "koma_mode",
    "n_stacks",
    "n_wanted",
    "n_left_out",
)
"""Of the table, in this order; new ones come at the end."""


def to_csv(history: History) -> str:
    """One line per movie after a line of names; empty is what could not be measured."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for movie in history.movies:
        values = (getattr(movie, name) for name in COLUMNS)
        writer.writerow(
            value.isoformat(timespec="milliseconds") if value is movie.found_at else value for value in values
        )
    return lines.getvalue()


def in_words(movie: MovieHealth) -> str:
    """What one movie shows: a plot of it would be a dot."""
    shared = noise(movie.correlation_raw, movie.correlation_outliers, movie.correlation_koma)
    return (
        f"{movie.stem}: correlated noise {shared}; {movie.n_outliers:,} outlier pixels, "
        f"{movie.n_xrays:,} x-rays; {movie.n_stacks} of {movie.n_wanted} stack sums averaged"
    )


def changes(history: History) -> Iterator[tuple[int, str]]:
    """Number of the first movie of each series but the first, and what is new in it."""
    before: Series | None = None
    first_of = {movie.series: movie.movie_id for movie in reversed(history.movies)}
    for name, series in history.series.items():
        if before is not None:
            yield first_of[name], _what_changed(before, series)
        before = series


def _what_changed(before: Series, series: Series) -> str:
    if (before.ny, before.nx) != (series.ny, series.nx):
        return f"camera mode of {series.nx} x {series.ny}"
    if before.gain != series.gain:
        return "new gain reference" if series.gain else "no gain reference"
    if (before.gain_rot, before.gain_flip) != (series.gain_rot, series.gain_flip):
        return f"gain_rot = {series.gain_rot}, gain_flip = {series.gain_flip}"
    return "another series (camera, folder or dark reference)"
