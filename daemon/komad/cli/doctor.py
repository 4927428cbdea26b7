"""`komad doctor`: what this computer lacks."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli import exits
from komad.cli.locate import ConfigOption, config_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from komad.doctor.checks import Check

SCHEMA_VERSION = 1

_BY_AREA = {
    "installation": exits.DEVICE,
    "configuration": exits.CONFIG,
    "folders": exits.DISK,
    "database": exits.STORE,
    "devices": exits.DEVICE,
}


def doctor(
    config: ConfigOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")
    ] = False,
) -> None:
    """Look at this computer and say what komad lacks: program, configuration, folders, database, CPU, GPUs.

    Each line is OK, WARN (komad runs, though not as it could) or FAIL, with what to do. Changes nothing. Run it as the
    user of the service: sudo -u komad komad doctor --config /etc/komad/komad.toml

    Example: komad doctor
    """
    from komad.doctor.checks import judge
    from komad.doctor.facts import gather
    from komad.errors import ConfigError

    try:
        path, problem = config_path(config), ""
    except ConfigError as error:
        path, problem = None, str(error)
    checks = judge(gather(path, problem))
    if json:
        print(
            jsonlib.dumps({"schema_version": SCHEMA_VERSION, "checks": list(map(asdict, checks))}, indent=1)
        )
    else:
        for check in checks:
            colour = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
            verdict = typer.style(f"{check.verdict.upper():<5}", fg=colour[check.verdict])
            typer.echo(f"{verdict}{check.name:<14} {check.text}")
    code = exit_code(checks)
    if code:
        raise typer.Exit(code)


def exit_code(checks: Sequence[Check]) -> int:
    """That of the first failure: what comes later may follow from it."""
    return next((_BY_AREA[check.area] for check in checks if check.verdict == "fail"), exits.OK)
