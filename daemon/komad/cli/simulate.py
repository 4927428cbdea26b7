"""`komad simulate`: movies with known motion, and a fake microscope."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Mode(StrEnum):
    """How movies appear, as in `komad.simulate.microscope`."""

    RENAME = "rename"
    GROW = "grow"
    SLOW_COPY = "slow-copy"
    BURST = "burst"


class Format(StrEnum):
    """File formats, as in `komad.simulate.write`."""

    MRC = "mrc"
    MRC_UINT16 = "mrc-uint16"
    MRC_4BIT = "mrc-4bit"
    TIFF_LZW = "tiff-lzw"
    EER = "eer"


class Specimen(StrEnum):
    """What lies in the ice, as in `komad.simulate.spec`."""

    APOFERRITIN = "apoferritin"
    CHAIN = "chain"
    ICE = "ice"


class Sidecars(StrEnum):
    """Files beside each movie, as in `komad.simulate.sidecars`."""

    NONE = "none"
    MDOC = "mdoc"
    EPU = "epu"


LARGEST_COUNT = {Format.MRC_4BIT: 15, Format.MRC_UINT16: 65535, Format.EER: 25}


def simulate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; made when missing.")] = Path(
        "simulated"
    ),
    session: Annotated[
        bool, typer.Option("--session", help="Write movies one after the other, as a microscope does.")
    ] = False,
    movies: Annotated[
        int | None,
        typer.Option("--movies", "-n", min=1, help="How many: 1, or 10 in a session.", show_default=False),
    ] = None,
    interval: Annotated[float, typer.Option("--interval", min=0, help="Seconds from movie to movie.")] = 20.0,
    mode: Annotated[Mode, typer.Option("--mode", help="How files appear in a session.")] = Mode.RENAME,
    size: Annotated[int, typer.Option("--size", min=64, help="Pixels per side.")] = 4096,
    frames: Annotated[int, typer.Option("--frames", min=2, help="Frames per movie.")] = 40,
    file_format: Annotated[Format, typer.Option("--format", help="File format.")] = Format.MRC,
    sidecars: Annotated[
        Sidecars,
        typer.Option("--sidecars", help="Metadata files beside each movie, with the beam shift of its hole."),
    ] = Sidecars.NONE,
    specimen: Annotated[
        Specimen, typer.Option("--specimen", help="What lies in the ice.")
    ] = Specimen.APOFERRITIN,
    pixel_size: Annotated[float, typer.Option("--pixel-size", help="Å per pixel.")] = 0.83,
    voltage: Annotated[float, typer.Option("--voltage", help="kV, 100 to 300.")] = 300.0,
    dose_per_frame: Annotated[float, typer.Option("--dose-per-frame", help="e/Å² per frame.")] = 1.2,
    defocus: Annotated[float, typer.Option("--defocus", help="Underfocus, µm.")] = 1.5,
    local_motion: Annotated[
        float,
        typer.Option("--local-motion", min=0, help="Motion across the field, as a multiple of the usual."),
    ] = 1.0,
    gain_error: Annotated[
        float, typer.Option("--gain-error", min=0, help="Relative error of the gain reference.")
    ] = 0.0,
    carbon_edge: Annotated[
        bool, typer.Option("--carbon-edge", help="Part of the field is carbon film.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal movies.")] = 0,
) -> None:
    """Simulate movies of apoferritin with exactly known motion, with a gain reference and the truth beside them.

    Example: komad simulate -o camera --session --mode grow --movies 20 --interval 10
    """
    from komad.errors import ParameterError
    from komad.simulate.microscope import raw_frames, run_session
    from komad.simulate.spec import MovieSpec

    spec = MovieSpec(
        n_frames=frames,
        ny=size,
        nx=size,
        pixel_size_angstrom=pixel_size,
        voltage_kv=voltage,
        dose_per_frame=dose_per_frame,
        defocus_um=defocus,
        specimen=specimen.value,
        local_motion=local_motion,
        gain_error=gain_error,
        carbon_edge=carbon_edge,
        max_count=LARGEST_COUNT.get(file_format, 255),
        seed=seed,
    )
    counts = spec.dose_e_per_px_frame
    if counts + 4 * counts**0.5 > spec.max_count:
        raise ParameterError(
            f"{counts:.3g} electrons per pixel and frame are too many for {file_format.value}, which holds "
            f"{spec.max_count}: a smaller --dose-per-frame, or another --format"
        )
    written = run_session(
        output,
        spec,
        movies or (10 if session else 1),
        interval if session else 0.0,
        mode=mode.value,
        file_format=file_format.value,
        sidecars=sidecars.value,
        on_movie=lambda path, _: print(path, flush=True),
    )
    gain = output / "gain.mrc"
    stem = written[0].name.split("_")[0]
    is_eer = file_format is Format.EER
    as_written = raw_frames(spec) if is_eer else spec
    eer = f" --gain-kind factor --eer-grouping {as_written.n_frames // spec.n_frames}" if is_eer else ""
    print(
        f"gain reference {gain}; the motion is in *_truth.json\n"
        f"process them: komad process {output}/{stem}_*{written[0].suffix} -o corrected --gain {gain} "
        f"--pixel-size {pixel_size:g} --voltage {voltage:g} --dose-per-frame {as_written.dose_per_frame:g}{eer}"
    )
