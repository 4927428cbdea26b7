"""The history of a detector as a table, in words and as a picture."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from komad.status import plot
from komad.status.history import changes, in_words, to_csv
from komad.store.detector import History
from tests.status.conftest import SERIES, health, history

MEASURES = (
    "correlation_raw", "correlation_outliers", "correlation_koma", "pattern_spread", "pattern_correlation",
)  # fmt: skip


def ageing(n_movies: int) -> History:
    """A detector whose noise grows five-fold, with a new gain reference in the middle."""
    movies = (
        health(
            number + 1,
            series="new" if number >= n_movies // 2 else "k3",
            correlation_raw=1e-3 * (1 + 4 * number / n_movies),
            n_xrays=number % 20,
            n_stacks=min(number, 24),
            pattern_spread=None if number == 0 else 0.006,
        )
        for number in range(n_movies)
    )
    return history(*movies, new=replace(SERIES, gain="ef" * 32))


def test_table_has_a_line_per_movie() -> None:
    """With the names of the columns; what was not measured is empty, numbers are whole."""
    table = list(csv.DictReader(io.StringIO(to_csv(ageing(3)))))
    assert [row["movie_id"] for row in table] == ["1", "2", "3"]
    assert table[0]["pattern_spread"] == ""
    assert float(table[1]["correlation_raw"]) == pytest.approx(1e-3 * (1 + 4 / 3))
    assert table[2]["found_at"] == "2026-03-03T19:23:00.000+00:00"
    assert to_csv(history()).count("\n") == 1


def test_one_movie_in_words() -> None:
    """What a plot would show."""
    said = in_words(health(7, correlation_koma=None))
    assert said.startswith("FoilHole_7: correlated noise raw 0.4 %, outliers filled 0.08 %; 1,240 outlier")
    assert "24 of 24" in said


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"gain": "ef" * 32}, "new gain reference"),
        ({"gain": ""}, "no gain reference"),
        ({"gain_flip": 2}, "gain_rot = 0, gain_flip = 2"),
        ({"ny": 8184, "nx": 11520}, "camera mode of 11520 x 8184"),
        ({}, "another series (camera, folder or dark reference)"),
    ],
)
def test_what_changed(new: dict[str, Any], said: str) -> None:
    """Each new series has its mark, at its first movie, even when an old one comes back."""
    movies = [health(n, series="k3" if n in (1, 2, 4) else "new") for n in range(1, 6)]
    assert list(changes(history(*movies, new=replace(SERIES, **new)))) == [(3, said)]


def drawn(shown: History, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure behind the picture."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    picture = np.asarray(Image.open(io.BytesIO(plot.detector_plot(shown))).convert("L"))
    assert picture.shape[0] > 800
    assert picture.std() > 10
    return figures[0]


def test_plot_of_an_ageing_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise over decades is logarithmic with room for zero; the new gain has a mark with its name."""
    figure = drawn(ageing(200), monkeypatch)
    noise, outliers, pattern, koma = figure.axes
    assert noise.get_yscale() == "symlog"
    bottom, top = noise.get_ylim()
    assert bottom < 0
    assert top > 0.5
    assert "take a new gain" in noise.get_title(loc="right")
    assert outliers.get_yscale() == "symlog"
    assert [text.get_text() for text in pattern.texts] == ["new gain reference"]
    marks = [line for line in koma.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in marks] == [100.5]
    limits = [line for line in pattern.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in limits] == pytest.approx([0.9, 0.9])


def test_heads_are_legible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of each part, and beside it, not upon it, what to look for."""
    for axes in drawn(ageing(30), monkeypatch).axes:
        name, hint = (
            next(
                text for text in axes.findobj(Text) if text.get_text() == axes.get_title(loc=loc)
            ).get_window_extent()
            for loc in ("left", "right")
        )
        assert name.x1 < hint.x0


def test_plot_of_two_movies_and_of_nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alike values have a linear axis; gaps are gaps, not zeros."""
    alike = [health(n, correlation_outliers=3e-3, correlation_koma=3e-3) for n in (1, 2)]
    assert drawn(history(*alike), monkeypatch).axes[0].get_yscale() == "linear"
    nothing: dict[str, Any] = dict.fromkeys(MEASURES)
    empty = [health(n, n_hot=0, n_dead=0, n_defects=0, n_xrays=0, n_wanted=0, **nothing) for n in (1, 2)]
    for line in drawn(history(*empty), monkeypatch).axes[0].lines:
        assert len(line.get_xdata()) == 0


def test_noise_that_is_gone_stays_on_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unbiased estimate of nothing is negative half of the time."""
    movies = [health(n, correlation_koma=3e-6 * (-1) ** n) for n in range(1, 31)]
    noise = drawn(history(*movies), monkeypatch).axes[0]
    assert noise.get_ylim()[0] < -3e-4
    assert min(min(line.get_ydata()) for line in noise.lines) == pytest.approx(-3e-4)


def test_a_few_outliers_are_counted_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decades between one and none."""
    few = [health(n, n_hot=5, n_dead=0, n_defects=0, n_xrays=0) for n in range(1, 31)]
    assert drawn(history(*few), monkeypatch).axes[1].get_yscale() == "linear"
    more = [replace(movie, n_hot=40) for movie in few]
    axis = drawn(history(*more), monkeypatch).axes[1].yaxis
    assert axis.get_transform().linthresh == 1


def test_other_formats() -> None:
    """For slides and papers."""
    assert plot.detector_plot(ageing(3), file_format="pdf").startswith(b"%PDF")
    assert b"<svg" in plot.detector_plot(ageing(3), file_format="svg")
