"""What the documentation promises is what the program does."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from komad import errors
from komad.cli import exits
from komad.cli.main import app
from komad.config import Settings
from komad.output.detector import detector_record
from komad.output.micrograph import SUFFIXES, summarise
from komad.status.json import to_json
from komad.status.view import build_view
from komad.store.listing import Event, JobLine, MovieRecord
from tests.config.test_files import defaults
from tests.output.conftest import MOVIE, OUTLIERS, RESULT
from tests.status.conftest import BUSY, DETECTOR, NOW, PLACES, SET_ASIDE

ROOT = Path(__file__).parent.parent
OPERATION = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOTIONCOR2 = (ROOT / "docs" / "from_motioncor2.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading of docs/operation.md."""
    return OPERATION.split(f"## {title}\n")[1].split("\n## ")[0]


def test_exit_codes() -> None:
    """The table of exit codes is that of `komad --help`."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section("Exit codes"), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exits.MEANINGS


def test_error_codes_of_jobs() -> None:
    """Every error that can end a job is listed, and whether it is tried again."""
    rows = dict(
        re.findall(r"^\| `(\w+)` \| .* \| ([\w, ]+) \|$", section("Error codes of jobs"), re.MULTILINE)
    )
    before_any_job = {"error", "config", "already_running", "store", "store_damaged", "job_transition"}
    classes = [errors.KomadError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    retried = {kind.code: kind.retry for kind in classes if kind.code not in before_any_job}
    assert {code: not said.startswith("no") for code, said in rows.items()} == retried


def test_keys_of_json() -> None:
    """Every key that scripts may use is in the documentation."""
    facts = replace(BUSY, bad_devices=(SET_ASIDE,))
    status = to_json(build_view(facts, PLACES, detector=DETECTOR, now=NOW))
    summary = summarise(RESULT, MOVIE, files={}, archive_path=None)
    named = {*status, *(key for value in status.values() if isinstance(value, dict) for key in value)}
    named |= {
        key for value in status.values() if isinstance(value, list) for row in value[:1] for key in row
    } | set(summary)
    named |= {field.name for kind in (JobLine, Event, MovieRecord) for field in fields(kind)}
    assert {key for key in named if f"`{key}`" not in section("JSON for scripts")} == set()


def test_keys_of_the_detector() -> None:
    """What a movie and the status say of it."""
    view: Any = to_json(build_view(BUSY, PLACES, detector=DETECTOR, now=NOW))["detector"]
    named = {*view, *view["trend"], *view["gain"], *view["koma"], *detector_record(RESULT.detector, OUTLIERS)}
    assert {key for key in named if f"`{key}`" not in section("JSON for scripts")} == set()


@pytest.mark.parametrize(
    "room", ["detector", "motion", "kernels/cpu", "formats", "ingest", "export", "repack"]
)
def test_modules_of_the_rooms(room: str) -> None:
    """Who looks for something there finds it in docs/architecture.md."""
    rows = [line.split("|")[1] for line in ARCHITECTURE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    modules = {path.stem for path in (ROOT / "daemon" / "komad" / room).glob("*.py")} - {"__init__"}
    assert modules - named == set()


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_files_of_a_movie(suffix: str) -> None:
    """The README lists every file that lands in the output folder."""
    assert f"`<stem>{suffix}`" in README


MANUAL_OPTIONS = """
    -InMrc -InTiff -OutMrc -Patch -Gpu -GpuMemUsage -Gain -RotGain -FlipGain -Dark -Iter -Tol -Throw -Trunc -FmRef -Kv
    -PixSize -FmDose -Tilt -Mag -FtBin -Serial -InSuffix -OutStack -Bft -Group -DefectFile -ArcDir -InFmMotion
    -PhaseOnly
"""
"""Every option that the manual of MotionCor2 1.1.0 names."""
LATER_OPTIONS = """
    -InEer -InSkips -FmIntFile -EerSampling -FullSum -DefectMap -InAln -OutAln -TmpFile -LogDir -InitDose -SumRange
    -SplitSum -InvGain -Align -Crop -UseGpus -OutStar -TiffOrder -CorrInterp -StackZ -Cs -AmpCont -ExtPhase
"""
"""Those that MotionCor2 1.6 lists in its log and MotionCor3 in its help, beside them."""


def motioncor_rows() -> dict[str, tuple[str, str, str]]:
    """The tables of docs/from_motioncor2.md: option -> ours, configuration, what differs."""
    rows = re.findall(r"^\| `(-\w+)` \| (.*) \| (.*) \| (.*) \|$", MOTIONCOR2, re.MULTILINE)
    return {option: (ours, keys, differs) for option, ours, keys, differs in rows}


def test_every_option_of_motioncor_is_in_the_tables() -> None:
    """Each has its row, with what differs said, and no row is of an option that nobody has."""
    rows = motioncor_rows()
    assert rows.keys() == {*MANUAL_OPTIONS.split(), *LATER_OPTIONS.split()}
    assert all(differs for _, _, differs in rows.values())


@pytest.mark.skipif(not (ROOT.parent / "shared/seeds").is_dir(), reason="../shared/seeds is not here")
def test_the_manual_names_no_other_option() -> None:
    """The list above is that of the manual itself, its misprint and the words of other programs aside."""
    manual = (ROOT.parent / "shared/seeds/motioncor2_manual.txt").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])[-\u2013]([A-Z][A-Za-z]+)", manual)) - {"PixlSize", "Raw"}
    assert named == {option[1:] for option in MANUAL_OPTIONS.split()}


def test_options_and_keys_that_stand_for_those_of_motioncor_exist() -> None:
    """Every `--option` of the page is one of `komad process`, every key one of the configuration."""
    group: Any = typer.main.get_command(app)
    parameters = group.commands["process"].params
    options = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", MOTIONCOR2)) <= options
    keys = set(re.findall(r"`((?:watch|processing|output|archive|workers)\.[a-z0-9_.]+)`", MOTIONCOR2))
    assert keys <= defaults(Settings).keys()
    assert len(keys) > 40


def test_no_option_of_process_is_left_out() -> None:
    """Those who read the page have seen all of `komad process`, a few of our own things aside."""
    group: Any = typer.main.get_command(app)
    ours = {
        "--help",
        "--optics-group",
        "--beam-shift-groups",
        "--beam-shift-tolerance",
        "--epu-session",
        "--float16",
        "--skip-done",
        "--dose-weighting",
        "--power-spectrum-groups",
    }
    missing = [
        parameter.opts[0]
        for parameter in group.commands["process"].params
        if parameter.param_type_name == "option"
        and not any(f"`{name}" in MOTIONCOR2 for name in (*parameter.opts, *parameter.secondary_opts))
    ]
    assert set(missing) <= ours
