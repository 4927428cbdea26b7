"""Some dozen damaged files for each reader; the soak test has many more of the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import run
from tests.fuzz.child import PLANTED
from tests.fuzz.corpus import CORPUS


@pytest.mark.parametrize("reader", CORPUS)
def test_damaged_files_end_in_our_own_errors(reader: str, tmp_path: Path) -> None:
    """Whatever is wrong with a file: an error of ours, soon, without much memory; or it is read."""
    n_inputs = 20 if reader == "config" else 40
    result = run(reader, 0, n_inputs, keep=tmp_path)
    assert not result.faults
    assert sum(result.codes.values()) == n_inputs


@pytest.mark.soak
def test_planted_faults_are_found() -> None:
    """Errors that are not ours, the end of the process, much time or memory, another file, a shell: each is told."""
    result = run("planted", 0, PLANTED.index("hang"))
    assert [PLANTED[number] for number in sorted(result.faults)] == list(PLANTED[1:-1])
    told = [result.faults[number].split(":")[0] for number in sorted(result.faults)]
    assert told == [
        "exception",
        "ends the process by SIGSEGV",
        "ends the process with 3",
        "slow",
        "memory",
        "deed",
        "deed",
    ]


@pytest.mark.soak
def test_a_reader_that_hangs_is_found() -> None:
    """What waits for ever is ended, and told."""
    number = PLANTED.index("hang")
    assert run("planted", number, number + 1).faults == {number: "hangs"}
