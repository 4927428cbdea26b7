"""`komad plot detector`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from komad.optics.groups import BeamShift
from komad.output.detector import detector_summary
from komad.store import Store, Taken
from tests.cli.conftest import Komad, movie
from tests.output.test_detector import REPORT

pytestmark = pytest.mark.made_up_database


def let_be_corrected(store: Store, *names: str) -> None:
    """Movies with what they show of the detector; those that are not there yet are added."""
    for name in names:
        store.add_movie(movie(name))
    with store.write() as connection:
        for name in names:
            connection.exec_driver_sql(
                "UPDATE jobs SET state = 'done', sequence = movie_id, summary = ? WHERE kind = 'correct'"
                " AND movie_id = (SELECT movie_id FROM movies WHERE stem = ?)",
                (json.dumps({"detector": detector_summary(REPORT)}), name),
            )


def test_plot_is_written_beside_a_running_daemon(komad: Komad, config: Path, store: Store) -> None:
    """The database is open for writing meanwhile; the file and the number of movies are told."""
    let_be_corrected(store, "c", "d", "e")
    path = config.parent / "tonight.png"
    outcome = komad("plot", "detector", "-c", config, "-o", path)
    assert (outcome.code, outcome.out) == (0, f"{path}: 3 movies\n")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert komad("plot", "detector", "-c", config, "-o", path, "--last", 2).out == f"{path}: 2 movies\n"


def test_no_movie_and_one_movie_are_said(komad: Komad, config: Path, store: Store) -> None:
    """No empty picture, no error."""
    path = config.parent / "detector.png"
    outcome = komad("plot", "detector", "-c", config, "-o", path)
    assert outcome.code == 0
    assert "none has been corrected yet" in outcome.out
    let_be_corrected(store, "c")
    assert "c: correlated noise raw 0.4 %" in komad("plot", "detector", "-c", config, "-o", path).out
    assert not path.exists()


def test_movies_of_the_last_hours(komad: Komad, config: Path, store: Store) -> None:
    """One found yesterday is not of tonight."""
    let_be_corrected(store, "c", "d", "e")
    with store.write() as connection:
        connection.exec_driver_sql(
            "UPDATE movies SET found_at = '2020-01-01T00:00:00.000+00:00' WHERE stem = 'c'"
        )
    lines = komad("plot", "detector", "-c", config, "--hours", 1, "--csv").out.splitlines()
    assert [line.split(",")[1] for line in lines] == ["stem", "d", "e"]


def test_table_as_a_file(komad: Komad, config: Path, store: Store) -> None:
    """The same text as on the terminal."""
    let_be_corrected(store, "c", "d")
    path = config.parent / "detector.csv"
    assert komad("plot", "detector", "-c", config, "--csv", "-o", path).out == f"{path}: 2 movies\n"
    assert path.read_text() == komad("plot", "detector", "-c", config, "--csv").out


def test_wrong_options_are_named(komad: Komad, config: Path, store: Store) -> None:
    """Two ways to choose movies, an unknown kind of picture, a folder that is not there, no database."""
    outcome = komad("plot", "detector", "-c", config, "--last", 3, "--hours", 2)
    assert (outcome.code, "give one of them" in outcome.err) == (2, True)
    outcome = komad("plot", "detector", "-c", config, "-o", "a.jpg")
    assert (outcome.code, "png, pdf, svg" in outcome.err) == (2, True)
    let_be_corrected(store, "c", "d")
    lost = config.parent / "lost" / "a.png"
    outcome = komad("plot", "detector", "-c", config, "-o", lost)
    assert (outcome.code, str(lost) in outcome.err) == (6, True)


def test_without_a_database(komad: Komad, config: Path) -> None:
    """As the other commands."""
    assert komad("plot", "detector", "-c", config).code == 5


def test_optics_groups(komad: Komad, config: Path, store: Store) -> None:
    """A picture of all movies that were grouped, or a table; of none, a sentence that names the setting."""
    path = config.parent / "optics.png"
    outcome = komad("plot", "optics", "-c", config, "-o", path)
    assert (outcome.code, path.exists()) == (0, False)
    assert 'watch.optics_groups = "beam_shift"' in outcome.out
    for number, (name, x) in enumerate((("c", 0.0), ("d", 0.1), ("e", 0.001))):
        shift = BeamShift(x=x, y=0.5, unit="epu", magnification=1, taken_at_s=number)
        taken = Taken(folder="/data", name="opticsGroup1", tolerance=None, shift=shift)
        store.add_movie(movie(name), taken=taken)
    assert komad("plot", "optics", "-c", config, "-o", path).out == f"{path}: 3 movies, 2 optics groups\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    lines = komad("plot", "optics", "-c", config, "--csv").out.splitlines()
    assert [line.partition(",")[2] for line in lines] == [
        "stem,optics_group,x,y",
        "c,opticsGroup1-001,0.0,0.5",
        "d,opticsGroup1-002,0.1,0.5",
        "e,opticsGroup1-001,0.001,0.5",
    ]
    outcome = komad("plot", "optics", "-c", config, "-o", "a.jpg")
    assert (outcome.code, "png, pdf, svg" in outcome.err) == (2, True)
