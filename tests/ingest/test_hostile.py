"""Sidecars that say what cannot be, or are made to do harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from komad.config import AcquisitionSettings
from komad.errors import ParameterError
from komad.ingest import sidecars
from komad.ingest.acquisition import resolve
from komad.ingest.doses import read_frame_doses
from komad.model import Acquisition
from tests.ingest.conftest import epu_text, header, mdoc_text

MOVIE = header(5760, 4092)


def found(folder: Path) -> Acquisition:
    """What becomes of the sidecars beside a movie; it can be written down."""
    acquisition = resolve(MOVIE, AcquisitionSettings(), sidecars.find(folder / "m.tif", MOVIE))
    json.dumps(dict(acquisition.facts), allow_nan=False)
    return acquisition


@pytest.mark.parametrize(
    "values",
    [
        {"PixelSpacing": "nan", "Binning": 1},
        {"PixelSpacing": 1e308, "Binning": 1e-320},
        {"PixelSpacing": 1, "ImageSize": "1e-320 2"},
        {"PixelSpacing": 1, "ImageSize": "1e308 1e308"},
        {"FrameDosesAndNumber": "1 1e12 1.5 -999999999960"},
        {"FrameDosesAndNumber": "1 nan"},
        {"ExposureDose": "inf", "NumSubFrames": 40},
        {"TiltAngle": "1e308", "SubFramePath": "m.tif"},
        {"StageZ": "nan", "Defocus": "-inf", "TargetDefocus": "1e999"},
    ],
)
def test_numbers_of_serialem_that_cannot_be(tmp_path: Path, values: dict[str, Any]) -> None:
    """Not finite, beyond any range, a thousand million frames: as good as not said, and soon."""
    (tmp_path / "m.tif.mdoc").write_text(mdoc_text(**values))
    acquisition = found(tmp_path)
    assert acquisition.sources == {"voltage_kv": "m.tif.mdoc"}
    assert acquisition.earlier_exposures == 0


@pytest.mark.parametrize("prior", ["-5", "1e300", "nan"])
def test_prior_doses_that_cannot_be(tmp_path: Path, prior: str) -> None:
    """The place in the series is told by the tilts before, where the dose before makes no sense."""
    tilts = [
        mdoc_text("ZValue", SubFramePath=name, TiltAngle=angle, ExposureDose=3, PriorRecordDose=prior)
        for angle, name in enumerate(("a.tif", "b.tif", "m.tif"))
    ]
    (tmp_path / "series.mdoc").write_text("".join(tilts))
    assert found(tmp_path).earlier_exposures == 2


def test_what_could_not_be_configured_is_not_used(tmp_path: Path) -> None:
    """A sidecar is measured as the configuration is; the note says what it said."""
    (tmp_path / "m.xml").write_text(epu_text(volts=3e10, width=1e-320, dose=4e60))
    acquisition = found(tmp_path)
    assert (acquisition.voltage_kv, acquisition.pixel_size_angstrom) == (None, None)
    assert (
        acquisition.notes["voltage_kv"] == "m.xml says 30000000.0: input should be less than or equal to 400"
    )


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12))


@pytest.mark.parametrize(
    "declared", ["<!DOCTYPE a>", "<!DOCTYPE a SYSTEM 'file:///etc/hostname'>", f"<!DOCTYPE a [{LAUGHS}]>"]
)
def test_document_types_are_refused(tmp_path: Path, declared: str) -> None:
    """With them all entities, within the file or from others, and their 10^12 laughs."""
    plain = epu_text().lstrip("\ufeff")
    (tmp_path / "m.xml").write_text(declared + plain.replace(">300000<", ">&l12;<"))
    acquisition = found(tmp_path)
    assert acquisition.voltage_kv is None
    assert "m.xml was not used: it declares a document type" in acquisition.notes["sidecar"]
    (tmp_path / "m.xml").write_text(plain)
    assert found(tmp_path).voltage_kv == 300


@pytest.mark.parametrize("encoding", ["no-such", "idna", "utf-7", "rot13"])
def test_encodings_that_nobody_knows(tmp_path: Path, encoding: str) -> None:
    """They are mentioned, as other damage is."""
    text = f"<?xml version='1.0' encoding='{encoding}'?>" + epu_text().lstrip("\ufeff")
    (tmp_path / "m.xml").write_bytes(text.encode())
    assert "m.xml was not used" in found(tmp_path).notes["sidecar"]


def test_a_million_elements_in_each_other(tmp_path: Path) -> None:
    """Depth does not end the process."""
    (tmp_path / "m.xml").write_text("<a>" * 1_000_000 + "</a>" * 1_000_000)
    assert "m.xml was not used" in found(tmp_path).notes["sidecar"]


@pytest.mark.parametrize("name", ["m.tif.mdoc", "m.xml"])
def test_a_pipe_or_a_folder_of_that_name(tmp_path: Path, name: str) -> None:
    """A named pipe is not waited for; a folder is passed over."""
    os.mkfifo(tmp_path / name)
    assert f"{name} was not used: it is no regular file" in found(tmp_path).notes["sidecar"]
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert f"{name} was not used" in found(tmp_path).notes["sidecar"]
    with pytest.raises(ParameterError, match="cannot be read"):
        read_frame_doses(tmp_path / name)


def test_a_list_of_many_rows_of_many_frames(tmp_path: Path) -> None:
    """Each row alone is allowed; together they would fill the memory."""
    (tmp_path / "d.txt").write_text("100000 1 1\n" * 300_000)
    with pytest.raises(ParameterError, match="line 2: up to here it lists 200000 frames"):
        read_frame_doses(tmp_path / "d.txt")


@pytest.mark.parametrize("dose", ["1e300", "10001"])
def test_doses_that_no_frame_has(tmp_path: Path, dose: str) -> None:
    """Their sum could not be computed with."""
    (tmp_path / "d.txt").write_text(f"1\n{dose}\n")
    with pytest.raises(ParameterError, match="line 2"):
        read_frame_doses(tmp_path / "d.txt")
