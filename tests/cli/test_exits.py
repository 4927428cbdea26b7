"""Exit codes are a promise."""

from __future__ import annotations

import pytest

from komad import errors
from komad.cli import exits, main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 3),
        (errors.ReferenceFileError, 3),
        (errors.AlreadyRunningError, 4),
        (errors.StoreError, 5),
        (errors.DiskFullError, 6),
        (errors.OutputError, 6),
        (errors.ParameterError, 2),
        (errors.TransitionError, 2),
        (errors.MovieTruncatedError, 1),
        (errors.MovieError, 1),
        (errors.DeviceError, 8),
        (errors.InternalError, 70),
    ],
)
def test_error_to_exit_code(error: type[errors.KomadError], code: int) -> None:
    """Each kind of error has its code, and each code is explained."""
    assert exits.exit_code(error("x")) == code
    assert f"{code} {exits.MEANINGS[code]}" in exits.table()


def test_a_fault_of_komad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody expected is shown with its traceback, under an exit code of its own."""

    def app() -> None:
        raise KeyError("nobody thought of this")

    monkeypatch.setitem(main.__globals__, "app", app)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == exits.INTERNAL == 70
    assert "KeyError: 'nobody thought of this'" in capsys.readouterr().err
