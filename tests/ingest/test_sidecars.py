"""Which sidecar is found for a movie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from komad.ingest import sidecars
from tests.ingest.conftest import epu_text, header, mdoc_text

MOVIE = header(5760, 4092)


@pytest.mark.parametrize(
    ("movie", "sidecar"),
    [
        ("a.b_1.tif", "a.b_1.tif.mdoc"),
        ("a.b_1.tif", "a.b_1.mdoc"),
        ("a.b_1.tif", "a.b_1.mrc.mdoc"),
        ("a.mrc", "a.mrc.mdoc"),
        ("FoilHole_1_Data_2_Fractions.tiff", "FoilHole_1_Data_2.xml"),
        ("FoilHole_1_Data_2_fractions.mrc", "FoilHole_1_Data_2.xml"),
        ("FoilHole_1_Data_2_EER.eer", "FoilHole_1_Data_2.xml"),
        ("a.tiff", "a.xml"),
        ("a.tif", "whole_session.mdoc"),
    ],
)
def test_names(tmp_path: Path, movie: str, sidecar: str) -> None:
    """All names that SerialEM and EPU give are found, and the reading says which it was."""
    text = (
        epu_text()
        if sidecar.endswith("xml")
        else mdoc_text(SubFramePath=rf"X:\frames\{movie}", ExposureTime=2)
    )
    (tmp_path / sidecar).write_text(text, encoding="utf-8")
    reading = sidecars.find(tmp_path / movie, MOVIE)
    assert reading.name == sidecar
    assert reading.values["voltage_kv"] == 300


def test_none(tmp_path: Path) -> None:
    """No sidecar, or only those of other movies: an empty reading."""
    (tmp_path / "b.tif.mdoc").write_text(mdoc_text(SubFramePath=r"X:\b.tif"))
    (tmp_path / "ab.xml").write_text(epu_text(), encoding="utf-8")
    for movie in ("a.tif", "a" * 251 + ".tif"):
        reading = sidecars.find(tmp_path / movie, MOVIE)
        assert reading.name == ""
        assert not reading.values
        assert not reading.doubts


def test_an_incomplete_sidecar_is_mentioned_and_the_next_one_used(tmp_path: Path) -> None:
    """XML that is still being written does not hide a session's mdoc, nor is it an error."""
    (tmp_path / "a.xml").write_text(epu_text()[:500], encoding="utf-8")
    reading = sidecars.find(tmp_path / "a.tif", MOVIE)
    assert reading.name == ""
    assert "a.xml was not used" in reading.doubts["sidecar"]
    (tmp_path / "all.mdoc").write_text(mdoc_text(SubFramePath=r"X:\a.tif", Voltage=200))
    assert sidecars.find(tmp_path / "a.tif", MOVIE).values["voltage_kv"] == 200


def test_of_many_session_files_the_newest_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of files that are opened for one movie is bounded; the newest come first."""
    monkeypatch.setattr(sidecars, "LISTING_S", 0.0)
    (tmp_path / "session.mdoc").write_text(mdoc_text(SubFramePath=r"X:\a.tif"))
    for i in range(sidecars.SESSION_FILES):
        (tmp_path / f"other{i}.tif.mdoc").write_text(mdoc_text(SubFramePath=rf"X:\other{i}.tif"))
        os.utime(tmp_path / f"other{i}.tif.mdoc", (1000 + i, 1000 + i))
    os.utime(tmp_path / "session.mdoc", (2000, 2000))
    assert sidecars.find(tmp_path / "a.tif", MOVIE).name == "session.mdoc"
    os.utime(tmp_path / "session.mdoc", (1, 1))
    assert sidecars.find(tmp_path / "a.tif", MOVIE).name == ""


def test_a_folder_is_not_listed_for_each_of_its_movies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand movies without sidecars cost a few listings; one that is added is seen by the next movie."""
    scandir, listed = os.scandir, []

    def counting(path: Path) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    for number in range(1000):
        assert sidecars.find(tmp_path / f"{number}.tif", MOVIE).name == ""
    assert len(listed) < 100
    os.utime(tmp_path, (1, 1))  # so that the next change is one, however coarse the times are
    sidecars.find(tmp_path / "a.tif", MOVIE)
    (tmp_path / "all.mdoc").write_text(mdoc_text(SubFramePath=r"X:\b.tif"))
    assert sidecars.find(tmp_path / "b.tif", MOVIE).name == "all.mdoc"


@pytest.mark.parametrize("suffix", [".mdoc", ".xml"])
def test_a_sidecar_as_it_is_written(tmp_path: Path, suffix: str) -> None:
    """At whatever byte a writer has got to: what is read is right or absent, never a number cut short."""
    text = mdoc_text(SubFramePath=r"X:\a.tif", ExposureDose=50.25) if suffix == ".mdoc" else epu_text()
    whole = text.encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole)
    complete = dict(sidecars.find(tmp_path / "a.tif", MOVIE).values)
    assert complete["voltage_kv"] == 300
    n_complete = 0
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        found = sidecars.find(tmp_path / "a.tif", MOVIE).values
        assert found.items() <= complete.items(), whole[:end][-20:]
        n_complete += found == complete
    assert 1 <= n_complete < len(whole)


SERIES = "".join(
    f"[ZValue = {i}]\nTiltAngle = {3 * i}\nExposureDose = 2\nSubFramePath = X:\\frames\\tilt_{i}.tif\n"
    for i in range(3)
)


def test_a_series_beside_the_movie(tmp_path: Path) -> None:
    """A series in the movie's folder is found by itself, unless the movie has a sidecar of its own."""
    (tmp_path / "series.mrc.mdoc").write_text(SERIES)
    reading = sidecars.find(tmp_path / "tilt_2.tif", MOVIE)
    assert (reading.earlier_exposures, reading.facts["tilt_degree"]) == (2.0, 6.0)
    (tmp_path / "tilt_2.tif.mdoc").write_text(mdoc_text(SubFramePath=r"X:\tilt_2.tif"))
    assert sidecars.find(tmp_path / "tilt_2.tif", MOVIE).earlier_exposures == 0.0


@pytest.mark.parametrize("place", ["series", "series/b.mrc.mdoc"])
def test_a_series_that_is_named(tmp_path: Path, place: str) -> None:
    """The file, or the folder of many: it adds its place and angle to the movie's own sidecar, or stands for it."""
    (tmp_path / "series").mkdir()
    (tmp_path / "series/a.mrc.mdoc").write_text(
        mdoc_text("ZValue", SubFramePath=r"X:\other.tif", TiltAngle=0)
    )
    (tmp_path / "series/b.mrc.mdoc").write_text(SERIES)
    alone = sidecars.find(tmp_path / "tilt_1.tif", MOVIE, tmp_path / place)
    assert (alone.name, alone.earlier_exposures) == ("b.mrc.mdoc", 1.0)
    (tmp_path / "tilt_1.tif.mdoc").write_text(mdoc_text(SubFramePath=r"X:\tilt_1.tif", Defocus=-4))
    both = sidecars.find(tmp_path / "tilt_1.tif", MOVIE, tmp_path / place)
    assert (both.name, both.earlier_exposures) == ("tilt_1.tif.mdoc", 1.0)
    assert (both.facts["tilt_degree"], both.facts["defocus_um"]) == (3.0, -4.0)


def test_a_series_that_does_not_list_the_movie_yet(tmp_path: Path) -> None:
    """Its place is unknown, not the first; a file that is not there is mentioned."""
    (tmp_path / "series.mdoc").write_text(SERIES)
    reading = sidecars.find(tmp_path / "tilt_3.tif", MOVIE, tmp_path / "series.mdoc")
    assert reading.earlier_exposures is None
    reading = sidecars.find(tmp_path / "tilt_3.tif", MOVIE, tmp_path / "gone.mdoc")
    assert "gone.mdoc was not used: No such file" in reading.doubts["sidecar"]


@pytest.mark.parametrize("name", ["series_override.mdoc", "Position_1_Override.mdoc"])
def test_override_files_of_tomography_5_are_passed_over(tmp_path: Path, name: str) -> None:
    """They list movies too, with other doses; neither beside the movie nor in the folder of series are they read."""
    (tmp_path / name).write_text(SERIES)
    assert sidecars.find(tmp_path / "tilt_1.tif", MOVIE).name == ""
    assert sidecars.find(tmp_path / "tilt_1.tif", MOVIE, tmp_path).earlier_exposures is None
    (tmp_path / "series.mdoc").write_text(SERIES)
    assert sidecars.find(tmp_path / "tilt_1.tif", MOVIE, tmp_path).name == "series.mdoc"
