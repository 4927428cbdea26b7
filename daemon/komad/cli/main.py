"""Puts the commands together and turns errors into one line and an exit code.

Each command imports what it needs when it runs: `komad status` and `komad --help` answer at once.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from komad import __version__
from komad.cli import (
    cleanup,
    config,
    demo,
    doctor,
    exits,
    export,
    gain,
    jobs,
    mrcz,
    plot,
    process,
    queue,
    rebuild,
    run,
    schema,
    simulate,
    status,
    verify,
)
from komad.cli.options import GroupedCommand
from komad.errors import KomadError

app = typer.Typer(
    name="komad",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: tables with frames cut option names at 80 columns
    pretty_exceptions_enable=False,
    help="Preprocessing beside the electron microscope: movies in, corrected micrographs and MRCZ archives out.\n\n"
    "First steps: `komad demo` shows all of it on a simulated session; `komad config example komad.toml` writes a "
    "configuration; `komad run` starts; `komad status --watch` follows it.",
    epilog=exits.table(),
)
app.command(name="run", short_help="Watch folders and process every movie that appears.")(run.run)
app.command(name="process", cls=GroupedCommand, short_help="Process movies now, without a daemon.")(
    process.process
)
app.command(name="status", short_help="Show how the session goes.")(status.status)
app.command(name="jobs", short_help="List jobs, the newest first.")(jobs.jobs)
app.command(name="show", short_help="Show all that is known about one movie.")(jobs.show)
app.command(name="retry", short_help="Queue jobs again that failed or were cancelled.")(queue.retry)
app.command(name="cancel", short_help="Take movies out of the queue.")(queue.cancel)
app.command(name="hold", short_help="Keep movies from being processed until they are released.")(queue.hold)
app.command(name="release", short_help="Let movies go on that were held by hand.")(queue.release)
app.command(name="pause", short_help="Start no more jobs.")(queue.pause)
app.command(name="resume", short_help="Start jobs again.")(queue.resume)
app.command(name="supply", short_help="Supply parameters that movies wait for.")(jobs.supply)
app.command(name="cleanup", short_help="Remove movies whose archives are proven, or say which would go.")(
    cleanup.cleanup
)
app.command(name="verify", short_help="Check archives against what they were when they were made.")(
    verify.verify
)
app.command(name="rebuild", short_help="Make a damaged database anew from the results.")(rebuild.rebuild)
app.command(name="schema", short_help="Print the JSON Schema of what komad leaves for others.")(schema.schema)
app.command(name="simulate", short_help="Simulate movies with exactly known motion.")(simulate.simulate)
app.command(name="demo", short_help="Run the real daemon on a simulated session.")(demo.demo)
app.command(name="doctor", short_help="Say what this computer lacks, and what to do.")(doctor.doctor)
app.add_typer(plot.app, name="plot", short_help="Draw how a session went.")
app.add_typer(
    export.app, name="export", short_help="Hand a session on: to RELION, cryoSPARC, denoisers, tomography."
)
app.add_typer(mrcz.app, name="mrcz", short_help="Make, open, look into and check MRCZ archives.")
app.add_typer(gain.app, name="gain", short_help="Look after the gain reference: check, make, convert it.")
app.add_typer(config.app, name="config", short_help="Check a configuration, or print an example.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"komad {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors that komad raises on purpose become one red line on stderr, others a traceback."""
    try:
        app()
    except KomadError as error:
        print_error(error)
        sys.exit(exits.exit_code(error))
    except Exception:  # noqa: BLE001 - nobody is above: it is shown, and the exit code says whose fault it is
        traceback.print_exc()
        sys.exit(exits.INTERNAL)


def print_error(error: KomadError) -> None:
    """Print the message on stderr, red on a terminal."""
    typer.secho(f"komad: {error}", fg=typer.colors.RED, err=True)
