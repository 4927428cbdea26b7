"""What the files say of the detector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad.config import Output
from komad.formats.star import read_star
from komad.model import ALL_FRAMES, DetectorReport, KomaWindow, OutlierPixels
from komad.output.detector import MAX_LISTED, detector_notes, detector_record, detector_summary
from komad.output.micrograph import write_micrograph
from tests.output.conftest import MOVIE, RESULT, Write

REPORT = DetectorReport(
    correlation_raw=4e-3,
    correlation_outliers=8e-4,
    correlation_koma=1e-5,
    n_hot=1,
    n_dead=0,
    n_defects=1,
    n_xrays=2,
    pattern_spread=0.012,
    window=KomaWindow(mode="trailing", members=(3, 4, 6), wanted=4, left_out={5: "carbon"}, note="young"),
    n_stacks=3,
    scale={"pixels": 0.9, "rows": 0.1},
)
OUTLIERS = OutlierPixels(
    yx=np.array([[1, 7], [3, 40], [17, 5], [17, 6]], np.int32),
    keep=np.zeros(4, np.float32),
    frame=np.array([4, ALL_FRAMES, ALL_FRAMES, 2], np.int32),
    n_hot=1,
    n_defects=1,
)
HEALTHY = replace(REPORT, window=replace(REPORT.window, left_out={}))


def document(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and `<stem>.json` of a movie with REPORT."""
    result = replace(RESULT, detector=REPORT)
    summary = write_micrograph(
        result, MOVIE, directory=tmp_path, archive_path=None, output=Output(), outliers=OUTLIERS
    )
    return summary, json.loads((tmp_path / "FoilHole_1.json").read_text())


def test_index_keeps_the_numbers_and_the_json_all(tmp_path: Path) -> None:
    """Both have the correlations and counts; the window and the x-rays are in the JSON alone."""
    summary, details = document(tmp_path)
    short, full = summary["detector"], details["detector"]
    assert short["correlation_raw"] == 4e-3
    assert short["correlation_koma"] == 1e-5
    assert (short["n_hot"], short["n_dead"], short["n_defects"], short["n_xrays"]) == (1, 0, 1, 2)
    assert (short["koma_mode"], short["n_stacks"], short["n_wanted"], short["n_left_out"]) == (
        "trailing", 3, 4, 1,
    )  # fmt: skip
    assert short["pattern_correlation"] is None
    assert {name: full[name] for name in short} == short
    assert full["window"] == {"members": [3, 4, 6], "left_out": {"5": "carbon"}, "note": "young"}
    assert full["scale"] == {"pixels": 0.9, "rows": 0.1}
    assert full["outliers_yx"] == [[3, 40], [17, 5]]
    assert full["xrays_frame_yx"] == [[2, 17, 6], [4, 1, 7]]


def test_hot_pixels_of_the_star_are_those_of_all_frames(tmp_path: Path) -> None:
    """An x-ray is not hot: RELION would replace it in every frame."""
    document(tmp_path)
    hot = read_star(tmp_path / "FoilHole_1.star")["hot_pixels"].columns
    assert (list(hot["rlnCoordinateX"]), list(hot["rlnCoordinateY"])) == ([40, 5], [3, 17])


def test_a_movie_without_report_is_plain_too(write: Write) -> None:
    """What was not measured is null, not NaN."""
    summary = write()
    assert json.loads(json.dumps(summary["detector"], allow_nan=False))["correlation_raw"] is None


def test_list_of_xrays_ends_but_their_number_does_not() -> None:
    """A shower does not make a JSON of megabytes; the earliest hits are listed."""
    n = MAX_LISTED + 500
    shower = OutlierPixels(
        yx=np.column_stack([np.arange(n), np.zeros(n)]).astype(np.int32),
        keep=np.zeros(n, np.float32),
        frame=np.arange(n, dtype=np.int32)[::-1],
    )
    record: Any = detector_record(replace(REPORT, n_xrays=n), shower)
    assert record["n_xrays"] == n
    assert [hit[0] for hit in record["xrays_frame_yx"]] == list(range(MAX_LISTED))


def test_nothing_is_said_of_a_healthy_detector() -> None:
    """Nor of one that was not measured, nor of a series that has just begun."""
    assert list(detector_notes(HEALTHY)) == []
    young = replace(HEALTHY.window, wanted=24, note="3 of 24 stacks: the series has no more earlier movies")
    assert list(detector_notes(replace(HEALTHY, window=young))) == []
    assert list(detector_notes(DetectorReport())) == []


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (replace(HEALTHY, pattern_spread=0.043), "a pattern of about 4 % of the mean: take a new one"),
        (replace(HEALTHY, n_stacks=2), "stack sums of neighbouring movies were lost"),
        (
            replace(HEALTHY, window=replace(HEALTHY.window, left_out={1: "empty", 7: "carbon", 8: "carbon"})),
            "many neighbouring movies could not be used",
        ),
    ],
)
def test_what_is_wrong_is_said(report: DetectorReport, said: str) -> None:
    """A stale gain, lost sums, many neighbours that were left out: one sentence each."""
    (note,) = detector_notes(report)
    assert said in note


def test_notes_are_among_the_warnings(write: Write) -> None:
    """Where the status and the STAR show them."""
    summary = write(result={"detector": replace(HEALTHY, pattern_spread=0.05)})
    assert summary["warnings"][0] == "the gain is old"
    assert "5 % of the mean" in summary["warnings"][1]


def test_summary_has_no_lists() -> None:
    """It is kept for every movie of a session and read by `komad plot detector`."""
    assert all(
        value is None or isinstance(value, int | float | str) for value in detector_summary(REPORT).values()
    )
