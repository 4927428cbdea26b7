"""STAR tables against RELION's own files and programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import starfile

from komad.formats.star import read_star
from komad.ingest.rendering import rendered
from komad.model import Acquisition, EerRendering, MovieFormat, MovieHeader
from komad.model.motion import early_late_px, path_length_px
from komad.output.corrected import NAME
from komad.output.relion import MicrographRow, SessionLayout
from tests.output.conftest import Write, local_motion
from tests.output.test_corrected import OPTICS, row, table

TUTORIAL = Path(__file__).parents[3] / "shared" / "data" / "relion_tutorial"


def index_tables(*rows: MicrographRow) -> tuple[Mapping[str, Any], Mapping[str, list[Any]]]:
    """Columns of the optics groups and of the micrographs."""
    layout = SessionLayout.of(rows)
    values = zip(*map(layout.values, rows), strict=True)
    return layout.optics().columns, dict(zip(layout.labels, map(list, values), strict=True))


def test_index_has_relions_columns() -> None:
    """One optics group, and per micrograph the names, the group and the motion."""
    optics, micrographs = index_tables(row("a"), row("b"))
    assert dict(optics) == {
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnOpticsGroup": [1],
        "rlnMicrographOriginalPixelSize": [0.415],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnMicrographPixelSize": [0.83],
    }
    assert micrographs["rlnMicrographName"] == ["a.mrc", "b.mrc"]
    assert micrographs["rlnMicrographNameNoDW"] == ["a_noDW.mrc", "b_noDW.mrc"]
    assert micrographs["rlnCtfPowerSpectrum"] == ["a_PS.mrc", "b_PS.mrc"]
    assert micrographs["rlnAccumMotionLate"] == [2.0, 2.0]


def test_groups_that_differ_are_kept_apart() -> None:
    """The same name with another voltage is a group of its own, never one that takes a name in use."""
    other = replace(OPTICS, voltage_kv=200.0)
    taken = replace(OPTICS, name="opticsGroup1-2")
    optics, micrographs = index_tables(row("a"), row("b", taken), row("c", other), row("d"))
    assert optics["rlnOpticsGroupName"] == ["opticsGroup1", "opticsGroup1-2", "opticsGroup1-3"]
    assert optics["rlnVoltage"] == [300.0, 300.0, 200.0]
    assert micrographs["rlnOpticsGroup"] == [1, 2, 3, 1]


def test_a_column_that_some_lack_is_left_out_or_true() -> None:
    """Without a spectrum for all there is no such column; an unweighted micrograph is its own unweighted sum."""
    _, micrographs = index_tables(row("a"), row("b", power_spectrum="", name_no_dw="b.mrc"))
    assert "rlnCtfPowerSpectrum" not in micrographs
    assert micrographs["rlnMicrographNameNoDW"] == ["a_noDW.mrc", "b.mrc"]


def test_starfile_reads_the_index(tmp_path: Path) -> None:
    """The package that others use reads our tables."""
    table(tmp_path, {"a": row("a"), "b": row("b")})
    tables = starfile.read(tmp_path / NAME)
    assert list(tables["micrographs"]["rlnMicrographName"]) == ["a.mrc", "b.mrc"]
    assert float(tables["optics"]["rlnVoltage"].iloc[0]) == 300.0


@pytest.mark.skipif(not TUTORIAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize("movie", ["20170629_00022", "20170629_00049"])
def test_motion_lengths_are_relions(movie: str) -> None:
    """Total, early and late path from the shifts of a real movie are the numbers in RELION's own index."""
    index = read_star(TUTORIAL / "corrected_micrographs.star")["micrographs"].columns
    place = next(n for n, name in enumerate(index["rlnMicrographName"]) if movie in name)
    tables = read_star(TUTORIAL / f"{movie}_frameImage.star")
    shifts = tables["global_shift"].columns
    shifts_px = np.stack([shifts["rlnMicrographShiftY"], shifts["rlnMicrographShiftX"]], axis=1)
    general = tables["general"].columns
    frames = np.arange(1, len(shifts_px) + 1)
    early, late = early_late_px(
        shifts_px, general["rlnMicrographPreExposure"] + general["rlnMicrographDoseRate"] * frames
    )
    assert path_length_px(shifts_px) == pytest.approx(index["rlnAccumMotionTotal"][place], abs=1e-3)
    assert early == pytest.approx(index["rlnAccumMotionEarly"][place], abs=1e-3)
    assert late == pytest.approx(index["rlnAccumMotionLate"][place], abs=1e-3)


@pytest.mark.skipif(not TUTORIAL.is_dir(), reason="the real files are not here")
def test_our_columns_are_relions(write: Write, tmp_path: Path) -> None:
    """Every label that we write is one that RELION's own files of the same kind hold, or a documented one."""
    write()
    theirs, ours = (
        read_star(TUTORIAL / "20170629_00022_frameImage.star"),
        read_star(tmp_path / "FoilHole_1.star"),
    )
    for name in ("general", "global_shift", "hot_pixels"):
        assert set(ours[name].columns) <= set(theirs[name].columns)
    index = read_star(TUTORIAL / "corrected_micrographs.star")
    optics, micrographs = index_tables(row("a", even="", odd="", pre_exposure=None))
    assert set(optics) <= set(index["optics"].columns)
    assert set(micrographs) - {"rlnMicrographNameNoDW"} <= set(index["micrographs"].columns)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_star_printtable") is None, reason="RELION is not installed")
def test_relion_reads_index_and_motion(write: Write, tmp_path: Path) -> None:
    """RELION's own reader gives back what was written."""
    write()
    table(tmp_path, {"FoilHole_1": row("FoilHole_1")})

    def relion(file: str, table: str, *labels: str) -> list[str]:
        command = ["relion_star_printtable", file, f"data_{table}", *labels]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.split()

    assert relion(
        "corrected_micrographs.star", "micrographs", "rlnMicrographName", "rlnMicrographMetadata"
    ) == [
        "FoilHole_1.mrc",
        "FoilHole_1.star",
    ]
    assert [float(word) for word in relion("FoilHole_1.star", "global_shift", "rlnMicrographShiftX")] == [
        -9999, 0, 2, 3, 3.5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "upsampling", "expected"),
    [
        ((8, 16, 24, 32, 37), 1, (4, 8, 1, 2.0)),
        ((8, 16, 24, 32, 43), 2, (5, 8, 2, 2.0)),
        ((8, 16, 24, 32, 40), 4, (5, 8, 3, 2.0)),
        ((4, 8, 16, 24, 30), 1, (3, 8, 1, 2.0)),
    ],
)
def test_an_eer_movie_as_relion_renders_it(
    write: Write,
    tmp_path: Path,
    ends: tuple[int, ...],
    upsampling: Literal[1, 2, 4],
    expected: tuple[float, ...],
) -> None:
    """Whole groups of raw frames only: a frame of what is left has no row, as RELION would not find it."""
    rendering = EerRendering(ends=ends, upsampling=upsampling)
    header = MovieHeader(
        format=MovieFormat.EER,
        n_frames=5,
        ny=48,
        nx=64,
        dtype="uint8",
        pixel_size_angstrom=0.83,
        eer=rendering,
    )
    acquisition = Acquisition(pixel_size_angstrom=0.83, voltage_kv=300.0, dose_per_frame=0.25)
    write(
        movie={"header": header, "acquisition": rendered(acquisition, rendering)},
        result={"motion": local_motion()},
    )
    tables = read_star(tmp_path / "FoilHole_1.star")
    general, n_frames = tables["general"].columns, int(expected[0])
    named = ("rlnImageSizeZ", "rlnEERGrouping", "rlnEERUpsampling", "rlnMicrographDoseRate")
    assert tuple(general[name] for name in named) == pytest.approx(expected)
    assert general["rlnMicrographOriginalPixelSize"] == pytest.approx(0.83 / upsampling)
    shifts = tables["global_shift"].columns
    assert list(shifts["rlnMicrographFrameNumber"]) == list(range(1, n_frames + 1))
    # A frame of RELION that is two of ours has their mean; the first of ours was left out.
    expected_x = [-9999, 0, 2] if ends[1] == 16 else [0, 2, 3]
    assert shifts["rlnMicrographShiftX"][:3] == pytest.approx(expected_x)
    # Of three frames there is no polynomial.
    assert ("local_motion_model" in tables) is (n_frames == 5)
    if n_frames == 5:
        assert max(tables["local_shift"].columns["rlnMicrographFrameNumber"]) == 5
