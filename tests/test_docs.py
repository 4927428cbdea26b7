"""What the documentation promises is what the program does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from komad import errors
from komad.cli import exits
from komad.output.micrograph import SUFFIXES, summarise
from komad.status.json import to_json
from komad.status.view import build_view
from komad.store.listing import Event, JobLine, MovieRecord
from tests.output.conftest import MOVIE, RESULT
from tests.status.conftest import BUSY, NOW, PLACES

ROOT = Path(__file__).parent.parent
OPERATION = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
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
    before_any_job = {"error", "config", "already_running", "store", "job_transition"}
    classes = [errors.KomadError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    retried = {kind.code: kind.retry for kind in classes if kind.code not in before_any_job}
    assert {code: not said.startswith("no") for code, said in rows.items()} == retried


def test_keys_of_json() -> None:
    """Every key that scripts may use is in the documentation."""
    status = to_json(build_view(BUSY, PLACES, now=NOW))
    summary = summarise(RESULT, MOVIE, files={}, archive_path=None)
    named = {*status, *(key for value in status.values() if isinstance(value, dict) for key in value)}
    named |= {
        key for value in status.values() if isinstance(value, list) for row in value[:1] for key in row
    } | set(summary)
    named |= {field.name for kind in (JobLine, Event, MovieRecord) for field in fields(kind)}
    assert {key for key in named if f"`{key}`" not in section("JSON for scripts")} == set()


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_files_of_a_movie(suffix: str) -> None:
    """The README lists every file that lands in the output folder."""
    assert f"`<stem>{suffix}`" in README
