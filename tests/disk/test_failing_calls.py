"""ENOSPC, EIO and EDQUOT in the middle of any write, in the real worker process."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from tests.disk.conftest import MakeSession
from tests.disk.faults import KINDS, Faults

SAMPLE = [(errno.ENOSPC, 9), (errno.EIO, 95), (errno.EDQUOT, 140)]


def fail_once(
    library: Path, make_session: MakeSession, number: int, call: int, expected: dict[str, object]
) -> bool:
    """One call fails, everything after it goes on by itself; tells whether there was such a call."""
    session = make_session()
    faults = Faults(library, session.root / "counter", session.written, number)
    faults.arm(call, 1)
    session.work(faults)
    failed = faults.n_failed == 1
    faults.close()
    assert session.states() == ["done", "done"]
    assert session.published() == expected, f"{errno.errorcode[number]} in call {call}"
    return failed


def undisturbed(make_session: MakeSession) -> dict[str, object]:
    """What a session gives on a good disk."""
    session = make_session()
    session.work()
    return session.published()


@pytest.mark.usefixtures("quick")
def test_one_call_fails(library: Path, make_session: MakeSession) -> None:
    """A call that fails costs no row and no file: what is left is that of an undisturbed run, without any help."""
    expected = undisturbed(make_session)
    for number, call in SAMPLE:
        assert fail_once(library, make_session, number, call, expected)


@pytest.mark.soak
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_all_calls_fail_for_a_while(
    library: Path, make_session: MakeSession, number: int, first: int
) -> None:
    """While everything fails nothing appears under a final name and the worker waits; then it goes on by itself."""
    expected = undisturbed(make_session)
    session = make_session()
    faults = Faults(library, session.root / "counter", session.written, number)
    faults.arm(first)
    repaired: list[float] = []

    def repair() -> bool:
        if faults.n_failed and not repaired:
            repaired.append(time.monotonic() + 3)
        if repaired and time.monotonic() > repaired[0]:
            faults.disarm()
        return False

    session.work(faults, until=repair)
    faults.close()
    assert session.published() == expected


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
def test_every_call_fails(
    library: Path, make_session: MakeSession, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each call of an archive and a correct job fails once: nothing partial, nothing lost, the results the same."""
    expected = undisturbed(make_session)
    call = 0
    while fail_once(library, make_session, number, call, expected):
        call += 1
    with capsys.disabled():
        print(f"\n{errno.errorcode[number]}: each of {call} calls")  # noqa: T201 - the figure
    assert call > 150
