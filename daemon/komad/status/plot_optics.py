"""The plot of optics groups. Imports matplotlib: only for the command that draws it."""

from __future__ import annotations

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from komad.store.optics import OpticsGroups

AXES = {
    "epu": "beam shift {}, EPU's unit",
    "serialem": "image shift {}, µm",
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
"""Told apart by those who do not see colours, too (Okabe and Ito); neighbouring numbers differ."""
NAMED = 120
"""With more groups, numbers would lie on each other."""


def optics_plot(shown: OpticsGroups, *, file_format: str = "png") -> bytes:
    """Draw where the beam was for each movie, coloured by group, with the numbers of the groups.

    Parameters
    ----------
    shown
        At least one movie.
    file_format
        png, pdf or svg.
    """
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots()
    places = np.array([(shot.x, shot.y) for shot in shown.shots])
    colours = [COLOURS[int(shot.group.rpartition("-")[2]) % len(COLOURS)] for shot in shown.shots]
    size = 12.0 if len(places) < 1000 else 4.0
    axes.scatter(places[:, 0], places[:, 1], s=size, c=colours, linewidths=0, alpha=0.7)
    for group in shown.groups:
        if group.is_open and len(shown.groups) <= NAMED:
            axes.annotate(
                f"{int(group.name.rpartition('-')[2])}",
                (group.x, group.y),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="0.2",
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(AXES[shown.unit].format("x"))
    axes.set_ylabel(AXES[shown.unit].format("y"))
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    tolerances = ", ".join(f"{tolerance:.3g}" for tolerance in shown.tolerances)
    n_open = sum(group.is_open for group in shown.groups)
    axes.set_title(
        f"{len(shown.shots):,} movies in {len(shown.groups)} optics groups ({n_open} open), tolerance {tolerances}",
        fontsize=10,
        fontweight="bold",
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, format=file_format, dpi=100)
    return drawn.getvalue()


def to_csv(shown: OpticsGroups) -> str:
    """One line per movie after a line of names."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("movie_id", "stem", "optics_group", "x", "y"))
    writer.writerows((shot.movie_id, shot.stem, shot.group, shot.x, shot.y) for shot in shown.shots)
    return lines.getvalue()
