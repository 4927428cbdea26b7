"""Raw frames of an EER movie, and what becomes of all that is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from komad.config import AcquisitionSettings, Processing
from komad.errors import ParameterError
from komad.ingest import missing_parameters, sidecars, with_supplied
from komad.ingest.acquisition import resolve
from komad.ingest.reading import Reading
from komad.ingest.rendering import as_written, choose_rendering, header_as_written, is_same, rendered
from komad.model import Acquisition, EerRendering, Movie, MovieFormat, MovieHeader, References
from tests.ingest.conftest import epu_text, mdoc_text

NO_SIDECAR = Reading(name="")


def header(n_raw: int, **facts: float | str) -> MovieHeader:
    """What a file of so many raw frames says."""
    return MovieHeader(
        format=MovieFormat.EER,
        n_frames=n_raw,
        ny=64,
        nx=96,
        dtype="uint8",
        pixel_size_angstrom=0.8,
        eer=EerRendering(ends=tuple(range(1, n_raw + 1))),
        facts=facts,
    )


def movie(rendering: EerRendering, acquisition: Acquisition) -> Movie:
    """A movie as it is bound: header and acquisition of rendered frames."""
    written = header(rendering.n_raw_frames)
    finer = rendering.upsampling
    frames = replace(
        written,
        n_frames=len(rendering.ends),
        ny=finer * 64,
        nx=finer * 96,
        pixel_size_angstrom=0.8 / finer,
        eer=rendering,
    )
    return Movie(
        movie_id=0,
        path=Path("/data/a.eer"),
        size_bytes=1,
        mtime_ns=1,
        fingerprint="",
        stem="a",
        header=frames,
        acquisition=rendered(acquisition, rendering),
        references=References(),
        processing={},
        found_at="",
    )


@pytest.mark.parametrize("grouping", [1, 2, 3, 7, 10])
def test_no_raw_frame_is_lost(grouping: int) -> None:
    """For every length: groups of one size, but the last, which has half to one and a half of it."""
    for n_raw in range(grouping, 60):
        rendering = choose_rendering(header(n_raw), Acquisition(), Processing(eer_grouping=grouping))
        counts = rendering.raw_frames_per_frame
        assert (sum(counts), rendering.n_raw_frames) == (n_raw, n_raw)
        assert set(counts[:-1]) <= {grouping}
        assert grouping <= 2 * counts[-1] < 3 * grouping or counts[-1] == grouping
        assert len(counts) in {n_raw // grouping, n_raw // grouping + 1}


def test_by_dose_and_without_one() -> None:
    """Frames have the dose that is wanted, as nearly as whole raw frames allow; without a dose there are about 40."""
    dosed = Acquisition(dose_per_frame=0.045)
    even = Processing(eer_early_split=1)
    assert choose_rendering(header(1000), dosed, even).ends == (*range(22, 980, 22), 1000)
    finer = even.model_copy(update={"eer_dose_per_frame": 0.5, "eer_upsampling": 2})
    chosen = choose_rendering(header(1000), dosed, finer)
    assert (chosen.grouping, chosen.upsampling) == (11, 2)
    assert choose_rendering(header(1000), Acquisition(), Processing()).ends == tuple(range(25, 1001, 25))
    assert choose_rendering(header(3), Acquisition(), Processing()).ends == (1, 2, 3)
    whole = even.model_copy(update={"eer_dose_per_frame": 99})
    assert choose_rendering(header(30), dosed, whole).ends == (30,)
    assert choose_rendering(header(30), Acquisition(dose_per_frame=9), Processing()).ends == tuple(
        range(1, 31)
    )


@pytest.mark.parametrize(
    ("parts", "start"), [(1, (22, 44, 66, 88, 110, 132)), (2, (11, 22, 33, 44, 55)), (4, (6, 11, 16, 22, 28))]
)
def test_early_frames_are_split(parts: Literal[1, 2, 4], start: tuple[int, ...]) -> None:
    """Frames that begin before 4 e/Å² are split, the others stay where they are; not where raw frames are counted."""
    dosed, settings = Acquisition(dose_per_frame=0.045), Processing(eer_early_split=parts)
    chosen = choose_rendering(header(1000), dosed, settings)
    assert chosen.ends[: len(start)] == start
    assert set(range(22, 980, 22)) <= set(chosen.ends)
    assert len(chosen.ends) == 45 + 5 * (parts - 1)
    assert chosen.grouping == 22
    assert sum(chosen.raw_frames_per_frame) == 1000
    counted = choose_rendering(header(1000), dosed, settings.model_copy(update={"eer_grouping": 22}))
    assert counted.ends == choose_rendering(header(1000), dosed, Processing(eer_early_split=1)).ends
    assert choose_rendering(header(8), Acquisition(dose_per_frame=1.0), settings).ends == tuple(range(1, 9))


def test_more_raw_frames_than_there_are() -> None:
    """A grouping that no frame can have is refused with both numbers and the way out."""
    with pytest.raises(
        ParameterError, match=r"--eer-grouping\) makes a frame of 41 raw frames.* 40: give less"
    ):
        choose_rendering(header(40), Acquisition(), Processing(eer_grouping=41))


def test_what_is_said_of_raw_frames_is_told_of_frames() -> None:
    """Doses and times add up, pixels are divided; the whole movie's dose and time stay what they are."""
    raw = Acquisition(pixel_size_angstrom=0.8, dose_per_frame=0.5, frame_time_s=0.004, pre_exposure=3.0)
    even = rendered(raw, EerRendering(ends=(4, 8, 12), upsampling=4))
    assert (even.pixel_size_angstrom, even.dose_per_frame, even.frame_doses) == (0.2, 2.0, None)
    assert even.frame_time_s == pytest.approx(0.016)
    uneven = rendered(raw, EerRendering(ends=(4, 8, 10)))
    assert uneven.frame_doses == (2.0, 2.0, 1.0)
    assert uneven.dose_per_frame == pytest.approx(5 / 3)
    assert uneven.exposure(3) is not None
    assert list(uneven.exposure(3)) == [5.0, 7.0, 8.0]  # type: ignore[arg-type]
    listed = replace(raw, frame_doses=(0.1, 0.2, 0.3, 0.4), sources={"frame_doses": "supplied"})
    assert rendered(listed, EerRendering(ends=(1, 4))).frame_doses == pytest.approx((0.1, 0.9))


@pytest.mark.parametrize("ends", [(49, 98, 147), (49, 98, 130), (3,), (1, 2, 3)])
@pytest.mark.parametrize("listed", [False, True])
def test_nothing_is_converted_twice(ends: tuple[int, ...], listed: bool) -> None:
    """Turned back and rendered again an acquisition is the same, but for rounding."""
    rendering = EerRendering(ends=ends, upsampling=2)
    raw = Acquisition(pixel_size_angstrom=0.83, dose_per_frame=0.0417, frame_time_s=0.0041)
    if listed:
        doses = tuple(0.01 * n for n in range(1, ends[-1] + 1))
        raw = replace(raw, frame_doses=doses, sources={"frame_doses": "configuration"})
    once = rendered(raw, rendering)
    back = as_written(once, rendering)
    assert is_same(once, rendered(back, rendering))
    assert back.pixel_size_angstrom == pytest.approx(0.83)
    assert back.frame_time_s == pytest.approx(0.0041)
    if listed:
        assert sum(back.frame_doses or ()) == pytest.approx(sum(raw.frame_doses or ()))
    else:
        assert (back.dose_per_frame, back.frame_doses) == (pytest.approx(0.0417), None)
    assert not is_same(once, replace(once, dose_per_frame=0.9))


def test_the_header_turned_back() -> None:
    """A rendered header says of the file what its own header said; that of another format is not touched."""
    rendering = EerRendering(ends=(4, 8, 10), upsampling=2)
    assert header_as_written(movie(rendering, Acquisition()).header) == header(10)
    tiff = replace(header(4), format=MovieFormat.TIFF, eer=None)
    assert header_as_written(tiff) is tiff


def test_total_dose() -> None:
    """The dose of the whole movie is divided by the frames of its file, for every format; a list goes before it."""
    settings = AcquisitionSettings(total_dose=40)
    acquisition = resolve(header(1000), settings, NO_SIDECAR)
    assert acquisition.dose_per_frame == 0.04
    assert acquisition.sources["dose_per_frame"] == "configuration"
    tiff = replace(header(50), format=MovieFormat.TIFF, eer=None)
    assert resolve(tiff, AcquisitionSettings(), NO_SIDECAR, supplied={"total_dose": 40}).dose_per_frame == 0.8
    both = AcquisitionSettings(total_dose=50, dose_per_frame=9)
    assert resolve(tiff, both, NO_SIDECAR).dose_per_frame == 1.0
    listed = AcquisitionSettings(total_dose=50, frame_doses=(2.0,) * 50)
    assert resolve(tiff, listed, NO_SIDECAR).frame_doses == (2.0,) * 50


def test_the_camera_s_count_is_the_weakest_dose() -> None:
    """Counted electrons per pixel are a dose with any pixel size; others win, and a note says what differs."""
    counted = header(1000, total_dose_e_per_px=19.2, exposure_time_s=4.0)
    own = resolve(counted, AcquisitionSettings(), NO_SIDECAR)
    assert own.dose_per_frame == pytest.approx(0.03)
    assert own.frame_time_s == pytest.approx(0.004)
    assert own.sources["dose_per_frame"] == "header"
    finer = resolve(counted, AcquisitionSettings(pixel_size_angstrom=0.4), NO_SIDECAR)
    assert finer.dose_per_frame == pytest.approx(0.12)
    sidecar = Reading(name="a.xml", values={"dose_per_frame": 0.034})
    assert resolve(counted, AcquisitionSettings(), sidecar).dose_per_frame == 0.034
    assert "dose_per_frame" not in resolve(counted, AcquisitionSettings(total_dose=35), NO_SIDECAR).notes
    wrong = resolve(counted, AcquisitionSettings(total_dose=50), NO_SIDECAR)
    assert wrong.dose_per_frame == 0.05
    assert wrong.notes["dose_per_frame"] == (
        "configuration says 50 e/Å² for the whole movie and is used, but header says 30 e/Å² for the whole movie"
    )
    unknown = resolve(replace(counted, pixel_size_angstrom=None), AcquisitionSettings(), NO_SIDECAR)
    assert unknown.dose_per_frame is None


def test_a_frame_s_dose_given_for_a_raw_frame() -> None:
    """1 e/Å² for each of 1000 raw frames is a mistake that a note explains."""
    acquisition = resolve(header(1000), AcquisitionSettings(dose_per_frame=1.0), NO_SIDECAR)
    assert "1000 e/Å² for the whole movie are more" in acquisition.notes["dose_per_frame"]
    assert "raw frame" in acquisition.notes["dose_per_frame"]


def test_values_supplied_later() -> None:
    """Supplied values are about the file: doses change, frames do not; and the reason names the way out."""
    found = movie(EerRendering(ends=(4, 8, 10), upsampling=2), Acquisition(voltage_kv=300))
    assert "--total-dose" in missing_parameters(found.acquisition, Processing())
    after = with_supplied(found, {"total_dose": 30.0, "pixel_size_angstrom": 0.9}, overwrite=False)
    assert after.frame_doses == pytest.approx((12.0, 12.0, 6.0))
    assert after.pixel_size_angstrom == pytest.approx(0.45)
    assert after.sources == {"dose_per_frame": "supplied", "pixel_size_angstrom": "supplied"}
    again = with_supplied(replace(found, acquisition=after), {"dose_per_frame": 1.0}, overwrite=False)
    assert again is after
    again = with_supplied(replace(found, acquisition=after), {"dose_per_frame": 1.0}, overwrite=True)
    assert again.frame_doses == pytest.approx((4.0, 4.0, 2.0))
    assert again.pixel_size_angstrom == pytest.approx(0.45)


def test_epu_s_sidecar_of_an_eer_movie(tmp_path: Path) -> None:
    """`x_EER.eer` has its `x.xml`, whose dose is that of the whole exposure, whatever fractions it speaks of."""
    text = epu_text(dose=4e21, pixel=0.8e-10, width=96, height=64, n_fractions=40)
    (tmp_path / "FoilHole_1_Data_2.xml").write_text(text, encoding="utf-8")
    reading = sidecars.find(tmp_path / "FoilHole_1_Data_2_EER.eer", header(1000))
    assert reading.name == "FoilHole_1_Data_2.xml"
    assert reading.values["dose_per_frame"] == pytest.approx(0.04)
    assert reading.values["pixel_size_angstrom"] == pytest.approx(0.8)
    assert reading.doubts == {}


def test_the_dose_of_an_exposure_that_was_stopped(tmp_path: Path) -> None:
    """Dose and time of the whole are told of the raw frames announced, so those that there are have their part."""
    stopped = header(600, raw_frames_announced=1000, exposure_time_s=4.0)
    given = resolve(stopped, AcquisitionSettings(total_dose=40.0), NO_SIDECAR)
    assert (given.dose_per_frame, given.frame_time_s) == (pytest.approx(0.04), pytest.approx(0.004))
    assert "600 raw frames and announces 1000" in given.notes["exposure"]
    text = epu_text(dose=4e21, pixel=0.8e-10, width=96, height=64, n_fractions=40)
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    reading = sidecars.find(tmp_path / "a.eer", stopped)
    assert reading.values["dose_per_frame"] == pytest.approx(0.04)
    assert "exposure" not in resolve(header(600), AcquisitionSettings(total_dose=40.0), NO_SIDECAR).notes


@pytest.mark.parametrize(
    "said",
    [
        {"FrameDosesAndNumber": "1.0 30"},
        {"FrameDosesAndNumber": "0.5 10 1.25 20"},
        {"ExposureDose": 30, "NumSubFrames": 40},
        {"FrameDosesAndNumber": "0.03 1000"},
    ],
)
def test_serialem_s_sidecar_of_an_eer_movie(tmp_path: Path, said: dict[str, object]) -> None:
    """SerialEM's frames are not the raw frames of the file: their doses count as a whole."""
    (tmp_path / "a.eer.mdoc").write_text(mdoc_text(SubFramePath="a.eer", **said), encoding="utf-8")
    reading = sidecars.find(tmp_path / "a.eer", header(1000))
    assert reading.values["dose_per_frame"] == pytest.approx(0.03)
