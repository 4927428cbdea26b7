"""SerialEM's metadata, ours and real."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

import pytest

from komad.ingest import mdoc
from komad.ingest.reading import Reading
from komad.model import MovieHeader
from tests.ingest.conftest import REAL_SIDECARS, header, mdoc_text, needs_real_sidecars


def read(tmp_path: Path, movie: MovieHeader, **values: Any) -> Reading:
    """Read one section that is named after the movie."""
    path = tmp_path / "movie.tif.mdoc"
    path.write_text(mdoc_text(**values), newline="")
    reading = mdoc.read(path, "movie.tif", movie, named=True)
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("nx", "ny", "spacing", "binning", "pixel_size"),
    [
        (11520, 8184, 0.4, 0.5, 0.4),  # K3 super-resolution, image too
        (5760, 4092, 0.4, 0.5, 0.8),  # image super-resolution, frames saved binned by 2
        (5760, 4092, 0.8, 1, 0.8),
        (11520, 8184, 0.8, 1, 0.4),
        (5760, 4092, 3.2, 4, 0.8),  # a small image was shown
        (4092, 5760, 0.8, 1, 0.8),  # rotated
        (3838, 3710, 0.8, 1, 0.8),  # K2
        (7420, 7676, 1.6, 2, 0.4),
    ],
)
def test_pixel_size_of_gatan_movies(
    tmp_path: Path, nx: int, ny: int, spacing: float, binning: float, pixel_size: float
) -> None:
    """For K2 and K3 the movie's size tells its sampling, whatever binning the image had."""
    reading = read(tmp_path, header(nx, ny), PixelSpacing=spacing, Binning=binning)
    assert reading.values["pixel_size_angstrom"] == pytest.approx(pixel_size)


@pytest.mark.parametrize(
    ("nx", "ny", "image", "spacing", "pixel_size"),
    [
        (4096, 4096, "-4096 -4096", 1.94, 1.94),
        (4096, 4096, "1024 1024", 4.0, 1.0),
        (8192, 8192, "-1024 -1024", 2.48521, 0.310651),
        (2048, 4096, "512 1024", 4.0, 1.0),
        (3838, 3710, "924 958", 5.4, 1.35),  # rotated, and trimmed by some pixels
    ],
)
def test_pixel_size_from_the_field_of_the_image(
    tmp_path: Path, nx: int, ny: int, image: str, spacing: float, pixel_size: float
) -> None:
    """Where image and movie cover the same field, the ratio of their sizes gives the pixel size."""
    reading = read(tmp_path, header(nx, ny), PixelSpacing=spacing, Binning=4, UncroppedSize=image)
    assert reading.values["pixel_size_angstrom"] == pytest.approx(pixel_size, rel=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"Binning": 1},
        {"Binning": 4, "UncroppedSize": "-1024 -1022"},  # another field than the movie's
        {"Binning": 0.5, "UncroppedSize": "-4096 -4096"},  # seen not to belong to the spacing
        {"Binning": 3, "UncroppedSize": "1365 1365"},
    ],
)
def test_pixel_size_that_is_not_certain_is_left_unknown(tmp_path: Path, values: dict[str, Any]) -> None:
    """When the movie's sampling cannot be told the value is not used, and the reason is given."""
    reading = read(tmp_path, header(4096, 3000), PixelSpacing=1.5, **values)
    assert "pixel_size_angstrom" not in reading.values
    assert "PixelSpacing 1.5 Å" in reading.doubts["pixel_size_angstrom"]
    assert "movie.tif.mdoc" in reading.doubts["pixel_size_angstrom"]


@pytest.mark.parametrize(
    ("values", "dose"),
    [
        ({"FrameDosesAndNumber": "1.2 40"}, 1.2),
        ({"FrameDosesAndNumber": "1.2 39"}, 1.2),  # one frame was dropped
        ({"FrameDosesAndNumber": "1.2 10  1.21 30"}, 1.2075),
        ({"FrameDosesAndNumber": "0 40", "ExposureDose": 48, "NumSubFrames": 40}, 1.2),
        ({"ExposureDose": 48, "NumSubFrames": 40}, 1.2),
        ({"ExposureDose": 60, "NumSubFrames": 40, "FrameDosesAndNumber": "1.2 40"}, 1.2),
    ],
)
def test_dose_per_frame(tmp_path: Path, values: dict[str, Any], dose: float) -> None:
    """The dose of a frame: as listed, else the total by the number of frames."""
    assert read(tmp_path, header(100, 100), **values).values["dose_per_frame"] == pytest.approx(dose)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"FrameDosesAndNumber": "1.2 80"}, "80 frames, the movie has 40"),
        ({"FrameDosesAndNumber": "1.2 20  2.4 19"}, "different doses for 39 frames, the movie has 40"),
        ({"ExposureDose": 48, "NumSubFrames": 20}, "NumSubFrames is 20"),
        ({"ExposureDose": 0, "NumSubFrames": 40, "FrameDosesAndNumber": "0 40"}, ""),
        ({}, ""),
    ],
)
def test_dose_that_is_not_certain_is_left_unknown(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    """A zero (not calibrated) or another number of frames gives no dose."""
    reading = read(tmp_path, header(100, 100), **values)
    assert "dose_per_frame" not in reading.values
    assert reason in reading.doubts.get("dose_per_frame", "")
    assert bool(reason) == ("dose_per_frame" in reading.doubts)


@pytest.mark.parametrize("text", ["0.5 2  1.2 38", "0.5 2  1.2 39", "0.5 1 0.5 1 1.2 38"])
def test_frames_of_different_doses(tmp_path: Path, text: str) -> None:
    """Pairs of dose and number become one dose for each frame; frames that the camera dropped were the last."""
    reading = read(tmp_path, header(100, 100), FrameDosesAndNumber=text)
    assert reading.values["frame_doses"] == (0.5, 0.5, *(1.2,) * 38)
    assert "dose_per_frame" not in reading.values


def tilts(*rows: dict[str, Any]) -> str:
    """A tilt series: one section for each tilt, the movies `tilt_0.mrc`, `tilt_1.mrc`, ... in the order of the rows."""
    return "".join(
        f"[ZValue = {i}]\nSubFramePath = D:\\frames\\tilt_{i}.mrc\n"
        + "".join(f"{key} = {value}\n" for key, value in row.items())
        for i, row in enumerate(rows)
    )


def earlier(tmp_path: Path, text: str, movie: int, *, tilt_series: bool = False) -> float | None:
    """Dose before this movie of a series, as a multiple of its own."""
    path = tmp_path / "series.mrc.mdoc"
    path.write_text(text)
    reading = mdoc.read(path, f"tilt_{movie}.mrc", header(100, 100), named=False, tilt_series=tilt_series)
    assert reading is not None
    return reading.earlier_exposures


def test_dose_of_earlier_tilts_in_the_order_of_time(tmp_path: Path) -> None:
    """A file sorted by angle: the times tell which tilts came before, their doses add up."""
    rows = [
        {"TiltAngle": -3, "DateTime": "01-Aug-22  19:02:00", "ExposureDose": 4},
        {"TiltAngle": 0, "DateTime": "01-Aug-22  19:00:00", "ExposureDose": 2},
        {"TiltAngle": 3, "DateTime": "01-Aug-22  19:01:00", "ExposureDose": 3},
    ]
    assert [earlier(tmp_path, tilts(*rows), i) for i in range(3)] == [5 / 4, 0, 2 / 3]


def test_prior_dose_of_serialem_counts(tmp_path: Path) -> None:
    """Where SerialEM wrote the dose before (tilts that were taken again included), that is it."""
    rows = [{"TiltAngle": 3 * i, "ExposureDose": 2, "PriorRecordDose": 2 * i + 1} for i in range(3)]
    assert [earlier(tmp_path, tilts(*rows), i) for i in range(3)] == [0.5, 1.5, 2.5]


def test_tilts_without_a_dose_calibration(tmp_path: Path) -> None:
    """Exposure times stand for doses; without them all tilts are alike."""
    rows = [{"TiltAngle": 3 * i, "ExposureDose": 0, "ExposureTime": 1 + i} for i in range(3)]
    assert [earlier(tmp_path, tilts(*rows), i) for i in range(3)] == [0, 1 / 2, 1]
    rows = [{"TiltAngle": 3 * i} for i in range(3)]
    assert [earlier(tmp_path, tilts(*rows), i) for i in range(3)] == [0, 1, 2]


def test_many_places_at_one_angle_are_no_series(tmp_path: Path) -> None:
    """A session of single particles has one or two angles: no movie has a dose before it, unless a person says so."""
    rows = [{"TiltAngle": angle, "ExposureDose": 40} for angle in (0.01, -0.01, 0, 30, 30.01)]
    assert [earlier(tmp_path, tilts(*rows), i) for i in range(5)] == [0] * 5
    assert earlier(tmp_path, tilts(*rows), 3, tilt_series=True) == 3


@needs_real_sidecars
@pytest.mark.parametrize(
    ("file", "movie", "place"),
    [
        ("tilt_series.mdoc", "TS_01_000_0.0.mrc", 0),
        ("tilt_series.mdoc", "TS_01_040_60.0.mrc", 40),
        ("L1_ts_001.mrc.mdoc", "amelo_20230811_33kx_hydraliftout_0241_-60.0.tif", 40),
        ("test.mdoc", "chrom_07_ts_010_167_000_3.0.mrc", 1),
    ],
)
def test_real_tilt_series(file: str, movie: str, place: int) -> None:
    """Uncalibrated series of real microscopes, with equal exposures: the number of tilts before."""
    reading = mdoc.read(REAL_SIDECARS / "serialem" / file, movie, header(100, 100), named=False)
    assert reading is not None
    assert reading.earlier_exposures == pytest.approx(place, rel=0.02)


def test_order_and_white_space_do_not_matter(tmp_path: Path) -> None:
    """Keys in another order, blanks around them, Windows line ends and a value at the head are all read."""
    text = "Voltage=200\r\n\r\n  [FrameSet = 0]\r\n\tFrameDosesAndNumber =  1.5   40 \r\nBinning=1\r\n"
    text += "PixelSpacing = 0.8\r\n"
    path = tmp_path / "movie.mdoc"
    path.write_text(text, newline="")
    reading = mdoc.read(path, "movie.tif", header(5760, 4092), named=True)
    assert reading is not None
    assert reading.values == {"pixel_size_angstrom": 0.8, "dose_per_frame": 1.5, "voltage_kv": 200.0}


def test_a_line_still_in_writing_is_not_believed(tmp_path: Path) -> None:
    """A last line without its end may be half a number."""
    path = tmp_path / "movie.mdoc"
    path.write_text("[FrameSet = 0]\nVoltage = 300\nFrameDosesAndNumber = 1.27 4")
    reading = mdoc.read(path, "movie.tif", header(100, 100, n_frames=4), named=True)
    assert reading is not None
    assert reading.values == {"voltage_kv": 300.0}


def test_the_section_of_a_movie_in_a_file_of_the_session(tmp_path: Path) -> None:
    """Of many sections the one counts that names the movie, through Windows folders and letter case."""
    path = tmp_path / "session.mdoc"
    path.write_text(
        "".join(
            f"[FrameSet = {i}]\nSubFramePath = X:\\data\\grid 2\\Movie_{i}.tif\nFrameDosesAndNumber = 1.{i} 40\n"
            for i in range(5)
        )
    )
    reading = mdoc.read(path, "movie_3.tif", header(100, 100), named=False)
    assert reading is not None
    assert reading.values["dose_per_frame"] == 1.3
    assert mdoc.read(path, "movie_7.tif", header(100, 100), named=False) is None


def test_a_name_that_was_used_again(tmp_path: Path) -> None:
    """When two sections name the same movie the later one describes the file on disk."""
    path = tmp_path / "session.mdoc"
    path.write_text(
        "".join(f"[FrameSet = 0]\nSubFramePath = D:\\a.tif\nVoltage = {kv}\n" for kv in (200, 300))
    )
    reading = mdoc.read(path, "a.tif", header(100, 100), named=False)
    assert reading is not None
    assert reading.values["voltage_kv"] == 300


def test_a_tilt_series_named_like_the_movie_is_ambiguous(tmp_path: Path) -> None:
    """Many sections and none that names the movie: nothing is taken from the wrong one."""
    path = tmp_path / "movie.mrc.mdoc"
    path.write_text("".join(f"[ZValue = {i}]\nPixelSpacing = {i + 1}\n" for i in range(3)))
    assert mdoc.read(path, "movie.mrc", header(100, 100), named=True) is None


@pytest.mark.parametrize(
    "text", ["", "\n", "no pairs here\n", "[FrameSet = 0\n", "\x00\xff garbage = \x00\n"]
)
def test_damaged_files_give_nothing(tmp_path: Path, text: str) -> None:
    """Text that is no mdoc is not about the movie; nothing is raised."""
    path = tmp_path / "movie.mdoc"
    path.write_bytes(text.encode("latin-1"))
    reading = mdoc.read(path, "movie.tif", header(100, 100), named=True)
    assert reading is None or reading.values == {}


@needs_real_sidecars
@pytest.mark.parametrize(
    ("file", "movie", "shape", "values", "facts"),
    [
        (
            "frame_set_single.mdoc",
            "s_mmm_00993_33.0_Oct08_07.39.05.tif",
            (11520, 8184, 12),
            {"pixel_size_angstrom": 1.2827, "dose_per_frame": 0.63824, "voltage_kv": 300},
            {
                "defocus_um": -5.08286,
                "stage_x_um": -142.82,
                "exposure_time_s": 1.07856,
                "image_shift_y_um": -0.304661,
            },
        ),
        (
            "frame_set_single.mdoc",
            "s_mmm_00993_33.0_Oct08_07.39.05.tif",
            (5760, 4092, 12),
            {"pixel_size_angstrom": 2.5654, "dose_per_frame": 0.63824, "voltage_kv": 300},
            {
                "gain_reference": "SuperRef_s_mmm_00000_-15.0_Oct08_01.59.24.dm4",
                "acquired_at": "08-Oct-21  07:39:08",
            },
        ),
        (  # The total dose includes the pauses of a continuous tilt series: the listed doses count.
            "frame_set_multiple.mdoc",
            "s_mmm_01013_33.0_Oct08_07.46.46.tif",
            (11520, 8184, 243),
            {"pixel_size_angstrom": 1.2827, "dose_per_frame": 0.63882, "voltage_kv": 300},
            {"defocus_um": -7.933},
        ),
        (  # Direct Electron: PixelSpacing is of the 1024 pixel image. No dose calibration.
            "20220605_75157_20220605-aav2spr_1-1_counted_frames.mrc.mdoc",
            "20220605_75157_20220605-aav2spr_1-1_counted_frames.mrc",
            (8192, 8192, 46),
            {"pixel_size_angstrom": 0.31065125, "voltage_kv": 300},
            {"target_defocus_um": -2.0, "hole_and_position": "1-1", "magnification": 75000},
        ),
        (
            "20220605_75157_20220605-aav2spr_1-1_counted_frames.mrc.mdoc",
            "20220605_75157_20220605-aav2spr_1-1_counted_frames.mrc",
            (4096, 4096, 46),
            {"pixel_size_angstrom": 0.6213025, "voltage_kv": 300},
            {},
        ),
        (
            "L1_ts_001.mrc.mdoc",
            "amelo_20230811_33kx_hydraliftout_0001_-0.0.tif",
            (5760, 4092, 14),
            {"pixel_size_angstrom": 2.663, "voltage_kv": 300},
            {"stage_z_um": -2.56436},
        ),
        (
            "tilt_series.mdoc",
            "TS_01_000_0.0.mrc",
            (3838, 3710, 8),
            {"pixel_size_angstrom": 1.35},
            {"exposure_time_s": 0.8, "tilt_degree": 0.000999877},
        ),
        (
            "test.mdoc",
            "chrom_07_ts_010_167_000_-0.0.mrc",
            (4096, 4096, 10),
            {"pixel_size_angstrom": 1.94, "voltage_kv": 300},
            {"navigator_label": "167"},
        ),
        (  # The image itself, 1024 x 1022.
            "L1_tgt_001.mrc.mdoc",
            "L1_tgt_001.mrc",
            (1024, 1022, 1),
            {"pixel_size_angstrom": 10.652, "voltage_kv": 300},
            {},
        ),
    ],
)
def test_real_files(
    file: str, movie: str, shape: tuple[int, int, int], values: dict[str, float], facts: dict[str, Any]
) -> None:
    """Files from real microscopes give the numbers that were worked out by hand."""
    path = REAL_SIDECARS / "serialem" / file
    nx, ny, n_frames = shape
    reading = mdoc.read(path, movie, header(nx, ny, n_frames), named=path.stem == movie)
    assert reading is not None
    assert dict(reading.values) == pytest.approx(values)
    assert {name: reading.facts[name] for name in facts} == facts


@needs_real_sidecars
@pytest.mark.parametrize("file", ["montage_section.mdoc", "montage_section_multiple.mdoc"])
def test_real_montages_are_about_no_movie(file: str) -> None:
    """A montage names no movie and has many sections, or one of another field."""
    reading = mdoc.read(REAL_SIDECARS / "serialem" / file, "movie.tif", header(5760, 4092), named=True)
    assert reading is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-sig", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """A byte order mark does not become part of the first key; a µ of an old Windows does no harm."""
    text = "PixelSpacing = 0.8\r\nNote = 5 µm\r\n[FrameSet = 0]\r\nVoltage = 300\r\nBinning = 1\r\n"
    whole = (
        codecs.BOM_UTF16_BE + text.encode("utf-16-be")
        if encoding.endswith("be-sig")
        else text.encode(encoding)
    )
    path = tmp_path / "movie.mdoc"
    path.write_bytes(whole)
    reading = mdoc.read(path, "movie.tif", header(5760, 4092), named=True)
    assert reading is not None
    assert reading.values == {"pixel_size_angstrom": 0.8, "voltage_kv": 300.0}


TOMOGRAPHY_5 = """\
DataMode = 6
ImageSize = 4096 4096
ImageFile = Position 1.mrc
PixelSpacing = 1.54
Voltage = 300.00

[T = Tomography: TITAN52337180    20-Oct-2023  22:41:15]

[T =   TiltAxisAngle = -173.94  Binning = 1  SpotSize = 6]

"""


def test_a_series_of_tomography_5(tmp_path: Path) -> None:
    """Sections sorted by angle, doses before each tilt, white space in the names of movies and folders."""
    rows = [
        (-3, 3.46, "20-Oct-2023  22:43:15"),
        (0, 0.0, "20-Oct-2023  22:41:15"),
        (3, 1.73, "20-Oct-2023  22:42:15"),
    ]
    path = tmp_path / "Position 1.mdoc"
    path.write_text(
        TOMOGRAPHY_5
        + "".join(
            f"[ZValue = {i}]\nTiltAngle = {angle}\nExposureDose = 1.73\nPriorRecordDose = {prior}\nDateTime = {time}\n"
            f"SubFramePath = \\\\server\\my share\\Position 1_{i:03d}_{angle:.2f}_Fractions.tiff\nNumSubFrames = 4\n"
            "FrameDosesAndNumber = 0.4325 4\n\n"
            for i, (angle, prior, time) in enumerate(rows)
        )
    )
    for i, (angle, prior, _) in enumerate(rows):
        movie = f"position 1_{i:03d}_{angle:.2f}_fractions.tiff"
        reading = mdoc.read(path, movie, header(4096, 4096, 4), named=False, tilt_series=True)
        assert reading is not None
        assert reading.earlier_exposures == pytest.approx(prior / 1.73)
        assert reading.facts["tilt_degree"] == angle
        assert dict(reading.values) == pytest.approx(
            {"pixel_size_angstrom": 1.54, "dose_per_frame": 0.4325, "voltage_kv": 300.0}
        )


def test_references_of_the_camera_are_kept(tmp_path: Path) -> None:
    """What SerialEM says of gain, defects and orientation is kept for people; a path with an equals sign is whole."""
    reading = read(
        tmp_path,
        header(100, 100),
        GainReference="CountRef a=b.dm4",
        DefectFile="defects_a.txt",
        RotationAndFlip=6,
    )
    assert reading.facts["gain_reference"] == "CountRef a=b.dm4"
    assert reading.facts["defect_file"] == "defects_a.txt"
    assert reading.facts["rotation_and_flip"] == 6


@needs_real_sidecars
def test_every_tilt_of_a_real_series() -> None:
    """Angles, order and image shift of all 41 tilts of a dose-symmetric series."""
    path = REAL_SIDECARS / "serialem/L1_ts_001.mrc.mdoc"
    names = re.findall(r"SubFramePath = .*\\(\S+)", path.read_text())
    assert len(names) == 41
    for place, name in enumerate(names):
        reading = mdoc.read(path, name, header(5760, 4092, 14), named=False)
        assert reading is not None
        assert reading.earlier_exposures == pytest.approx(place, rel=0.02)
        assert reading.facts["tilt_degree"] == pytest.approx(float(name[:-4].rpartition("_")[2]), abs=0.02)
        assert reading.facts["rotation_and_flip"] == 6
