"""Damaged and hostile files in great number.

KOMAD_FUZZ_FROM gives other ones, KOMAD_FUZZ_TIMES that many times as many.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.campaign import run

INPUTS = {
    "mrc": 30_000,
    "mrcz": 40_000,
    "tiff": 50_000,
    "packed": 5_000,
    "eer": 20_000,
    "dm": 20_000,
    "gain": 25_000,
    "defects": 20_000,
    "mdoc": 20_000,
    "epu": 20_000,
    "doses": 10_000,
    "star": 10_000,
    "sums": 5_000,
    "config": 3_000,
}
"""278,000 in all."""


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("reader", INPUTS)
def test_damaged_files(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file is read or refused with an error of ours; none hangs, fills the memory or ends the process."""
    first = int(os.environ.get("KOMAD_FUZZ_FROM", "0"))
    end = first + round(INPUTS[reader] * float(os.environ.get("KOMAD_FUZZ_TIMES", "1")))
    found = tmp_path / "found"
    result = run(reader, first, end, n_processes=os.cpu_count() or 1, keep=found)
    with capsys.disabled():
        print(f"\n{result}")  # noqa: T201 - the figures
    assert not result.faults, f"the inputs are in {found}"
