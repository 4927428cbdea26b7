"""`komad process`: movies named on the command line, without a daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import typer

from komad.cli import exits
from komad.cli import options as option

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from rich.console import Console

    from komad.cli.oneoff import OneOff
    from komad.work.device import Device
    from komad.work.session import SessionInMemory


MAX_TILT_DEGREE = 180.0


def process(
    context: typer.Context,
    movies: option.Movies,
    *,
    patterns: option.Patterns = None,
    ignore: option.Ignore = None,
    frame_files: option.FrameFiles = None,
    frames_per_movie: option.FramesPerMovie = None,
    skip_done: option.SkipDone = False,
    tilt: option.Tilt = None,
    tilt_series_mdoc: option.TiltMdoc = None,
    eer_grouping: option.EerGrouping = None,
    eer_dose_per_frame: option.EerDosePerFrame = None,
    eer_early_split: option.EerEarlySplit = None,
    eer_upsampling: option.EerUpsampling = None,
    pixel_size_angstrom: option.PixelSize = None,
    voltage_kv: option.Voltage = None,
    cs_mm: option.Cs = None,
    amplitude_contrast: option.AmplitudeContrast = None,
    dose_per_frame: option.DosePerFrame = None,
    total_dose: option.TotalDose = None,
    frame_doses: option.FrameDoses = None,
    pre_exposure: option.PreExposure = None,
    optics_group: option.OpticsGroup = None,
    beam_shift_groups: option.BeamShiftGroups = None,
    beam_shift_tolerance: option.BeamShiftTolerance = None,
    epu_session: option.EpuSession = None,
    gain: option.Gain = None,
    gain_rot: option.GainRot = None,
    gain_flip: option.GainFlip = None,
    gain_kind: option.GainMeaning = None,
    dark: option.Dark = None,
    defects: option.Defects = None,
    koma: option.Koma = False,
    skip_first: option.SkipFirst = None,
    skip_last: option.SkipLast = None,
    local_motion: option.LocalMotion = None,
    n_patches: option.Patches = None,
    patch_overlap_percent: option.PatchOverlap = None,
    alignment_weight: option.AlignmentWeight = None,
    b_factors_angstrom2: option.BFactors = None,
    group_frames: option.Group = None,
    reference_frame: option.ReferenceFrame = None,
    max_iterations: option.Iterations = None,
    tolerance_px: option.Tolerance = None,
    max_shift_angstrom: option.MaxShift = None,
    alignment_pixel_size_angstrom: option.AlignmentPixelSize = None,
    bin_factor: option.BinFactor = None,
    magnification: option.Magnification = None,
    dose_weighting: option.DoseWeighting = None,
    in_frame_motion: option.InFrameMotion = None,
    sum_range: option.SumRange = None,
    even_odd: option.EvenOdd = None,
    even_odd_weighted: option.EvenOddWeighted = None,
    aligned_stack: option.AlignedStack = None,
    aligned_stack_group: option.AlignedStackGroup = None,
    power_spectrum_groups: option.PowerSpectrumGroups = None,
    output: option.OutputFolder,
    archive: option.ArchiveWanted = None,
    archive_directory: option.ArchiveFolder = None,
    float16: option.Float16 = None,
    devices: option.Devices = None,
    threads: option.Threads = 0,
) -> None:
    """Process movies now, without a daemon: the same steps and the same files as `komad run`.

    A movie that cannot be processed prints its error and the others go on; the exit code is 1 then. Those who know
    MotionCor find its options in docs/from_motioncor2.md.

    Example: komad process *.tiff -o corrected --gain gain.mrc --pixel-size 0.83 --voltage 300 --dose-per-frame 1.2
    """
    # The parameters bear the names of the settings, and None means not given.
    given = {name: value for name, value in locals().items() if value is not None}
    if threads:
        os.environ["KOMAD_THREADS"] = str(threads)
    _refuse_nonsense(given)
    n_failed = _process_all(_settings(given, context), skip_done=skip_done)
    if n_failed:
        raise typer.Exit(exits.MOVIES_FAILED)


def _refuse_nonsense(given: Mapping[str, Any]) -> None:
    """Refuse options that make no sense together."""
    folders = any(path.is_dir() for path in given["movies"])
    unweighted = given.get("dose_weighting") is False
    global_only = given.get("local_motion") is False
    optimal = given.get("alignment_weight", option.Weight.OPTIMAL) == option.Weight.OPTIMAL
    nonsense = {
        "--pattern and --ignore choose from a folder: name one, or leave them out": not folders
        and ("patterns" in given or "ignore" in given),
        "--tilt and --tilt-mdoc both tell the order of the tilts: give one of them": "tilt" in given
        and "tilt_series_mdoc" in given,
        "--tilt is the angle of the first tilt and the step to the next, in degrees: neither is above 180": not all(
            abs(angle) <= MAX_TILT_DEGREE for angle in given.get("tilt", ())
        ),
        "--frame-doses tells the dose of each frame: leave --dose-per-frame and --total-dose out": "frame_doses"
        in given
        and ("dose_per_frame" in given or "total_dose" in given),
        "--total-dose and --dose-per-frame are one value in two forms: give one of them": "total_dose"
        in given
        and "dose_per_frame" in given,
        "--eer-grouping and --eer-dose-per-frame both say what a frame is made of: give one of them": "eer_grouping"
        in given
        and "eer_dose_per_frame" in given,
        "--eer-early-split is not for frames of a number of raw frames: leave --eer-grouping out": "eer_grouping"
        in given
        and "eer_early_split" in given,
        "--rot-gain, --flip-gain and --gain-kind are about the gain reference: name it with --gain": "gain"
        not in given
        and bool(given.get("gain_rot") or given.get("gain_flip") or "gain_kind" in given),
        "--patches and --patch-overlap are for local motion: leave --no-local-motion out": global_only
        and ("n_patches" in given or "patch_overlap_percent" in given),
        "--b-factors needs --weight b-factor or --weight phase-only: the optimal weight has no B": optimal
        and "b_factors_angstrom2" in given,
        "--sum-range and --even-odd-weighted are weighted sums: leave --no-dose-weighting out": unweighted
        and ("sum_range" in given or "even_odd_weighted" in given),
        "--in-frame-motion is a part of dose weighting: leave --no-dose-weighting out": unweighted
        and "in_frame_motion" in given,
        "--beam-shift-tolerance is for optics groups: add --beam-shift-groups": "beam_shift_groups"
        not in given
        and "beam_shift_tolerance" in given,
        "--aligned-stack-group is about the aligned stack: add --aligned-stack": "aligned_stack" not in given
        and "aligned_stack_group" in given,
        "--archive-directory is for archives: leave --no-archive out": given.get("archive") is False
        and "archive_directory" in given,
    }
    if sentences := [sentence for sentence, is_so in nonsense.items() if is_so]:
        raise typer.BadParameter("; ".join(sentences))


def _settings(given: Mapping[str, Any], context: typer.Context) -> OneOff:
    """Check the values as those of a configuration file are, and find the movies."""
    from pydantic import ValidationError

    from komad.cli.oneoff import OneOff, find_movies
    from komad.config import (
        AcquisitionSettings,
        Archive,
        Output,
        Processing,
        ReferenceSettings,
        WatchFolder,
        Workers,
    )
    from komad.ingest import references

    values = _plain(given)

    def table(model: type[BaseModel], **more: object) -> dict[str, object]:
        return {name: values[name] for name in model.model_fields if name in values} | more

    try:
        folder = WatchFolder.model_validate(
            table(
                WatchFolder,
                directory=Path(),
                acquisition=table(AcquisitionSettings),
                references=table(ReferenceSettings),
            )
        )
        settings = OneOff(
            folder=folder,
            processing=Processing.model_validate(table(Processing)),
            output=Output.model_validate(table(Output, directory=values["output"])),
            archive=Archive.model_validate({"enabled": values.get("archive", True)}),
            movies=find_movies(given["movies"], folder, values["output"]),
            koma=values["koma"],
            tilt=values.get("tilt"),
            devices=Workers.model_validate({"devices": values.get("devices", "cpu")}).devices,
        )
    except ValidationError as error:
        raise typer.BadParameter(_explain(error, context)) from error
    references.bind(folder.references, None)  # a gain that is missing stops all of it, at once
    return settings


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the settings want them; whole paths, as other programs read of them in the STAR files."""
    from komad.config import WatchFolder
    from komad.ingest.doses import read_frame_doses

    values: dict[str, Any] = {
        name: value.resolve() if isinstance(value, Path) else value for name, value in given.items()
    }
    if "ignore" in values:
        values["ignore"] = (*WatchFolder.model_fields["ignore"].default, *values["ignore"])
    if "frame_doses" in values:
        values["frame_doses"] = read_frame_doses(values["frame_doses"])
    if "alignment_weight" in values:
        values["alignment_weight"] = values["alignment_weight"].value.replace("-", "_")
    if values.pop("beam_shift_groups", False):
        values["optics_groups"] = "beam_shift"
    if "gain_kind" in values:
        values["gain_kind"] = values["gain_kind"].value
    if values.get("reference_frame", "").isdigit():
        values["reference_frame"] = int(values["reference_frame"])
    return values


def _explain(error: ValidationError, context: typer.Context) -> str:
    """Name each value that is wrong by its option and its key in the configuration."""
    options: dict[Any, str] = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    sentences = []
    for problem in error.errors():
        what = problem["msg"].removeprefix("Value error, ")
        named = [f"{options[name]} ({name}): " for name in problem["loc"] if name in options]
        sentences.append("".join(named) + what)
    return "; ".join(sentences)


def _process_all(settings: OneOff, *, skip_done: bool) -> int:
    """Process one after the other with a progress bar; gives the number that failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from komad.cli.oneoff import (
        STAGES,
        describe_movie,
        device_of,
        done_before,
        groups_before,
        process_movie,
    )
    from komad.errors import DeviceError, DiskFullError, KomadError, OutputError
    from komad.formats.atomic import remove_leftovers
    from komad.output.session import SessionIndex

    index = SessionIndex(settings.output.directory)
    remove_leftovers(settings.output.directory)
    done = done_before(settings) if skip_done else set()
    movies = [path for path in settings.movies if path not in done]
    device = device_of(settings.devices)
    session = _session(device) if settings.koma else None
    groups = groups_before(settings)
    console, n_failed = Console(highlight=False), 0
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with index, Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("movies", total=len(movies))
        steps = progress.add_task("", total=len(STAGES))

        for path in movies:

            def on_stage(stage: str, name: str = path.name) -> None:
                progress.update(steps, description=f"{name}: {stage}", completed=STAGES.index(stage))

            started = perf_counter()
            try:
                movie = describe_movie(path, settings, index, groups)
                summary = process_movie(
                    movie, settings, index, session=session, device=device, on_stage=on_stage
                )
                _say_done(console, summary, perf_counter() - started)
            except (DeviceError, DiskFullError, OutputError):
                raise  # the next movie would fail too
            except (KomadError, MemoryError) as error:
                n_failed += 1
                small = "the memory of this computer is too small: " if isinstance(error, MemoryError) else ""
                console.print(f"{path.name}  {small}{error}", style="red", markup=False, soft_wrap=True)
            progress.advance(whole)
    n_done = len(movies) - n_failed
    before = f", {len(done)} were done before" if done else ""
    console.print(
        f"{n_done} of {len(movies)} movies done{before}; look into {settings.output.directory}",
        markup=False,
        soft_wrap=True,
    )
    return n_failed


def _session(device: Device) -> SessionInMemory:
    from komad.config import Koma
    from komad.work.session import SessionInMemory

    return SessionInMemory(Koma(), device)


def _say_done(console: Console, summary: dict[str, Any], seconds: float) -> None:
    motion = summary["motion_angstrom"]
    weighted = "" if summary["dose_weighted"] else "  not dose-weighted"
    if summary["dose_per_frame"] is None:
        weighted += " (dose per frame unknown: add --dose-per-frame or --total-dose)"
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
