"""`komad jobs`, `show`, `supply`: what is queued, why, and what it waits for."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from komad.cli.locate import ConfigOption, config_path, read_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from komad.store.listing import JobLine, MovieRecord


class State(StrEnum):
    """Job states, as in `komad.model.JobState` (whose import would load numpy)."""

    HELD = "held"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Kind(StrEnum):
    """Job kinds, as in `komad.model.JobKind`."""

    ARCHIVE = "archive"
    CORRECT = "correct"


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")]


def jobs(
    config: ConfigOption = None,
    state: Annotated[State | None, typer.Option("--state", help="Only jobs in this state.")] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only jobs of this kind.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    json: JsonOption = False,
) -> None:
    """List jobs, the newest first.

    Example: komad jobs --state failed
    """
    from rich.markup import escape

    from komad.store.listing import list_jobs
    from komad.store.overview import read_bad_devices

    directory = state_directory(config)
    found = list_jobs(directory, state=state, kind=kind, limit=limit)
    bad = read_bad_devices(directory)
    if json:
        aside = [{"device": it.device, "reason": it.reason} for it in bad]
        document = {"schema_version": 1, "jobs": [asdict(job) for job in found], "bad_devices": aside}
        print(jsonlib.dumps(document, indent=1))
    else:
        _print(_table(found))
        for it in bad:
            _print(f"[bold red]{it.device} is set aside:[/] {escape(it.reason)}")


def show(
    movie: Annotated[str, typer.Argument(help="Stem, number, path, or a part of the path.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show all that is known about one movie: parameters and where they came from, jobs, history, results.

    Example: komad show FoilHole_7654321_Data_1
    """
    from komad.store.listing import find_movie

    record = find_movie(state_directory(config), movie)
    if json:
        print(jsonlib.dumps({"schema_version": 1, **asdict(record)}, indent=1))
    else:
        _show(record)


def supply(
    config: ConfigOption = None,
    movie: Annotated[
        list[str] | None, typer.Option("--movie", "-m", help="Only for this movie, also when it has a value.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option("--pixel-size", help="Å per pixel of the movie as written.")
    ] = None,
    voltage: Annotated[float | None, typer.Option("--voltage", help="kV.")] = None,
    cs: Annotated[float | None, typer.Option("--cs", help="Spherical aberration, mm.")] = None,
    dose_per_frame: Annotated[
        float | None, typer.Option("--dose-per-frame", help="e/Å² per frame (EER: per raw frame).")
    ] = None,
    total_dose: Annotated[
        float | None, typer.Option("--total-dose", help="e/Å² of the whole movie, instead: for EER.")
    ] = None,
    pre_exposure: Annotated[
        float | None, typer.Option("--pre-exposure", help="e/Å² before the first frame.")
    ] = None,
) -> None:
    """Supply acquisition parameters that movies wait for; for all that lack them and those to come, or for one.

    Example: komad supply --pixel-size 0.83 --voltage 300 --dose-per-frame 1.2
    """
    from komad.ingest import missing_parameters, with_supplied
    from komad.store import Store
    from komad.store.listing import find_movie

    given = {
        "pixel_size_angstrom": pixel_size,
        "voltage_kv": voltage,
        "cs_mm": cs,
        "dose_per_frame": dose_per_frame,
        "total_dose": total_dose,
        "pre_exposure": pre_exposure,
    }
    values = {name: value for name, value in given.items() if value is not None}
    if not values:
        raise typer.BadParameter("name at least one value, e.g. --pixel-size 0.83")
    directory = state_directory(config)
    records = [find_movie(directory, name) for name in movie or ()]
    targets = [record.movie_id for record in records] if movie else [None]
    with Store(directory).open(create=False) as store:
        changed = sum(
            store.supply(values, movie_id=target, with_supplied=with_supplied, missing=missing_parameters)
            for target in targets
        )
    print(f"{changed} movie(s) completed" + ("" if movie else "; movies still to come get these values too"))
    for record in records:
        if any(job.kind == Kind.CORRECT and job.state in (State.RUNNING, State.DONE) for job in record.jobs):
            print(
                f"{record.stem}: its micrographs are made with the values from before; "
                f"`komad retry --again {record.stem}` makes them again"
            )


def state_directory(config: Path | None) -> Path:
    """The state directory that a command means."""
    return read_places(config_path(config)).state


def _table(found: list[JobLine]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    # The names of EPU are long: they are folded, so that the rest is always whole.
    table.add_column("job", no_wrap=True, min_width=max((len(str(job.job_id)) for job in found), default=3))
    table.add_column("movie", overflow="fold")
    table.add_column("kind", no_wrap=True, min_width=len("archive"))
    table.add_column("state", no_wrap=True, min_width=len("cancelled"))
    table.add_column("tries", justify="right", no_wrap=True, min_width=len("tries"))
    table.add_column("what", ratio=1, min_width=20)
    colours = {"failed": "red", "held": "yellow", "done": "green", "running": "cyan"}
    for job in found:
        what = f"{job.error_code}: {job.error_message}" if job.error_code else job.reason
        if not what and job.seconds is not None:
            what = f"{job.seconds:.1f} s"
        state = Text(job.state, style=colours.get(job.state, ""))
        table.add_row(str(job.job_id), Text(job.stem), job.kind, state, str(job.attempt), Text(what))
    return table


def _show(record: MovieRecord) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for name, value in _facts(record):
        grid.add_row(name, Text(value))
    _print(grid)
    _print(_table(list(record.jobs)))
    for job in record.jobs:
        for event in record.history[job.job_id]:
            note = " ".join(part for part in (event.worker_id, event.error_code, event.detail) if part)
            print(f"  {event.at[:19]}  {job.kind:8} {event.event:8} -> {event.state:9} {note}".rstrip())


def _facts(record: MovieRecord) -> list[tuple[str, str]]:
    from komad.model import MovieHeader

    facts = [
        ("movie", f"{record.stem} (number {record.movie_id})"),
        ("file", record.path),
        ("found", record.found_at),
    ]
    if record.header:
        header = record.header
        frames = (
            f"{header['n_frames']} of {header['nx']} x {header['ny']} {header['dtype']}, {header['format']}"
        )
        if (eer := MovieHeader.of(header).eer) is not None:
            frames += f": {eer.n_raw_frames} raw frames, {eer.grouping} to a usual frame"
        facts.append(("frames", frames))
    sources = record.acquisition.get("sources", {})
    if group := record.acquisition.get("optics_group"):
        facts.append(("optics_group", group))
    facts += [
        (name, f"{value:g} ({sources.get(name, 'default')})")
        for name, value in record.acquisition.items()
        if isinstance(value, int | float)
    ]
    facts += [
        (name, file["original_path"]) for name, file in record.references.items() if isinstance(file, dict)
    ]
    if record.missing:
        facts.append(("missing", record.missing))
    if record.result is None:  # else they are among its warnings
        facts += [("note", text) for text in record.acquisition.get("notes", {}).values()]
    return facts + _result_facts(record.result)


def _result_facts(result: dict[str, Any] | None) -> list[tuple[str, str]]:
    if result is None:
        return []
    motion = result["motion_angstrom"]
    return [
        ("motion", f"{motion['total']:.1f} Å, early {motion['early']:.1f} Å, late {motion['late']:.1f} Å"),
        ("outliers", f"{result['n_outliers']} pixels"),
        *_detector_facts(result.get("detector") or {}),
        ("files", ", ".join(result["files"].values())),
        *(("warning", warning) for warning in result["warnings"]),
    ]


def _detector_facts(detector: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Noise that stays with the camera, and how much of it KOMA could know; nothing for a movie of an older komad."""
    from komad.status.text import noise, share

    if not detector:
        return
    steps = (detector[f"correlation_{step}"] for step in ("raw", "outliers", "koma"))
    yield "noise", f"correlated between frames: {noise(*steps)}"
    if detector["pattern_spread"] is not None:
        yield "pattern", f"{share(detector['pattern_spread'])} of the mean is left by the gain"
    yield "KOMA", f"{detector['koma_mode']}, {detector['n_stacks']} of {detector['n_wanted']} stack sums"


def _print(renderable: object) -> None:
    from rich.console import Console

    Console().print(renderable)
