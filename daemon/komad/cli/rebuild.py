"""`komad rebuild`: a new database from the results and archives."""

from __future__ import annotations

from typing import Annotated

import typer

from komad.cli.locate import ConfigOption, config_path

N_SHOWN = 5
"""Of what cannot be used."""


def rebuild(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be found, and change nothing.")
    ] = False,
) -> None:
    """Make the database anew from the results and archives, when it is damaged or lost. komad must not run.

    Movies that are done stay done; those with an archive only are corrected; others are found again. The history of
    jobs is lost, and so are values that were supplied for movies still to come. The old database is kept beside it.

    Example: komad rebuild --dry-run
    """
    from komad.config import load_settings
    from komad.rebuild import rebuild as rebuild_database

    settings = load_settings(config_path(config))
    report = rebuild_database(settings, dry_run=dry_run)
    print(f"corrected     {report.n_corrected} movies stay done")
    print(f"archived      {report.n_archived} movies are still to be corrected")
    if report.n_without_archive:
        print(f"              {report.n_without_archive} of those that are done have no archive in its place")
    if report.unknown:
        print(
            f"not used      {len(report.unknown)} files or lines; their movies are processed again, if they are there"
        )
        for reason in report.unknown[:N_SHOWN]:
            print(f"              {reason}")
    if dry_run:
        print("nothing was changed (--dry-run)")
        return
    print(f"stack sums    {report.n_sums_kept} kept, {report.n_sums_made} made again")
    print(
        "lost          the history of jobs, failed movies (they are tried again), values supplied for later movies"
    )
    if report.set_aside:
        print(f"old database  {report.set_aside[-1]}")
    print("`komad run` goes on")
