"""`komad gain`: whether a gain reference is the right one, and how to get another."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from komad.cli import exits
from komad.cli.locate import ConfigOption, config_path, read_places
from komad.cli.options import GainKind
from komad.errors import DiskFullError, OutputError, ParameterError

if TYPE_CHECKING:
    from rich.console import Console

    from komad.model import References

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the gain reference: check, make, convert it.",
)

Movies = Annotated[
    list[Path],
    typer.Argument(readable=False, help="Movies, or folders of them.", show_default=False),
]
Gain = Annotated[
    Path, typer.Option("--gain", help="Gain reference (.mrc, .tif, .gain, .dm4).", show_default=False)
]
GainRot = Annotated[
    int, typer.Option("--gain-rot", "--rot-gain", min=0, max=3, help="Its quarter turns, as gain_rot.")
]
GainFlip = Annotated[
    int,
    typer.Option("--gain-flip", "--flip-gain", min=0, max=2, help="Its flip after that, as gain_flip."),
]
GainMeaning = Annotated[
    GainKind, typer.Option("--gain-kind", help="factor, response or, as for the daemon, auto.")
]
Dark = Annotated[
    Path | None, typer.Option("--dark", help="Dark reference, subtracted first.", show_default=False)
]
Picture = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Picture to write (.png); else beside the gain.", show_default=False),
]
NoPicture = Annotated[bool, typer.Option("--no-picture", help="Write no picture.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")]


@app.command(short_help="Whether a gain reference lies the right way.")
def check(
    movies: Movies,
    gain: Gain,
    gain_rot: GainRot = 0,
    gain_flip: GainFlip = 0,
    gain_kind: GainMeaning = GainKind.AUTO,
    dark: Dark = None,
    at_most: Annotated[
        int, typer.Option("--at-most", "-n", min=1, help="So many movies, spread over those given.")
    ] = 10,
    output: Picture = None,
    no_picture: NoPicture = False,
    json: Json = False,
) -> None:
    """Try a gain reference in all ways it can lie, on the raw sums of a few movies, and say which one fits.

    Exit code 7 when it does not fit as it is given: it lies another way, is the reciprocal, or the movies are corrected
    already; 0 when it does, or when that cannot be told.

    Example: komad gain check frames/ --gain gain.mrc --gain-rot 1
    """
    from komad.cli.gain_movies import add_up, movie_sums, spread_over
    from komad.cli.gain_words import as_json, print_verdict
    from komad.detector import calibrate
    from komad.detector.gain import check_gain
    from komad.formats.references import read_factor

    console = _console(json=json)
    picture = None if no_picture else _picture(output, gain, "check")
    found, bound = _references(
        movies, gain=gain, gain_rot=gain_rot, gain_flip=gain_flip, gain_kind=gain_kind.value, dark=dark
    )
    total, n_movies = add_up(movie_sums(spread_over(found, at_most), dark=bound.dark, console=console))
    reference = read_factor(bound, total.shape)
    verdict = check_gain(total, reference, gain_rot=gain_rot, gain_flip=gain_flip)
    facts: dict[str, Any] = {
        "n_movies": n_movies,
        "counts_per_px": float(total.mean()),
        "n_invalid": calibrate(reference.shape, gain=reference, dark=None).n_invalid,
        "picture": None,
    }
    if picture is not None:
        from komad.output.gain_report import draw_orientation

        with _without_picture(console):
            draw_orientation(picture, total, reference, verdict)
            facts["picture"] = str(picture)
    if json:
        print(jsonlib.dumps({"schema_version": 1, **as_json(verdict), **facts}, indent=1))
    else:
        print_verdict(console, verdict, facts)
    if verdict.verdict not in {"ok", "unclear"}:
        raise typer.Exit(exits.GAIN)


@app.command(short_help="Make a gain reference from the session's own movies.")
def estimate(
    movies: Movies,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Gain reference to write (.mrc, .tif).", show_default=False)
    ],
    dark: Dark = None,
    at_most: Annotated[
        int, typer.Option("--at-most", "-n", min=1, help="So many movies, spread over those given.")
    ] = 200,
) -> None:
    """Make a gain reference from movies of different places of the specimen, when none was taken or it was lost.

    What differs from movie to movie is left out, and so is what is as smooth as the beam. The more counts, the better:
    with fewer than ten movies it adds more than a tenth to the noise of each. It is written as such movies need it: the
    factor, but of EER movies the response.

    Example: komad gain estimate frames/ -o gain.mrc
    """
    from komad.cli.gain_movies import format_of, movie_sums, spread_over
    from komad.cli.gain_words import say
    from komad.detector.gain import inverted
    from komad.detector.gain_estimate import estimate_gain
    from komad.formats.images import check_new_reference, write_reference
    from komad.ingest.references import meaning

    check_new_reference(output)
    console = _console(json=False)
    chosen, bound = _references(movies, dark=dark)
    sums = movie_sums(spread_over(chosen, at_most), dark=bound.dark, console=console)
    found = estimate_gain(each.total for each in sums)
    is_response, rows_as_eer = meaning(output, format_of(chosen))
    image = inverted(found.gain) if is_response else found.gain
    write_reference(output, image[::-1] if rows_as_eer else image)
    say(
        console,
        f"{output}: from {found.n_movies} movies with {found.counts_per_px:.0f} counts per pixel, so that a pixel is "
        f"known to {found.error:.1%}; {found.n_defects} pixels count as defects (0)",
    )
    if is_response:
        say(console, "it is the response, as RELION and komad take gains of EER movies by themselves")
    if not found.is_good:
        say(
            console,
            f"too few: it adds a pattern of {1 / found.n_movies:.0%} of their noise to sums of such movies; take at "
            "least ten, better thirty",
            "yellow",
        )


@app.command(short_help="Write a gain reference in another format, turned, or its reciprocal.")
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help=".mrc, .tif, .gain, .dm4", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".mrc, .tif, .gain", show_default=False)],
    rot: Annotated[int, typer.Option("--rot", min=0, max=3, help="Quarter turns, as gain_rot.")] = 0,
    flip: Annotated[int, typer.Option("--flip", min=0, max=2, help="Then flip, as gain_flip.")] = 0,
    reciprocal: Annotated[
        bool,
        typer.Option(
            "--reciprocal",
            help="Mean / value: of a flat field, or of a gain that divides, makes one that multiplies.",
        ),
    ] = False,
) -> None:
    """Convert a gain reference. Turned and flipped as --gain-rot and --gain-flip would, which it then needs no more.

    Rows keep their place in the picture: the first of an MRC file is the lowest, that of a TIFF or .gain file the
    uppermost. Values that are no numbers become 0, a defect for all programs.

    Example: komad gain convert CountRef.mrc gain.tif --rot 1
    """
    from komad.detector.gain import inverted, orient
    from komad.formats.images import check_new_reference, write_reference
    from komad.formats.references import read_gain
    from komad.ingest.references import FALCON_GAIN

    check_new_reference(target)
    _, bound = _references(gain=source)
    assert bound.gain is not None
    image = read_gain(bound.gain)
    if reciprocal:
        image = inverted(image)
    image = orient(image, gain_rot=rot, gain_flip=flip)
    write_reference(target, image)
    print(f"{target}: {image.shape[1]} x {image.shape[0]} pixels, mean {image.mean():.4g}")
    if (source.suffix.lower() == FALCON_GAIN) != (target.suffix.lower() == FALCON_GAIN) and not reciprocal:
        print(
            "for EER movies a .gain is the factor in the rows of the camera, and others are responses in their own: "
            "add --reciprocal and another --flip 1"
        )


@app.command(short_help="How the gain depends on the dose rate.")
def gamma(
    movies: Movies,
    gain: Gain,
    gain_rot: GainRot = 0,
    gain_flip: GainFlip = 0,
    gain_kind: GainMeaning = GainKind.AUTO,
    dark: Dark = None,
    frame_time: Annotated[
        float | None,
        typer.Option("--frame-time", min=1e-6, help="s per frame; else from a sidecar.", show_default=False),
    ] = None,
    output: Picture = None,
    no_picture: NoPicture = False,
    json: Json = False,
) -> None:
    """Find the power to which the gain must be raised, for movies without specimen, and fit it to their dose rates.

    Give movies of at least five dose rates, from the lowest to the highest that you use. What is printed at the end
    goes into the configuration, table [processing].

    Example: komad gain gamma vacuum/ --gain gain.mrc --frame-time 0.1
    """
    from komad.cli.gain_movies import movie_sums
    from komad.cli.gain_words import say
    from komad.config import AcquisitionSettings
    from komad.detector.gamma import fit_gamma, fit_power_linear
    from komad.formats import references

    console = _console(json=json)
    picture = None if no_picture else _picture(output, gain, "gamma")
    found, bound = _references(
        movies, gain=gain, gain_rot=gain_rot, gain_flip=gain_flip, gain_kind=gain_kind.value, dark=dark
    )
    acquisition = AcquisitionSettings(frame_time_s=frame_time)
    points: list[tuple[str, float, float]] = []
    for each in movie_sums(found, dark=bound.dark, console=console, acquisition=acquisition):
        rate = each.dose_rate_e_per_px_s
        if rate is None:
            raise ParameterError(f"{each.path}: the time of a frame is unknown; add --frame-time")
        reference = references.load(bound, each.total.shape).gain
        assert reference is not None
        points.append((each.path.name, rate, fit_gamma(each.total, reference)))
        if not json:
            say(console, f"{each.path.name}  {rate:.3g} e/px/s  gamma {points[-1][2]:.3f}")
    rates, gammas = [rate for _, rate, _ in points], [power for *_, power in points]
    try:
        numbers, problem = fit_power_linear(rates, gammas), ""
    except ParameterError as error:
        numbers, problem = None, str(error)
    if picture is not None:
        from komad.output.gain_report import draw_gamma

        with _without_picture(console):
            draw_gamma(picture, rates, gammas, numbers)
    if json:
        rows = [{"movie": name, "dose_rate_e_per_px_s": rate, "gamma": power} for name, rate, power in points]
        print(
            jsonlib.dumps({"schema_version": 1, "movies": rows, "fit": numbers, "problem": problem}, indent=1)
        )
    elif numbers is None:
        say(console, problem, "yellow")
        say(console, f"mean: gain_gamma = {sum(gammas) / len(gammas):.3f}")
    else:
        say(console, f"gain_gamma = [{', '.join(f'{number:.4g}' for number in numbers)}]")


@app.command(short_help="Accept a gain reference that the daemon found wrong.")
def accept(config: ConfigOption = None) -> None:
    """Say that the gain reference which the daemon found wrong is as it should be: movies that wait for it go on.

    They are corrected with the gain as it was when they were found. When it is really wrong, correct the configuration
    for movies to come, take those that wait out of the queue with `komad cancel`, and give them to `komad process`.

    Example: komad gain accept
    """
    from komad.store import Store

    with Store(read_places(config_path(config)).state).open(create=False) as store:
        accepted = store.accept_gain()
    for row in accepted:
        print(f"accepted: {row.sentence}")
    if not accepted:
        print("nothing to accept: no gain reference was found wrong, or all are accepted")


def _references(movies: Sequence[Path] = (), **given: Any) -> tuple[tuple[Path, ...], References]:
    """Find the movies, and bind the files that are named as those of such movies."""
    from komad.cli.gain_movies import format_of
    from komad.cli.oneoff import find_movies
    from komad.config import ReferenceSettings, WatchFolder
    from komad.ingest.references import bind

    settings = ReferenceSettings.model_validate(given)
    found = find_movies(movies, WatchFolder(directory=Path(), references=settings))
    return found, bind(settings, None, format_of(found))


def _picture(output: Path | None, gain: Path, name: str) -> Path:
    """Where the picture goes; a name that promises something else is refused before any work is done."""
    if output is not None and output.suffix.lower() != ".png":
        raise ParameterError(f"{output}: the picture is a PNG; end the name in .png")
    return output or gain.with_name(f"{gain.stem}_{name}.png")


@contextmanager
def _without_picture(console: Console) -> Iterator[None]:
    """Go on when the picture cannot be written: references often lie where only few may write."""
    from komad.cli.gain_words import say

    try:
        yield
    except (DiskFullError, OutputError) as error:
        say(console, f"no picture: {error}; name another place with --output", "yellow")


def _console(*, json: bool) -> Console:
    """Where people read: not among the JSON."""
    from rich.console import Console

    return Console(highlight=False, stderr=json)
