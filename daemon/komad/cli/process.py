"""`komad process`: movies named on the command line, without a daemon."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from komad.cli import exits

if TYPE_CHECKING:
    from rich.console import Console

    from komad.cli.oneoff import OneOff


def process(
    movies: Annotated[
        # Each is tried when its turn comes: one that may not be read must not stop the others.
        list[Path],
        typer.Argument(readable=False, help="MRC, MRCZ or TIFF movies.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything; made when missing.")],
    gain: Annotated[
        Path | None, typer.Option("--gain", help="Gain reference (.mrc, .tif); multiplies.")
    ] = None,
    rot_gain: Annotated[
        int,
        typer.Option("--rot-gain", min=0, max=3, help="Quarter turns of the gain, as -RotGain, --gain_rot."),
    ] = 0,
    flip_gain: Annotated[
        int,
        typer.Option("--flip-gain", min=0, max=2, help="Then 1 upside down, 2 left to right, as -FlipGain."),
    ] = 0,
    dark: Annotated[Path | None, typer.Option("--dark", help="Dark reference, subtracted first.")] = None,
    defects: Annotated[
        Path | None, typer.Option("--defects", help="Defect map, or text file of boxes `x y width height`.")
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option("--pixel-size", help="Å per pixel as written; else from sidecar or header."),
    ] = None,
    voltage: Annotated[float | None, typer.Option("--voltage", help="kV; else from a sidecar.")] = None,
    cs: Annotated[float | None, typer.Option("--cs", help="Spherical aberration, mm.")] = None,
    dose_per_frame: Annotated[
        float | None,
        typer.Option("--dose-per-frame", help="e/Å² per frame; without it sums are not weighted."),
    ] = None,
    pre_exposure: Annotated[
        float | None, typer.Option("--pre-exposure", help="e/Å² before the first frame.")
    ] = None,
    optics_group: Annotated[
        str | None, typer.Option("--optics-group", help="Name in RELION's optics table.")
    ] = None,
    bin_factor: Annotated[
        float,
        typer.Option("--bin", min=1, max=4, help="Fourier cropping, also by 1.5; 2 for super-resolution."),
    ] = 1.0,
    throw: Annotated[int, typer.Option("--throw", min=0, help="Frames left out at the start.")] = 0,
    trunc: Annotated[int, typer.Option("--trunc", min=0, help="Frames left out at the end.")] = 0,
    dose_weighting: Annotated[
        bool, typer.Option("--dose-weighting/--no-dose-weighting", help="Weight frames by remaining signal.")
    ] = True,
    archive: Annotated[
        bool, typer.Option("--archive/--no-archive", help="Write the lossless .mrcz archive.")
    ] = True,
    even_odd: Annotated[
        bool, typer.Option("--even-odd/--no-even-odd", help="Write half sums for denoising.")
    ] = True,
    float16: Annotated[bool, typer.Option("--float16", help="Sums as 16-bit floats (MRC mode 12).")] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0 is all cores.")] = 0,
) -> None:
    """Process movies now, without a daemon: the same steps and the same files as `komad run`.

    A movie that cannot be processed prints its error and the others go on; the exit code is 1 then.

    Example: komad process *.tiff -o corrected --gain gain.mrc --pixel-size 0.83 --voltage 300 --dose-per-frame 1.2
    """
    if threads:
        os.environ["KOMAD_THREADS"] = str(threads)
    acquisition = {
        "pixel_size_angstrom": pixel_size,
        "voltage_kv": voltage,
        "cs_mm": cs,
        "dose_per_frame": dose_per_frame,
        "pre_exposure": pre_exposure,
        "optics_group": optics_group,
    }
    settings = _settings(
        movies,
        acquisition={name: value for name, value in acquisition.items() if value is not None},
        references={
            "gain": gain and gain.resolve(),  # other programs read of it in the STAR files
            "gain_rot": rot_gain,
            "gain_flip": flip_gain,
            "dark": dark and dark.resolve(),
            "defects": defects and defects.resolve(),
        },
        processing={
            "bin_factor": bin_factor,
            "skip_first": throw,
            "skip_last": trunc,
            "dose_weighting": dose_weighting,
        },
        output={"directory": output.resolve(), "even_odd": even_odd, "float16": float16},
        archive={"enabled": archive},
    )
    n_failed = _process_all(movies, settings)
    if n_failed:
        raise typer.Exit(exits.MOVIES_FAILED)


def _settings(movies: list[Path], **tables: dict[str, Any]) -> OneOff:
    """Check the values as those of a configuration file are."""
    from pydantic import ValidationError

    from komad.cli.oneoff import OneOff
    from komad.config import Archive, Output, Processing, WatchFolder
    from komad.ingest import references

    try:
        settings = OneOff(
            folder=WatchFolder.model_validate(
                {
                    "directory": Path(),
                    "acquisition": tables["acquisition"],
                    "references": tables["references"],
                }
            ),
            processing=Processing.model_validate(tables["processing"]),
            output=Output.model_validate(tables["output"]),
            archive=Archive.model_validate(tables["archive"]),
            movies=tuple(movies),
        )
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        raise typer.BadParameter(problems) from error
    references.bind(settings.folder.references, None)  # a gain that is missing stops all of it, at once
    return settings


def _process_all(movies: list[Path], settings: OneOff) -> int:
    """Process one after the other with a progress bar; gives the number that failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from komad.cli.oneoff import STAGES, describe_movie, process_movie
    from komad.errors import DiskFullError, KomadError, OutputError
    from komad.formats.atomic import remove_leftovers
    from komad.output.session import SessionIndex

    index = SessionIndex(settings.output.directory)
    remove_leftovers(settings.output.directory)
    console, n_failed = Console(highlight=False), 0
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("movies", total=len(movies))
        steps = progress.add_task("", total=len(STAGES))

        for path in movies:

            def on_stage(stage: str, name: str = path.name) -> None:
                progress.update(steps, description=f"{name}: {stage}", completed=STAGES.index(stage))

            started = perf_counter()
            try:
                movie = describe_movie(path, settings, index)
                summary = process_movie(movie, settings, index, on_stage=on_stage)
                _say_done(console, summary, perf_counter() - started)
            except (DiskFullError, OutputError):
                raise  # the next movie would fail too
            except KomadError as error:
                n_failed += 1
                console.print(f"{path.name}  {error}", style="red", markup=False, soft_wrap=True)
            progress.advance(whole)
    index.flush()
    n_done = len(movies) - n_failed
    console.print(
        f"{n_done} of {len(movies)} movies done; look into {settings.output.directory}",
        markup=False,
        soft_wrap=True,
    )
    return n_failed


def _say_done(console: Console, summary: dict[str, Any], seconds: float) -> None:
    motion = summary["motion_angstrom"]
    weighted = "" if summary["dose_weighted"] else "  not dose-weighted"
    if summary["dose_per_frame"] is None:
        weighted += " (dose per frame unknown: add --dose-per-frame)"
        early = ""  # what the first 4 e/Å² are is unknown
    else:
        early = f" (early {motion['early']:.1f} Å)"
    console.print(
        f"{summary['stem']}  motion {motion['total']:.1f} Å{early}  "
        f"{summary['n_outliers']} outliers  {seconds:.1f} s{weighted}",
        markup=False,
        soft_wrap=True,
    )
    for warning in summary["warnings"]:
        console.print(f"  {warning}", style="yellow", markup=False, soft_wrap=True)
