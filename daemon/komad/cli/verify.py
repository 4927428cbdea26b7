"""`komad verify`: whether archives still are what they were."""

from __future__ import annotations

import json as jsonlib
import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli import exits
from komad.cli.locate import ConfigOption, config_path, read_places

if TYPE_CHECKING:
    from komad.work.verify import Report

MOST_JOBS = 4
"""More readers than this gain little on a disk, and the session needs it, too."""


def verify(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Folder of archives with their archives.jsonl; else that of the configuration."),
    ] = None,
    config: ConfigOption = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=0, help="Archives read at the same time; 0: the cores, 4 at most."),
    ] = 0,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Only archives made then or later (local time), as the manifest has them.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")
    ] = False,
) -> None:
    """Read archives again and compare them with the manifest beside them and with their own checksums.

    Works on a copy of the folder on any computer. The exit code is 1 when an archive is missing or damaged.

    Example: komad verify /archive/session-1 --since 2026-03-01
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from komad.work.verify import verify

    directory = directory or read_places(config_path(config)).archive
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("archives", total=None)
        report = verify(
            directory,
            jobs=jobs or min(MOST_JOBS, len(os.sched_getaffinity(0))),
            since=None if since is None else since.astimezone(),
            on_start=lambda n_archives: progress.update(task, total=n_archives),
            on_archive=lambda: progress.advance(task),
        )
    if json:
        values = asdict(report) | {"directory": str(directory), "sound": report.is_sound}
        print(jsonlib.dumps({"schema_version": 1, **values}, indent=1))
    else:
        _show(report, directory)
    if not report.is_sound:
        raise typer.Exit(exits.MOVIES_FAILED)


def _show(report: Report, directory: Path) -> None:
    from collections import Counter

    from komad.status.text import size

    for finding in report.findings:
        print(f"{finding.archive}: {finding.trouble}: {finding.text}")
    counts = Counter(finding.trouble.value for finding in report.findings)
    n_sound = report.n_archives - len(report.findings)
    parts = [f"{n_sound} sound", *(f"{number} {trouble}" for trouble, number in sorted(counts.items()))]
    print(f"{report.n_archives} archives, {size(report.n_bytes)}, in {directory}: {', '.join(parts)}")
    if report.n_unreadable_lines:
        print(f"{report.n_unreadable_lines} lines of the manifest say nothing (cut off, or damaged)")
