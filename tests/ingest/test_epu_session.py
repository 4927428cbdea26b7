"""The folder of EPU's session, in which a movie's description is found by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from komad.ingest import sidecars
from komad.ingest.epu_session import REFRESH_S, EpuSession
from tests.ingest.conftest import REAL_SIDECARS, epu_text, header, needs_real_sidecars


def put(session: Path, name: str, square: str = "GridSquare_1", disc: str = "Images-Disc1") -> Path:
    """Write the description of an image as EPU does."""
    path = session / disc / square / "Data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(epu_text(), encoding="utf-8")
    return path


class Clock:
    """Seconds that are set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


def test_found_by_name_as_it_comes(tmp_path: Path) -> None:
    """In old and new grid squares and discs; what is not there yet is looked for again after some seconds."""
    clock = Clock()
    session = EpuSession(tmp_path, clock)
    first = put(tmp_path, "FoilHole_1_Data_2_3_20250108_154915.xml")
    assert session.find("foilhole_1_DATA_2_3_20250108_154915") == first
    later = (
        put(tmp_path, "FoilHole_2.xml"),
        put(tmp_path, "a.xml", "GridSquare_2"),
        put(tmp_path, "b.xml", disc="images-disc2"),
    )
    assert session.find("FoilHole_2") is None
    clock.now_s += REFRESH_S
    assert [session.find(path.stem) for path in later] == list(later)
    assert session.find("FoilHole_3") is None


def test_folders_that_did_not_change_are_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred grid squares only the newest, and those with something new."""
    clock = Clock()
    for square in range(100):
        data = put(tmp_path, f"a{square}.xml", f"GridSquare_{square}").parent
        os.utime(data, (1000 + square, 1000 + square))
    session = EpuSession(tmp_path, clock)
    assert session.find("a7") is not None
    listed = []
    monkeypatch.setattr(EpuSession, "_list", lambda _, folder: listed.append(folder.parent.name))
    clock.now_s += REFRESH_S
    put(tmp_path, "b.xml", "GridSquare_40")
    session.find("nothing")
    session.find("nothing else")
    assert listed == ["GridSquare_40"]


def test_the_disc_itself(tmp_path: Path) -> None:
    """`Images-Disc1` may be named instead of the folder above it."""
    path = put(tmp_path, "a.xml")
    assert EpuSession(tmp_path / "Images-Disc1").find("a") == path


@pytest.mark.parametrize(
    "movie", ["FoilHole_1_Fractions.tiff", "FoilHole_1_EER.eer", "FoilHole_1_fractions.mrc"]
)
def test_a_movie_on_another_disk(tmp_path: Path, movie: str) -> None:
    """Its description is used; one beside the movie goes before it."""
    put(tmp_path / "session", "FoilHole_1.xml")
    (tmp_path / "movies").mkdir()
    path, session = tmp_path / "movies" / movie, tmp_path / "session"
    assert sidecars.find(path, header(5760, 4092), None, session).values["voltage_kv"] == 300
    (tmp_path / "movies/FoilHole_1.xml").write_text(epu_text(volts=200000), encoding="utf-8")
    assert sidecars.find(path, header(5760, 4092), None, session).values["voltage_kv"] == 200


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    """No description yet, half of one, no folder: nothing is used, and the doubt names the file and the folder."""
    session = tmp_path / "session"
    movie = tmp_path / "FoilHole_1_Fractions.tiff"
    put(session, "other.xml")
    doubts = sidecars.find(movie, header(9, 9), None, session).doubts["sidecar"]
    assert doubts == f"FoilHole_1.xml is not in {session} (yet)"
    half = put(tmp_path / "half", "FoilHole_1.xml")
    half.write_text(epu_text()[:700], encoding="utf-8")
    assert "not complete XML" in sidecars.find(movie, header(9, 9), None, tmp_path / "half").doubts["sidecar"]
    gone = sidecars.find(movie, header(9, 9), None, tmp_path / "gone")
    assert (
        gone.doubts["sidecar"]
        == f"FoilHole_1.xml in {tmp_path / 'gone'} was not used: No such file or directory"
    )
    assert not gone.values


@needs_real_sidecars
def test_a_real_session() -> None:
    """Both grid squares of a real session tree; the two shots of a hole are the same distance apart in both holes."""
    session = REAL_SIDECARS / "epu/epu-dir-example"
    shifts = {}
    for stem in (
        "FoilHole_9015883_Data_9017347_6_20250108_154915",
        "FoilHole_9015883_Data_9017354_6_20250108_154918",
        "FoilHole_9028219_Data_9017347_50_20250109_062621",
        "FoilHole_9028219_Data_9017354_50_20250109_062624",
    ):
        facts = sidecars.find(
            Path(f"/elsewhere/{stem}_Fractions.tiff"), header(5760, 4092, 50), None, session
        ).facts
        shifts[stem[9:16], stem[22:29]] = (facts["beam_shift_x"], facts["beam_shift_y"])
    assert shifts["9015883", "9017347"] == (0.060867246240377426, -0.15422800183296204)
    apart = [
        tuple(b - a for a, b in zip(shifts[hole, "9017347"], shifts[hole, "9017354"], strict=True))  # type: ignore[operator]
        for hole in ("9015883", "9028219")
    ]
    assert apart[0] == pytest.approx(apart[1], abs=1e-6)
    assert apart[0] == pytest.approx((0.021621, 0.014766), abs=1e-6)
