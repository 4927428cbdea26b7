"""`komad export`: a session for the programs that people use next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from komad.cli import exits
from komad.cli.locate import ConfigOption, config_path, read_places

if TYPE_CHECKING:
    from komad.export.relion import RelionExport, Report

FOLLOW_INTERVAL_S = 5.0

Result = TypeVar("Result")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Hand a session on: to RELION, cryoSPARC, denoisers, tomography.\n\nEach command reads the output folder of "
    "`komad run` or `komad process` (--from; else that of the configuration), links to what is there, and can be "
    "repeated: it adds what is new. What others have put in its way is never written over.",
)

From = Annotated[
    Path | None,
    typer.Option(
        "--from", "-f", help="Output folder of a session; else that of the configuration.", show_default=False
    ),
]
Copy = Annotated[bool, typer.Option("--copy", help="Copy files instead of linking to them.")]


@app.command(short_help="As Import and MotionCorr jobs of a RELION project.")
def relion(
    project: Annotated[Path, typer.Argument(help="Folder of the RELION project; begun when there is none.")],
    source: From = None,
    config: ConfigOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the two jobs.", show_default="that of the output folder"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with it until the session is complete, or Ctrl-C.")
    ] = False,
    unpack: Annotated[
        bool,
        typer.Option("--unpack", help="Write movies that RELION cannot read as MRC, for polishing."),
    ] = False,
    copy: Copy = False,
) -> None:
    """Put a session into a RELION project as jobs that have succeeded: Import (movies) and MotionCorr (micrographs).

    Go on with CtfFind on MotionCorr/jobNNN/corrected_micrographs.star; Bayesian polishing finds movies, gain and
    motion, too. For RELION 3.1, 4 and 5, in a new project or one with jobs. Exit code 1 when a movie cannot be
    exported as it should be.

    Example: komad export relion ~/projects/grid42 --from /data/session42/komad --follow
    """
    from komad.export.relion import RelionExport

    output = _output(source, config)
    export = RelionExport(project, output, name=name, unpack=unpack, copy=copy)
    report = _followed(export, output) if follow else _with_progress(export.update)
    _tell(report, project, unpack=unpack)
    if report.problems:
        raise typer.Exit(exits.MOVIES_FAILED)


def _followed(export: RelionExport, output: Path) -> Report:
    """Bring the jobs up to date until nothing more is to come, or somebody ends it."""
    import time

    from komad.errors import ParameterError
    from komad.export.relion import Report
    from komad.export.session import state_of

    report, n_told = Report(), -1
    try:
        while True:
            state = state_of(output)  # before the index is read, so that nothing comes after the last time
            try:
                report = export.update()
            except ParameterError:
                if state != "running":
                    raise
            if report.n_micrographs != n_told:
                n_told = report.n_micrographs
                print(f"{report.motion_job or 'no job yet'}: {n_told} micrographs", flush=True)
            if state in {"complete", ""}:
                return report
            time.sleep(FOLLOW_INTERVAL_S)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return report


def _tell(report: Report, project: Path, *, unpack: bool) -> None:
    from komad.status.text import size

    if not report.motion_job:
        return
    print(
        f"{project}: {report.import_job} and {report.motion_job} ({report.alias}), {report.n_micrographs} micrographs, "
        f"{report.n_new} of them new"
    )
    if report.n_unpacked:
        print(f"{report.n_unpacked} movies unpacked")
    if report.packed:
        how = "free the place and try again" if unpack else "--unpack writes them as MRC"
        print(
            f"polishing will not find {len(report.packed)} movies, which RELION cannot read as they lie "
            f"({_some(report.packed)}): {how}, {size(sum(report.packed.values()))}"
        )
    if report.lost:
        print(
            f"polishing will not find {len(report.lost)} movies: neither they nor their archives are there "
            f"({_some(report.lost)})"
        )
    for note in report.notes:
        print(note)
    for stem, text in report.problems.items():
        typer.secho(f"{stem}: {text}", fg=typer.colors.RED, err=True)


def _some(stems: Iterable[str]) -> str:
    names = list(stems)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _output(source: Path | None, config: Path | None) -> Path:
    return source if source is not None else read_places(config_path(config)).output


def _with_progress(work: Callable[[Callable[[int, int], None]], Result]) -> Result:
    """Show on stderr how far it is; `work` is given what it calls with done and all."""
    with _progress() as tell:
        return work(tell)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("movies", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
