"""EPU's metadata, ours and real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from komad.ingest import epu
from komad.ingest.reading import Reading
from komad.model import MovieHeader
from tests.ingest.conftest import REAL_SIDECARS, epu_text, header, needs_real_sidecars


def read(tmp_path: Path, movie: MovieHeader, **values: Any) -> Reading:
    """Read our own XML with some values changed."""
    path = tmp_path / "hole.xml"
    path.write_text(epu_text(**values), encoding="utf-8")
    return epu.read(path, movie)


def test_units_and_the_size_of_the_image_shown(tmp_path: Path) -> None:
    """Metres of the image shown, volts and electrons per square metre become what a movie needs."""
    reading = read(tmp_path, header(11520, 8184))
    assert dict(reading.values) == pytest.approx(
        {"pixel_size_angstrom": 0.25, "dose_per_frame": 1.0, "voltage_kv": 300.0}
    )
    assert read(tmp_path, header(5760, 4092)).values["pixel_size_angstrom"] == pytest.approx(0.5)


def test_without_fractions_the_frames_of_the_movie_count(tmp_path: Path) -> None:
    """An exposure that EPU did not fractionate itself is shared by the frames that are there."""
    reading = read(tmp_path, header(2880, 2046, n_frames=20), n_fractions=None)
    assert reading.values["dose_per_frame"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "field", "reason"),
    [
        ({"n_fractions": 80}, "dose_per_frame", "80 fractions, the movie has 40"),
        ({"height": 2880}, "pixel_size_angstrom", "readout area of 2880 x 2880"),
        ({"width": 2000, "height": 1421}, "pixel_size_angstrom", "readout area of 2000 x 1421"),
        ({"unit": "1/m"}, "pixel_size_angstrom", "in 1/m"),
        ({"dose": 0}, "dose_per_frame", ""),
        ({"dose": ""}, "dose_per_frame", ""),
        ({"volts": ""}, "voltage_kv", ""),
    ],
)
def test_what_is_not_certain_is_left_unknown(
    tmp_path: Path, values: dict[str, Any], field: str, reason: str
) -> None:
    """Another field, another number of frames, another unit or no value: unknown, with the reason."""
    reading = read(tmp_path, header(5760, 4092), **values)
    assert field not in reading.values
    assert reason in reading.doubts.get(field, "")
    assert bool(reason) == (field in reading.doubts)


@pytest.mark.parametrize("text", ["", "<a", "<a></a>", epu_text()[:900], epu_text()[1:-30]])
def test_incomplete_or_other_xml(tmp_path: Path, text: str) -> None:
    """XML that is still being written, or is of something else, is an error that the caller can pass over."""
    (tmp_path / "hole.xml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"XML|EPU"):
        epu.read(tmp_path / "hole.xml", header(5760, 4092))


@needs_real_sidecars
@pytest.mark.parametrize(
    ("file", "shape", "values", "facts"),
    [
        (  # Falcon 4i EER
            "Example1.xml",
            (4096, 4096, 40),
            {"pixel_size_angstrom": 0.749125622645, "dose_per_frame": 1.050494467, "voltage_kv": 200},
            {
                "camera": "Falcon 4i",
                "exposure_time_s": 3.52,
                "target_defocus_um": -1.1,
                "stage_x_um": 686.26854,
            },
        ),
        (  # K3, movie at the physical pixel: half the 1.285 Å of the 2880 pixel image
            "FoilHole_5850127_Data_5798426_5798428_20221104_061329.xml",
            (5760, 4092, 70),
            {"pixel_size_angstrom": 0.642597502987, "dose_per_frame": 0.91418629075, "voltage_kv": 300},
            {"camera": "BioQuantum K3", "beam_shift_x": 0.247715026140213, "target_defocus_um": -1.4},
        ),
        (  # the same in super-resolution
            "FoilHole_5850127_Data_5798426_5798428_20221104_061329.xml",
            (11520, 8184, 70),
            {"pixel_size_angstrom": 0.321298751493, "dose_per_frame": 0.91418629075, "voltage_kv": 300},
            {"magnification": 130000, "exposure_time_s": 2.0},
        ),
        (
            "epu-dir-example/Images-Disc1/GridSquare_8999138/Data/FoilHole_9015883_Data_9017347_6_20250108_154915.xml",
            (5760, 4092, 50),
            {"pixel_size_angstrom": 0.527940711981, "dose_per_frame": 0.288216736134, "voltage_kv": 300},
            {"acquired_at": "2025-01-08T15:49:18.1158288+00:00", "stage_z_um": 85.7108440352},
        ),
    ],
)
def test_real_files(
    file: str, shape: tuple[int, int, int], values: dict[str, float], facts: dict[str, Any]
) -> None:
    """Files from real microscopes give the numbers that were worked out by hand."""
    nx, ny, n_frames = shape
    reading = epu.read(REAL_SIDECARS / "epu" / file, header(nx, ny, n_frames))
    assert dict(reading.values) == pytest.approx(values, rel=1e-9)
    for name, value in facts.items():
        assert reading.facts[name] == (value if isinstance(value, str) else pytest.approx(value))
