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
    from komad.export.cryosparc import Gain, Group
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
        typer.Option(
            "--unpack", help="Write movies that RELION cannot read, or reads wrong, as MRC, for polishing."
        ),
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
    from komad.export.session import index_stamp, state_of

    report, n_told, n_new, n_unpacked = Report(), -1, 0, 0
    seen: tuple[tuple[int, int], ...] = ()
    try:
        while True:
            # State and stamp before the index is read, so that nothing comes after the last time.
            state, stamp = state_of(output), index_stamp(output)
            if stamp != seen:
                seen = stamp
                try:
                    report = export.update()
                except ParameterError:
                    if state != "running":
                        raise
                else:
                    n_new, n_unpacked = n_new + report.n_new, n_unpacked + report.n_unpacked
                    report.n_new, report.n_unpacked = n_new, n_unpacked
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
    for reason in dict.fromkeys(raw.reason for raw in report.packed.values()):
        alike = {stem: raw for stem, raw in report.packed.items() if raw.reason == reason}
        how = "free the place and try again" if unpack else "--unpack writes them as MRC"
        print(
            f"polishing will not find {len(alike)} movies, which RELION does not read right as they lie "
            f"({_some(alike)}): {reason}; {how}, {size(sum(raw.n_bytes for raw in alike.values()))}"
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


@app.command(short_help="As folders of micrographs to import into cryoSPARC.")
def cryosparc(
    directory: Annotated[Path, typer.Argument(help="Folder for the links; made when missing.")],
    source: From = None,
    config: ConfigOption = None,
    unweighted: Annotated[
        bool, typer.Option("--unweighted", help="The sums without dose weighting.")
    ] = False,
    copy: Copy = False,
) -> None:
    """Link to the micrographs, a folder for each optics group, and say what to type into Import Micrographs and Movies.

    Every header is checked first: its pixel size against the index, its size against the file and the others of the
    group. Micrographs that do not agree are named and get no link; the exit code is 1 then.

    Example: komad export cryosparc /data/session42/cryosparc --from /data/session42/komad
    """
    from komad.export import cryosparc
    from komad.export.session import read_session

    session = read_session(_output(source, config))
    done = _with_progress(
        lambda tell: cryosparc.export(
            session,
            directory.resolve(),
            kind="unweighted" if unweighted else "weighted",
            copy=copy,
            on_movie=tell,
        )
    )
    for groups in _alike(done.groups):
        _tell_groups(groups)
    for note in done.notes:
        print(note)
    for name, text in done.problems.items():
        typer.secho(f"{name}: {text}", fg=typer.colors.RED, err=True)
    if done.problems:
        raise typer.Exit(exits.MOVIES_FAILED)


def _alike(groups: Iterable[Group]) -> Iterable[list[Group]]:
    """Groups for which the same is to be typed: many, where holes are reached by image shift."""
    from dataclasses import replace

    alike: dict[Group, list[Group]] = {}
    for group in groups:
        gains = tuple(replace(gain, factor=None) for gain in group.gains)
        key = replace(group, name="", folder=Path(), n_micrographs=0, gains=gains)
        alike.setdefault(key, []).append(group)
    return alike.values()


def _tell_groups(groups: list[Group]) -> None:
    group = groups[0]
    doses = group.total_doses
    dose = (
        "unknown" if not doses else f"{doses[0]:g}" if len(doses) == 1 else f"{doses[0]:g} to {doses[-1]:g}"
    )
    for each in groups:
        print(f"exposure group {each.name}: {each.n_micrographs} micrographs")
    print("  Import Micrographs" + (", a job for each group" if len(groups) > 1 else ""))
    for each in groups:
        print(f"    Micrographs data path: {each.folder}/*.mrc")
    print(f"    Pixel size (A): {group.pixel_size_angstrom:g}")
    if group.movies:
        print("  Import Movies" + (", one job: this is the path of all groups" if len(groups) > 1 else ""))
        print(f"    Movies data path: {' and '.join(group.movies)}")
        print(f"    Raw pixel size (A): {group.movie_pixel_size_angstrom:g}")
        _tell_gains(group)
    else:
        print("  no Import Movies: each frame is a file; `komad mrcz unpack` makes MRC movies of them")
    print("  both")
    print(f"    Accelerating Voltage (kV): {group.voltage_kv:g}")
    print(f"    Spherical Aberration (mm): {group.cs_mm:g}")
    print(f"    Total exposure dose (e/A^2): {dose}")


def _tell_gains(group: Group) -> None:
    if len(group.gains) > 1:
        print(f"    its movies have {len(group.gains)} gains, and cryoSPARC takes one for an import:")
    for gain in group.gains:
        _tell_gain(gain)
    if group.gains:
        print(
            "    (not tried in cryoSPARC; for TIFF movies Flip in Y may be the other way round: look at a corrected "
            "movie)"
        )


def _tell_gain(gain: Gain) -> None:
    lying, unturned = gain.as_it_lies, "Rotate: 0; Flip in X: no; Flip in Y: no"
    if lying is None:
        print(f"    Gain reference path: {gain.factor}; {unturned}")
        print(f"    (the factor as komad used it, since {gain.why})")
        return
    flips = f"Flip in X: {_yes(lying.flip_x)}; Flip in Y: {_yes(lying.flip_y)}"
    print(f"    Gain reference path: {lying.path}; Rotate gain ref: {lying.rotate_num}; {flips}")
    if gain.factor is not None:
        doubt = "" if lying.is_certain else ", where a quarter may mean the other way round"
        print(f"    or, turned already{doubt}: {gain.factor}; {unturned}")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


@app.command(short_help="As pairs of half sums to train a denoiser with.")
def denoise(
    directory: Annotated[Path, typer.Argument(help="Folder for the links; made when missing.")],
    source: From = None,
    config: ConfigOption = None,
    weighted: Annotated[
        bool,
        typer.Option("--weighted", help="The dose-weighted halves (processing.even_odd_weighted)."),
    ] = False,
    copy: Copy = False,
) -> None:
    """Link to even and odd sums under one name in two folders, as Topaz, Warp and M find them.

    These are average/even and average/odd, with the sums in average.

    Example: komad export denoise /data/session42/denoise --from /data/session42/komad
    """
    from komad.export import denoise
    from komad.export.session import read_session

    session = read_session(_output(source, config))
    done = _with_progress(
        lambda tell: denoise.export(session, directory, weighted=weighted, copy=copy, on_movie=tell)
    )
    print(f"{done.n_pairs} pairs, {done.n_new} links or copies new")
    if done.n_pairs:
        print(f"Topaz: topaz denoise --dir-a {done.even} --dir-b {done.odd} --save-prefix model")
        print(f"Warp, M: {directory / denoise.AVERAGE} stands for the folder average of the frame series")
    if done.missing:
        option = "--even-odd-weighted" if weighted else "--even-odd"
        typer.secho(
            f"{len(done.missing)} movies have no {'weighted ' if weighted else ''}halves ({_some(done.missing)}); "
            f"process them again with {option}",
            fg=typer.colors.RED,
            err=True,
        )
        raise typer.Exit(exits.MOVIES_FAILED)


@app.command(short_help="As stacks of tilt series.")
def tomo(
    directory: Annotated[Path, typer.Argument(help="Folder for the stacks; made when missing.")],
    mdocs: Annotated[
        list[Path],
        typer.Option(
            "--mdoc", help="SerialEM's .mdoc of a tilt series, or a folder of them; may be repeated."
        ),
    ],
    source: From = None,
    config: ConfigOption = None,
    weighted: Annotated[
        bool,
        typer.Option(
            "--dose-weighted", help="Tilts weighted by dose, for programs that do not weight by themselves."
        ),
    ] = False,
) -> None:
    """Write each tilt series as a stack sorted by angle, from the unweighted sums, as AreTomo, IMOD and RELION want it.

    Beside <series>.mrc: _EVN.mrc and _ODD.mrc (halves), .rawtlt and _TLT.txt (angles), _order.csv (order of
    acquisition), _tilts.csv (all that is known of each tilt, with its dose). Tilts that are missing are named; the
    exit code is 1 then.

    Example: komad export tomo stacks --mdoc /data/session42/mdocs --from /data/session42/komad
    """
    from komad.errors import ParameterError
    from komad.export import tomo
    from komad.export.session import read_session

    session = read_session(_output(source, config))
    failed = False
    with _progress() as tell:
        for path in tomo.find_mdocs(mdocs):
            try:
                series = tomo.read_series(path, session)
                written = tomo.write_series(
                    series,
                    session,
                    directory,
                    kind="weighted" if weighted else "unweighted",
                    on_tilt=tell,
                )
            except ParameterError as error:
                failed = True
                typer.secho(str(error), fg=typer.colors.RED, err=True)
                continue
            is_new = "" if written.is_new else " (was there)"
            print(
                f"{series.name}: {len(series.present)} of {len(series.tilts)} tilts, "
                f"{', '.join(written.stacks)}{is_new}"
            )
            if weighted and (unaware := tomo.wrongly_weighted(series)):
                failed = True
                typer.secho(
                    f"{series.name}: {len(unaware)} tilts were weighted as if no tilt had been taken before them; "
                    "process them again with --tilt-mdoc (watch.tilt_series_mdoc)",
                    fg=typer.colors.RED,
                    err=True,
                )
            for tilt in series.missing:
                failed = True
                typer.secho(
                    f"{series.name}: the tilt at {tilt.angle_degree:.2f} degrees is missing: komad has not corrected "
                    f"{tilt.movie_name}",
                    fg=typer.colors.RED,
                    err=True,
                )
    if failed:
        raise typer.Exit(exits.MOVIES_FAILED)


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
