"""`komad plot`: how something went over a session, as a picture or a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from komad.cli.locate import ConfigOption, config_path, read_places
from komad.errors import ParameterError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Draw how a session went.")

FORMATS = ("png", "pdf", "svg")


@app.command(short_help="Draw how the detector ages: correlated noise, outliers, gain, KOMA.")
def detector(
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .png, .pdf or .svg; detector.png when left out. With --csv the table.",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last", min=1, help="Only so many movies, the newest; all when left out.", show_default=False
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            "--hours", min=0, help="Only movies found in the last so many hours.", show_default=False
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write a table instead, on the terminal without --output.")
    ] = False,
) -> None:
    """Draw how the detector ages, movie by movie: while the daemon runs, too, which it does not disturb.

    Correlated noise is what frames have in common that does not move with the specimen: the pattern of the detector.
    When it rises, or the pattern left by the gain does, take a new gain reference.

    Example: komad plot detector --hours 12 -o tonight.png
    """
    from komad.formats import atomic
    from komad.status.history import in_words, to_csv
    from komad.store.detector import read_history

    if last is not None and hours is not None:
        raise ParameterError("--last and --hours both say which movies: give one of them")
    path = output or Path("detector.png")
    file_format = _format_of(path, csv=csv)
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    history = read_history(read_places(config_path(config)).state, last=last, since=since)
    if csv and output is None:
        print(to_csv(history), end="")
    elif csv:
        atomic.write_text(path, to_csv(history))
        print(f"{path}: {len(history.movies)} movies")
    elif not history.movies:
        print(
            "no movie to plot: none has been corrected yet in this time; `komad status` shows how far they are"
        )
    elif len(history.movies) == 1:
        print(f"one movie makes no plot yet; it shows: {in_words(history.movies[0])}")
    else:
        from komad.status.plot import detector_plot

        atomic.write_bytes(path, detector_plot(history, file_format=file_format))
        print(f"{path}: {len(history.movies)} movies")


def _format_of(path: Path, *, csv: bool) -> str:
    """How a plot is written, by the ending of its name."""
    file_format = path.suffix.lower().removeprefix(".")
    if not csv and file_format not in FORMATS:
        raise ParameterError(
            f"{path}: a plot is written as {', '.join(FORMATS)}; end the name in one of them"
        )
    return file_format


@app.command(short_help="Draw beam shifts, coloured by optics group.")
def optics(
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .png, .pdf or .svg; optics_groups.png when left out. With --csv the table.",
            show_default=False,
        ),
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Only the newest session of the microscope.")
    ] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write a table instead, on the terminal without --output.")
    ] = False,
) -> None:
    """Draw where the beam was for each movie, coloured by the optics group that it was put into.

    Groups are made where watch.optics_groups is beam_shift. Where one place has several groups, or a group several
    places, set watch.beam_shift_tolerance.

    Example: komad plot optics --newest -o tonight.png
    """
    from komad.formats import atomic
    from komad.store.optics import read_groups

    path = output or Path("optics_groups.png")
    file_format = _format_of(path, csv=csv)
    shown = read_groups(read_places(config_path(config)).state, newest_session=newest)
    if not shown.shots:
        print('no movie to plot: none was grouped by its beam shift; see watch.optics_groups = "beam_shift"')
        return
    from komad.status.plot_optics import optics_plot, to_csv

    if csv and output is None:
        print(to_csv(shown), end="")
        return
    if csv:
        atomic.write_text(path, to_csv(shown))
    else:
        atomic.write_bytes(path, optics_plot(shown, file_format=file_format))
    print(f"{path}: {len(shown.shots)} movies, {len(shown.groups)} optics groups")
