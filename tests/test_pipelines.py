"""The examples of docs/pipelines.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from komad.formats.mrcz import write_mrcz
from komad.output.session import SessionIndex
from tests.output.conftest import Write, write

__all__ = ["write"]

PAGE = (Path(__file__).parent.parent / "docs" / "pipelines.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def corrected(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of the page."""
    with SessionIndex(tmp_path) as index:
        index.publish([write() | {"movie_id": 7, "sequence": 1}])
    frames = np.ones((5, 48, 64), np.uint8)
    optics: dict[str, Any] = {"pixel_size_angstrom": 0.83, "voltage_kv": 300.0, "cs_mm": 2.7}
    write_mrcz(tmp_path / "FoilHole_1.mrcz", frames, **optics, metadata={"stem": "FoilHole_1"})
    (tmp_path / "corrected").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_print_what_the_page_says(corrected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader would try them; the first one again goes on behind what it saved."""
    names: dict[str, Any] = {}
    for code, told in EXAMPLES:
        exec(code, names)
        assert capsys.readouterr().out == told
    assert len(EXAMPLES) == PAGE.count("```python")
    assert (corrected / "last_sequence").read_text() == "1"
    exec(EXAMPLES[0][0], names)
    assert capsys.readouterr().out == ""
