"""`komad mrcz`: movies into MRCZ archives and out of them, for everyone who has such files."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from komad.cli import exits
from komad.cli import options as option
from komad.errors import KomadError, ParameterError

if TYPE_CHECKING:
    from rich.console import Console

    from komad.config import WatchFolder
    from komad.repack.look import Info
    from komad.repack.many import FrameDone, Outcome, Task
    from komad.repack.pack import Written

MOST_JOBS = 4
"""Movies at a time: all share the cores, and more only wait for the disk together."""
ARCHIVES = ("*.mrcz",)
MOST_IN_WORDS = 3
"""Files of which all is shown; of more, a line for each."""
WIDTH = 200
"""Of a table that goes into a file."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="MRCZ archives without a daemon: make them, open them, look into them, check them.\n\n"
    "An MRCZ file is an MRC file whose frames are compressed, a quarter of the size for counts, and every pixel is as "
    "the camera wrote it. No configuration is needed.\n\n"
    "\b\n"
    "komad mrcz pack frames/ -o archive/      all movies of a folder, verified\n"
    "komad mrcz unpack archive/ -o frames/    MRC again, in the mode of the camera\n"
    "komad mrcz unpack m.mrcz --mode 1        for programs that know few modes\n"
    "komad mrcz unpack m.mrcz --tiff lzw      TIFF\n"
    "komad mrcz info m.mrcz                   what is in it\n"
    "komad mrcz verify archive/               whether all frames are whole\n"
    "komad mrcz cat m.mrcz --sum > sum.mrc    a look at it",
    epilog="Which program reads what, and how to read the files in Python: docs/mrcz.md.",
)


class Codec(StrEnum):
    """Compressors inside blosc."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    LZ4HC = "lz4hc"
    ZLIB = "zlib"
    BLOSCLZ = "blosclz"


class Compression(StrEnum):
    """Of TIFF."""

    LZW = "lzw"
    DEFLATE = "deflate"
    ZSTD = "zstd"
    NONE = "none"


Files = Annotated[
    list[Path],
    typer.Argument(
        readable=False, help="Files, or folders of them (sub-folders are left out).", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder for the new files; else beside the old ones.", show_default=False
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=0, help="Movies at a time; 0: the cores, 4 at most. All share the cores."
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")]
SaveGain = Annotated[
    bool,
    typer.Option(
        "--save-gain", help="Write gain references that movies have in their headers to <name>_gain.mrc."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")]


@app.command(short_help="Movies become archives.")
def pack(
    movies: Files,
    *,
    output: Output = None,
    codec: Annotated[
        Codec, typer.Option("--codec", help="zstd makes counts smallest, lz4 is fastest.")
    ] = Codec.ZSTD,
    level: Annotated[
        int, typer.Option("--level", min=1, max=9, help="Effort; more than 1 hardly makes counts smaller.")
    ] = 1,
    patterns: option.Patterns = None,
    pixel_size_angstrom: option.PixelSize = None,
    voltage_kv: option.Voltage = None,
    dose_per_frame: option.DosePerFrame = None,
    total_dose: option.TotalDose = None,
    eer_grouping: option.EerGrouping = None,
    eer_dose_per_frame: option.EerDosePerFrame = None,
    eer_upsampling: option.EerUpsampling = None,
    save_gain: SaveGain = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    jobs: Jobs = 0,
    threads: Threads = 0,
) -> None:
    """Write an MRCZ archive of each movie: every format that komad reads, also MRCZ with another codec.

    Each archive is read back from the disk and compared before it appears under its name. The movies stay as they are.
    Pixel size, voltage and dose come from headers and sidecars, where options do not say them. Frames of EER movies are
    made as `komad process` makes them; the electrons themselves are in the EER file only.

    Example: komad mrcz pack frames/*.mrc -o archive/
    """
    from komad.config import AcquisitionSettings, Archive, Processing
    from komad.repack.pack import most_bytes
    from komad.repack.pack import pack as pack_one

    _use_threads(threads)
    given = {
        "pixel_size_angstrom": pixel_size_angstrom,
        "voltage_kv": voltage_kv,
        "dose_per_frame": dose_per_frame,
        "total_dose": total_dose,
    }
    eer = {
        "eer_grouping": eer_grouping,
        "eer_dose_per_frame": eer_dose_per_frame,
        "eer_upsampling": eer_upsampling,
    }
    folder = _folder(patterns or _movie_patterns(), acquisition=_checked(AcquisitionSettings, given))
    processing = _checked(Processing, eer)
    archive = Archive(codec=codec.value, level=level)

    def work(task: Task, frame_done: FrameDone) -> Written:
        return pack_one(
            task.source,
            task.target,
            archive=archive,
            folder=folder,
            processing=processing,
            save_gain=save_gain,
            on_frame=frame_done,
        )

    _convert(
        _find(movies, folder),
        ".mrcz",
        work,
        most_bytes=most_bytes,
        output=output,
        overwrite=overwrite,
        dry_run=dry_run,
        jobs=jobs,
    )


@app.command(short_help="Archives become MRC or TIFF movies.")
def unpack(
    archives: Files,
    *,
    output: Output = None,
    mode: Annotated[
        int | None,
        typer.Option(
            "--mode",
            help="MRC mode: 0 bytes, 1 signed and 6 unsigned 16 bits, 2 floats, 12 floats of 16 bits, 101 four bits.",
            show_default="the camera's, or that of the type",
        ),
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed", help="Mode 0 as MRC2014 has it, signed: counts up to 127.")
    ] = False,
    tiff: Annotated[
        Compression | None, typer.Option("--tiff", help="TIFF instead of MRC.", show_default=False)
    ] = None,
    gain: Annotated[
        Path | None,
        typer.Option(
            "--motioncor2-gain",
            help="Gain reference to put into the header of a 4-bit MRC, as MotionCor2's -ArcDir does.",
            show_default=False,
        ),
    ] = None,
    patterns: option.Patterns = None,
    save_gain: SaveGain = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    jobs: Jobs = 0,
    threads: Threads = 0,
) -> None:
    """Write each archive (or other movie) as MRC or TIFF, with every pixel as it was.

    A mode that cannot hold all pixels is refused, and one that can is named: nothing is ever cut off or rounded.

    Example: komad mrcz unpack archive/ -o frames/ --mode 1
    """
    from komad.repack.unpack import Form, most_bytes
    from komad.repack.unpack import unpack as unpack_one

    _use_threads(threads)
    form = Form(mode=mode, signed=signed, tiff=None if tiff is None else tiff.value, gain=gain)

    def work(task: Task, frame_done: FrameDone) -> Written:
        return unpack_one(task.source, task.target, form, save_gain=save_gain, on_frame=frame_done)

    _convert(
        _find(archives, _folder(patterns or ARCHIVES)),
        form.suffix,
        work,
        most_bytes=lambda path: most_bytes(path, form),
        output=output,
        overwrite=overwrite,
        dry_run=dry_run,
        jobs=jobs,
    )


@app.command(short_help="What is in archives and movies.")
def info(files: Files, *, json: Json = False) -> None:
    """Show what files say of themselves; no frame is decoded.

    Example: komad mrcz info archive/ --json
    """
    from dataclasses import asdict

    from komad.cli.main import print_error
    from komad.repack.look import read_info

    found, n_failed = [], 0
    for path in _find(files, _folder([*ARCHIVES, *_movie_patterns()])):
        try:
            found.append(read_info(path))
        except KomadError as error:
            n_failed += 1
            print_error(error)
    if json:
        print(jsonlib.dumps({"schema_version": 1, "files": [asdict(each) for each in found]}, indent=1))
    else:
        _show(found)
    _end(n_failed)


def _show(found: Sequence[Info]) -> None:
    """A line for each file, or, where they are few, all that is known of each."""
    from rich.console import Console
    from rich.table import Table

    from komad.status.text import size

    console = Console(highlight=False)
    width = None if console.is_terminal else WIDTH
    if len(found) > MOST_IN_WORDS:
        table = Table(box=None, pad_edge=False)
        for name in ("file", "frames", "x, y", "type", "codec", "size", "ratio", "Å", "e/Å²"):
            table.add_column(name, overflow="fold")
        for each in found:
            table.add_row(
                each.file,
                str(each.n_frames),
                f"{each.nx}, {each.ny}",
                each.dtype,
                each.codec or each.format,
                size(each.file_bytes),
                f"{each.pixel_bytes / max(1, each.file_bytes):.2f}",
                _number(each.pixel_size_angstrom),
                _number(each.dose_per_frame),
            )
        console.print(table, width=width)
        return
    for each in found:
        mode = "" if each.mrc_mode is None else f", mode {each.mrc_mode}"
        maker = "another program" if each.komad_version is None else f"komad {each.komad_version}"
        facts = {
            "frames": f"{each.n_frames} of {each.nx} x {each.ny} pixels, {each.dtype}{mode}",
            "kind": each.format if each.codec is None else f"{each.format}, {each.codec}",
            "size": f"{size(each.file_bytes)} for {size(each.pixel_bytes)} of pixels, ratio "
            f"{each.pixel_bytes / max(1, each.file_bytes):.2f}",
            "pixel size": _with_unit(each.pixel_size_angstrom, "Å"),
            "voltage": _with_unit(each.voltage_kv, "kV"),
            "dose per frame": _with_unit(each.dose_per_frame, "e/Å²"),
            "gain reference": "in its header (komad mrcz unpack --save-gain)"
            if each.gain_reference
            else "none in it",
        }
        if each.codec is not None:
            facts |= {
                "checksums": "one for each frame" if each.checksums else "none",
                "made by": maker,
                "made of": each.movie or "unknown",
            }
        print(each.file)
        for name, text in facts.items():
            print(f"  {name:15} {text}")


@app.command(short_help="Whether every frame is whole.")
def verify(files: Files, *, json: Json = False, jobs: Jobs = 0, threads: Threads = 0) -> None:
    """Read every frame from the disk, check its checksum or decode it, and say which are damaged.

    The exit code is 1 when a file is damaged. `komad verify` compares a whole folder with its manifest, too.

    Example: komad mrcz verify archive/
    """
    from dataclasses import asdict

    from komad.repack.look import find_damage
    from komad.repack.many import run

    _use_threads(threads)
    paths = _find(files, _folder(ARCHIVES))
    rows: list[dict[str, Any]] = []
    with _Progress(len(paths)) as progress:
        for outcome in run(paths, find_damage, jobs=jobs or _jobs(), on_frame=progress.frame_done):
            damage = outcome.result
            error = None if outcome.error is None else str(outcome.error)
            sound = damage is None and error is None
            row: dict[str, Any] = {"file": str(outcome.source), "sound": sound, "error": error}
            row |= {"frames": [], "unreachable": [], "texts": []} if damage is None else asdict(damage)
            rows.append(row)
            progress.file_done(outcome.source)
            if not sound and not json:
                progress.say(_damage_words(row), "red")
    rows.sort(key=lambda row: row["file"])
    n_failed = sum(not row["sound"] for row in rows)
    if json:
        print(jsonlib.dumps({"schema_version": 1, "files": rows}, indent=1))
    else:
        print(f"{len(rows) - n_failed} of {len(rows)} files are whole")
    _end(n_failed)


def _damage_words(row: dict[str, Any]) -> str:
    words = []
    if row["frames"]:
        words.append(f"damaged: {_ranges(row['frames'])}")
    if row["unreachable"]:
        words.append(f"cannot be found any more: {_ranges(row['unreachable'])}")
    texts = [row["error"]] if row["error"] else row["texts"][:3]
    if len(row["texts"]) > len(texts):
        texts.append(f"and {len(row['texts']) - len(texts)} more")
    return "\n".join([f"{row['file']}: {'; '.join(words) or 'damaged'}", *(f"  {text}" for text in texts)])


def _ranges(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> 'frames 1-3, 7 (counted from 1)'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    listed = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    return f"frame{'s' if len(numbers) > 1 else ''} {listed} (counted from 1)"


@app.command(short_help="One frame, or the sum, as MRC.")
def cat(
    file: Annotated[
        Path, typer.Argument(readable=False, help="An archive or another movie.", show_default=False)
    ],
    *,
    frame: Annotated[
        int | None, typer.Option("--frame", "-f", help="The frame, counted from 1.", show_default=False)
    ] = None,
    total: Annotated[bool, typer.Option("--sum", help="The plain sum of all frames.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; else standard output.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one frame of a movie, or the sum of all, as an MRC picture.

    Example: komad mrcz cat m.mrcz --frame 3 > frame3.mrc
    """
    from komad.formats.atomic import write_bytes
    from komad.repack.look import frame_as_mrc, sum_as_mrc

    if (frame is None) != total:
        raise typer.BadParameter("say which frame with --frame K, or --sum; not both")
    if output is None and sys.stdout.isatty():
        raise ParameterError("a picture is no text for a terminal: add > FILE, or --output FILE")
    if output is not None and output.exists() and not overwrite:
        raise ParameterError(f"{output} is there already: --overwrite replaces it")
    picture = sum_as_mrc(file) if frame is None else frame_as_mrc(file, frame - 1)
    if output is None:
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
    else:
        write_bytes(output, picture)


def _convert(
    sources: Sequence[Path],
    suffix: str,
    work: Callable[[Task, FrameDone], Written],
    *,
    most_bytes: Callable[[Path], int],
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
    jobs: int,
) -> None:
    """Make the new file of each movie, several at a time; ends the command when one failed."""
    from komad.formats.atomic import make_directory, remove_leftovers
    from komad.repack.many import Room, plan, run

    tasks = {task.source: task for task in plan(sources, suffix, output=output, overwrite=overwrite)}
    room = Room()

    def one(source: Path, frame_done: FrameDone) -> Written | None:
        task = tasks[source]
        if task.problem:
            raise ParameterError(f"{source}: {task.problem}")
        n_bytes = most_bytes(source)
        folder = task.target.parent.absolute()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with room.take(there, n_bytes):
            return None if dry_run else work(task, frame_done)

    if not dry_run:
        for folder in {task.target.parent for task in tasks.values()}:
            make_directory(folder)
            remove_leftovers(folder)
    n_failed = n_bytes = n_pixel_bytes = 0
    with _Progress(len(tasks)) as progress:
        for outcome in run(list(tasks), one, jobs=jobs or _jobs(), on_frame=progress.frame_done):
            progress.file_done(outcome.source)
            target = tasks[outcome.source].target
            if outcome.error is not None:
                n_failed += 1
                progress.say(str(outcome.error), "red")
            elif outcome.result is None:
                progress.say(f"{outcome.source} -> {target}")
            else:
                n_bytes += outcome.result.n_bytes
                n_pixel_bytes += outcome.result.pixel_bytes
                _say(progress, outcome, target)
        _say_total(progress, len(tasks), n_failed, n_bytes, n_pixel_bytes, dry_run=dry_run)
    _end(n_failed)


def _say(progress: _Progress, outcome: Outcome[Written | None], target: Path) -> None:
    from komad.status.text import size

    written = outcome.result
    assert written is not None
    ratio = written.pixel_bytes / max(1, written.n_bytes)
    progress.say(f"{target}  {written.kind}  {size(written.n_bytes)}  ratio {ratio:.2f}")
    for note in written.notes:
        progress.say(f"  {note}", "yellow")


def _say_total(
    progress: _Progress, n_tasks: int, n_failed: int, n_bytes: int, n_pixel_bytes: int, *, dry_run: bool
) -> None:
    from komad.status.text import size

    seconds = progress.seconds
    words = f"{n_tasks - n_failed} of {n_tasks} files"
    if dry_run:
        progress.say(f"{words} would be written; nothing was done")
    else:
        progress.say(
            f"{words}, {size(n_pixel_bytes)} of pixels in {size(n_bytes)}, {seconds:.1f} s, "
            f"{n_pixel_bytes / 1e6 / max(seconds, 1e-3):.0f} MB/s"
        )


class _Progress:
    """A bar over the files, and one for each that is being worked on, where there is a terminal."""

    def __init__(self, n_files: int) -> None:
        from time import perf_counter

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console: Console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._whole = self._progress.add_task("files", total=n_files)
        self._now = perf_counter
        self._started = perf_counter()
        self._bars: dict[Path, Any] = {}

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._now() - self._started

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def frame_done(self, path: Path, index: int) -> None:
        """A frame of a file is done."""
        if path not in self._bars:
            self._bars[path] = self._progress.add_task(f"{path.name}, frames", total=None)
        self._progress.update(self._bars[path], completed=index + 1)

    def file_done(self, path: Path) -> None:
        """A file is done, well or not."""
        if path in self._bars:
            self._progress.remove_task(self._bars.pop(path))
        self._progress.advance(self._whole)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line above the bars."""
        self._console.print(text, style=style, markup=False, soft_wrap=True)


def _find(given: Sequence[Path], folder: WatchFolder) -> tuple[Path, ...]:
    from komad.cli.oneoff import find_movies

    return tuple(dict.fromkeys(find_movies(given, folder)))


def _folder(patterns: Sequence[str], **tables: object) -> WatchFolder:
    from komad.config import WatchFolder

    return WatchFolder.model_validate({"directory": Path(), "patterns": tuple(patterns), **tables})


def _movie_patterns() -> list[str]:
    """What cameras write."""
    from komad.config import WatchFolder

    return [each for each in WatchFolder.model_fields["patterns"].default if each not in ARCHIVES]


def _checked(model: Any, given: Mapping[str, object]) -> Any:
    from pydantic import ValidationError

    try:
        return model.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise typer.BadParameter("; ".join(problems)) from error


def _use_threads(threads: int) -> None:
    if threads:
        os.environ["KOMAD_THREADS"] = str(threads)


def _jobs() -> int:
    from komad.arrays import thread_count

    return min(MOST_JOBS, thread_count())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _with_unit(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{_number(value)} {unit}"


def _end(n_failed: int) -> None:
    if n_failed:
        raise typer.Exit(exits.MOVIES_FAILED)
