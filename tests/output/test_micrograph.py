"""The files of one movie."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from komad.config import Output
from komad.errors import OutputError
from komad.formats import atomic
from komad.formats.star import read_star
from komad.model.stems import OUTPUT_SUFFIXES
from komad.output.micrograph import SUFFIXES, withdraw_micrograph, write_micrograph
from tests.output.conftest import MOVIE, OUTLIERS, RESULT, Write

ALL = {"", "_noDW", "_EVN", "_ODD", "_PS"}


def mrc(path: Path) -> tuple[np.ndarray, float]:
    """Picture and pixel size."""
    with mrcfile.open(path) as file:
        return np.array(file.data), float(file.voxel_size.x)


def test_names_that_clash_are_those_that_are_written() -> None:
    """The rule that keeps movies apart knows every picture that is written beside the micrograph."""
    assert {suffix for suffix in SUFFIXES.values() if suffix.startswith("_") and suffix.endswith(".mrc")} == {
        f"{suffix}.mrc" for suffix in OUTPUT_SUFFIXES
    }


def test_names_and_pictures(write: Write, tmp_path: Path) -> None:
    """Each sum lies under RELION's name, with its pixel size; the plain name is the dose-weighted one."""
    write()
    expected = {
        "": RESULT.sum_dose_weighted,
        "_noDW": RESULT.sum_unweighted,
        "_EVN": RESULT.sum_even,
        "_ODD": RESULT.sum_odd,
        "_PS": RESULT.power_spectrum,
    }
    for suffix, picture in expected.items():
        data, pixel_size = mrc(tmp_path / f"FoilHole_1{suffix}.mrc")
        np.testing.assert_array_equal(data, picture)
        assert pixel_size == pytest.approx(1.4 if suffix == "_PS" else 0.83)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"FoilHole_1{suffix}.mrc" for suffix in ALL} | {
        f"FoilHole_1.{end}" for end in ("png", "json", "star")
    }


def test_without_dose_weighting_the_plain_name_is_the_unweighted_sum(write: Write, tmp_path: Path) -> None:
    """No `_noDW` beside it then."""
    summary = write(result={"sum_dose_weighted": None})
    np.testing.assert_array_equal(mrc(tmp_path / "FoilHole_1.mrc")[0], RESULT.sum_unweighted)
    assert not (tmp_path / "FoilHole_1_noDW.mrc").exists()
    assert summary["dose_weighted"] is False
    assert "micrograph_no_dw" not in summary["files"]


def test_what_is_not_wanted_is_not_written(write: Write, tmp_path: Path) -> None:
    """No half sums, no spectrum, no thumbnail."""
    summary = write(result={"sum_even": None, "sum_odd": None, "power_spectrum": None}, thumbnail=False)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"FoilHole_1.mrc", "FoilHole_1_noDW.mrc", "FoilHole_1.json", "FoilHole_1.star"}
    assert set(summary["files"].values()) == names


def test_weighted_halves_and_dose_range(write: Write, tmp_path: Path) -> None:
    """Each further sum has its own suffix."""
    sums = {
        name: np.full((48, 64), value, np.float32)
        for value, name in enumerate(("sum_even_weighted", "sum_odd_weighted", "sum_dose_range"))
    }
    summary = write(result=sums)
    for value, suffix in enumerate(("_EVN_DW", "_ODD_DW", "_DWS")):
        assert (mrc(tmp_path / f"FoilHole_1{suffix}.mrc")[0] == value).all()
    assert summary["files"]["dose_range"] == "FoilHole_1_DWS.mrc"
    write()
    assert not list(tmp_path.glob("*DW[S.]*"))[1:]  # `_noDW` alone


def test_aligned_stack_belongs_to_the_set(write: Write, tmp_path: Path) -> None:
    """A stack that this run wrote is listed with its size; one of an earlier run goes."""
    stack = tmp_path / "FoilHole_1_Stk.mrcs"
    stack.write_bytes(b"x" * 2000)
    summary = write(aligned_stack=True)
    assert summary["files"]["aligned_stack"] == stack.name
    document = json.loads((tmp_path / "FoilHole_1.json").read_text())
    assert document["file_sizes_bytes"][stack.name] == 2000
    assert "aligned_stack" not in write()["files"]
    assert not stack.exists()


def test_withdrawing_leaves_a_set_that_does_not_look_complete(write: Write, tmp_path: Path) -> None:
    """The `.star` goes, the rest stays; where there is none yet, the folder is made."""
    write()
    withdraw_micrograph(tmp_path, "FoilHole_1")
    assert not (tmp_path / "FoilHole_1.star").exists()
    assert (tmp_path / "FoilHole_1.mrc").exists()
    withdraw_micrograph(tmp_path / "new", "FoilHole_1")
    assert (tmp_path / "new").is_dir()


def test_float16_sums(write: Write, tmp_path: Path) -> None:
    """Sums as 16-bit floats on request; the power spectrum stays as it is."""
    write(float16=True)
    assert mrc(tmp_path / "FoilHole_1.mrc")[0].dtype == np.float16
    assert mrc(tmp_path / "FoilHole_1_PS.mrc")[0].dtype == np.float32


def test_star_is_written_last(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the `.star` appears, every other file is there, complete."""
    seen: dict[str, set[str]] = {}
    original = atomic.sync_folder

    def record(folder: Path) -> None:
        for path in tmp_path.glob("[!.]*"):
            seen.setdefault(path.name, {other.name for other in tmp_path.glob("[!.]*")})
        original(folder)

    monkeypatch.setattr(atomic, "sync_folder", record)
    summary = write()
    assert seen["FoilHole_1.star"] == set(summary["files"].values())
    assert len(seen["FoilHole_1.json"]) == len(summary["files"]) - 1


def test_doing_it_again_leaves_no_mixture(write: Write, tmp_path: Path) -> None:
    """Files that the second run does not make are gone, and its `.star` was away meanwhile."""
    write()
    write(result={"sum_dose_weighted": None, "sum_even": None, "sum_odd": None})
    names = {path.name for path in tmp_path.glob("*.mrc")}
    assert names == {"FoilHole_1.mrc", "FoilHole_1_PS.mrc"}


def test_a_run_that_fails_leaves_no_star(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new set that breaks off in the middle does not look complete by the `.star` of the old one."""
    write()
    monkeypatch.setattr(atomic, "write_text", lambda *_: (_ for _ in ()).throw(OutputError("broken")))
    with pytest.raises(OutputError, match="broken"):
        write()
    assert not (tmp_path / "FoilHole_1.star").exists()


def test_json_holds_everything(write: Write, tmp_path: Path) -> None:
    """Movie, header, acquisition with sources, references with hashes, shifts, timings, warnings, sizes."""
    write()
    document: dict[str, Any] = json.loads((tmp_path / "FoilHole_1.json").read_text())
    assert document["schema_version"] == 1
    assert document["movie_file"]["fingerprint_sha256"] == "ab" * 32
    assert document["header"]["n_frames"] == 5
    assert document["acquisition"]["sources"] == {"pixel_size_angstrom": "configuration"}
    assert document["references"]["gain"] == {"path": "/data/gain.mrc", "sha256": "cd" * 32}
    assert document["processing"]["skip_first"] == 1
    assert document["motion"]["shifts_yx_px"] == [None, [1.0, -2.0], [2.0, 0.0], [2.5, 1.0], [2.5, 1.5]]
    assert document["motion"]["shifts_yx_angstrom"][1] == pytest.approx([0.83, -1.66])
    assert document["motion"]["shift_error_px"] is None
    assert document["timings_s"] == {"motion": 0.1235}
    assert document["warnings"] == ["the gain is old"]
    for name, n_bytes in document["file_sizes_bytes"].items():
        assert (tmp_path / name).stat().st_size == n_bytes
    assert document["output_bytes"] == sum(document["file_sizes_bytes"].values())


def test_sources_that_disagree_are_a_warning(write: Write) -> None:
    """What a person should know of the parameters stands with the other warnings, where it is seen."""
    note = "configuration says 1.66 and is used, but a.xml says 0.83"
    acquisition = replace(MOVIE.acquisition, notes={"pixel_size_angstrom": note})
    summary = write(movie={"acquisition": acquisition})
    assert summary["warnings"] == ["the gain is old", f"pixel_size_angstrom: {note}"]


def test_summary_is_plain_and_states_the_motion(write: Write) -> None:
    """Path lengths in px and Å: sqrt(1+4) + sqrt(.25+1) + .5; early is the first 3.2 frames, one of them skipped."""
    summary = write()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    total = 5**0.5 + 1.25**0.5 + 0.5
    assert summary["motion_px"]["total"] == pytest.approx(total)
    assert summary["motion_px"]["early"] == pytest.approx(5**0.5)
    assert summary["motion_px"]["late"] == pytest.approx(1.25**0.5 + 0.5)
    assert summary["motion_angstrom"]["total"] == pytest.approx(0.83 * total)
    assert summary["n_outliers"] == 2
    assert summary["archive"].endswith("FoilHole_1.mrcz")


def test_motion_star(write: Write, tmp_path: Path) -> None:
    """1-based frames, raw pixels, zero at the first frame used, -9999 where skipped; hot pixels as x and y."""
    write()
    tables = read_star(tmp_path / "FoilHole_1.star")
    general = tables["general"].columns
    assert (general["rlnImageSizeX"], general["rlnImageSizeY"], general["rlnImageSizeZ"]) == (64, 48, 5)
    assert general["rlnMicrographMovieName"] == "/data/camera/grid 1/FoilHole_1.tiff"
    assert general["rlnMicrographGainName"] == "/data/gain.mrc"
    assert general["rlnMicrographStartFrame"] == 2
    assert general["rlnMicrographDoseRate"] == 1.25
    assert general["rlnMotionModelVersion"] == 0
    shifts = tables["global_shift"].columns
    assert list(shifts["rlnMicrographFrameNumber"]) == [1, 2, 3, 4, 5]
    assert list(shifts["rlnMicrographShiftX"]) == [-9999, 0, 2, 3, 3.5]
    assert list(shifts["rlnMicrographShiftY"]) == [-9999, 0, 1, 1.5, 1.5]
    hot = tables["hot_pixels"].columns
    assert (list(hot["rlnCoordinateX"]), list(hot["rlnCoordinateY"])) == ([40, 5], [3, 17])


def test_warnings_stand_in_the_star(write: Write, tmp_path: Path) -> None:
    """As comments that no reader takes for a block or a version, whatever is in them."""
    awkward = "the gain /data_1/gain.mrc\n# version 1 is old"
    write(result={"warnings": ("no motion", awkward)})
    text = (tmp_path / "FoilHole_1.star").read_text()
    assert "# warning: no motion\n" in text
    assert [line for line in text.splitlines() if "data_" in line] == [
        "data_general",
        "data_global_shift",
        "data_hot_pixels",
    ]
    assert text.count("# version") == 3
    assert read_star(tmp_path / "FoilHole_1.star")["general"].columns["rlnImageSizeX"] == 64


def test_frames_left_out_at_the_start_move_the_start_frame(write: Write, tmp_path: Path) -> None:
    """RELION counts local motion from the start frame: it is the first frame with a shift."""
    shifts = RESULT.motion.shifts_px.copy()
    shifts[1] = np.nan
    write(result={"motion": replace(RESULT.motion, shifts_px=shifts)})
    tables = read_star(tmp_path / "FoilHole_1.star")
    assert tables["general"].columns["rlnMicrographStartFrame"] == 3
    assert list(tables["global_shift"].columns["rlnMicrographShiftX"])[:3] == [-9999, -9999, 0]


def test_a_gain_that_is_turned_is_not_named_in_the_star(write: Write, tmp_path: Path) -> None:
    """RELION would use the file as it lies."""
    write(movie={"references": replace(MOVIE.references, gain_rot=1)})
    assert "rlnMicrographGainName" not in read_star(tmp_path / "FoilHole_1.star")["general"].columns


def test_a_directory_that_cannot_be_made_is_named(write: Write, tmp_path: Path) -> None:
    """A file where the directory should be: an error that says which and what to do."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="check that it is mounted"):
        write_micrograph(
            RESULT, MOVIE, directory=blocked / "out", archive_path=None, output=Output(), outliers=OUTLIERS
        )
