"""The options of `komad process`, in the groups in which its help shows them.

None of them has a default here: what is not given is what the configuration says by itself. `show_default` repeats that
for the help.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

INPUT, OPTICS, REFERENCES = "Input", "Optics and dose", "References"
MOTION, SUMS, OUTPUT = "Motion", "Sums", "Output"


class GroupedCommand(TyperCommand):
    """A command whose plain help shows its options in groups."""

    # Of any type: newer versions of typer have a click of their own.
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one list for each group, in the order in which the groups begin."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = getattr(parameter, "rich_help_panel", None) or "Help"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Weight(StrEnum):
    """How frequencies count in the alignment, as `processing.alignment_weight`."""

    OPTIMAL = "optimal"
    B_FACTOR = "b-factor"
    PHASE_ONLY = "phase-only"


class GainKind(StrEnum):
    """What a gain reference is, as `references.gain_kind`."""

    AUTO = "auto"
    FACTOR = "factor"
    RESPONSE = "response"


# Input
Movies = Annotated[
    # Each is tried when its turn comes: one that may not be read must not stop the others.
    list[Path],
    typer.Argument(
        readable=False,
        help="Movies (MRC, MRCZ, TIFF, EER), or folders: their movies in the order of names, without sub-folders.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--pattern",
        metavar="NAME",
        help="Which files of a folder are movies, as 'Stack_*Raw.mrc'; repeatable.",
        show_default="*.mrc *.mrcs *.mrc.bz2 *.mrc.xz *.mrc.zst *.mrc.gz *.mrcz *.tif *.tiff *.eer *.dm4 *.dm3",
        rich_help_panel=INPUT,
    ),
]
FrameFiles = Annotated[
    str | None,
    typer.Option(
        "--frame-files",
        metavar="TEMPLATE",
        help="How files are named where each frame is one: '{movie}_frame{frame}.mrc'.",
        rich_help_panel=INPUT,
    ),
]
FramesPerMovie = Annotated[
    int | None,
    typer.Option(
        "--frames-per-movie",
        metavar="N",
        help="With --frame-files: how many frames a movie must have.",
        rich_help_panel=INPUT,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="NAME",
        help="Files of a folder to leave out, as '*_bad*', beside temporary files and gain references; repeatable.",
        rich_help_panel=INPUT,
    ),
]
SkipDone = Annotated[
    bool,
    typer.Option("--skip-done", help="Leave out movies that the output has already.", rich_help_panel=INPUT),
]
Tilt = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--tilt",
        metavar="START STEP",
        help="The movies are the tilts of one series, given in the order in which they were taken, at the angles "
        "START, START + STEP, ... degrees: each is weighted with the dose of those before. Not for series that go to "
        "and fro (dose-symmetric): --tilt-mdoc.",
        rich_help_panel=INPUT,
    ),
]
EpuSession = Annotated[
    Path | None,
    typer.Option(
        "--epu-session",
        help="Folder of EPU's session (with Images-Disc1): the .xml of each movie is found there.",
        rich_help_panel=INPUT,
    ),
]
BeamShiftGroups = Annotated[
    bool | None,
    typer.Option(
        "--beam-shift-groups",
        help="An optics group for each beam shift that sidecars tell: for image shift acquisition (AFIS, multi-shot).",
        show_default=False,
        rich_help_panel=OPTICS,
    ),
]
BeamShiftTolerance = Annotated[
    float | None,
    typer.Option(
        "--beam-shift-tolerance",
        help="How far from its group's centre a movie may be: EPU's unit, or µm for SerialEM; auto: "
        "found from the shifts.",
        show_default="auto",
        rich_help_panel=OPTICS,
    ),
]
TiltMdoc = Annotated[
    Path | None,
    typer.Option(
        "--tilt-mdoc",
        help="SerialEM's .mdoc of a tilt series that lists the movies, or a folder of such files: tells the angles and "
        "the order.",
        rich_help_panel=INPUT,
    ),
]

EerGrouping = Annotated[
    int | None,
    typer.Option(
        "--eer-grouping",
        metavar="N",
        min=1,
        help="Of EER movies: raw frames that are summed into a frame, as RELION's --eer_grouping. Those left at the "
        "end make a frame of their own, or a longer last one.",
        rich_help_panel=INPUT,
    ),
]
EerDosePerFrame = Annotated[
    float | None,
    typer.Option(
        "--eer-dose-per-frame",
        metavar="DOSE",
        help="Of EER movies, instead: e/Å² that a frame is made of. Needs the dose (--total-dose, a sidecar or the "
        "file itself); without it about 40 frames are made.",
        show_default="1",
        rich_help_panel=INPUT,
    ),
]
EerEarlySplit = Annotated[
    int | None,
    typer.Option(
        "--eer-early-split",
        metavar="1|2|4",
        help="Of EER movies whose dose is known, without --eer-grouping: frames in place of each of the first 4 e/Å², "
        "when the specimen moves most.",
        show_default="2",
        rich_help_panel=INPUT,
    ),
]
EerUpsampling = Annotated[
    int | None,
    typer.Option(
        "--eer-upsampling",
        metavar="1|2|4",
        help="Of EER movies: pixels of a frame along each pixel of the camera; 2 with --bin 2 for super-resolution "
        "micrographs at the camera's own pixel.",
        show_default="1",
        rich_help_panel=INPUT,
    ),
]

# Optics and dose
PixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size",
        help="Å per pixel as written (EER: the camera's own); else from sidecar or header.",
        rich_help_panel=OPTICS,
    ),
]
Voltage = Annotated[
    float | None, typer.Option("--voltage", help="kV; else from a sidecar.", rich_help_panel=OPTICS)
]
Cs = Annotated[
    float | None,
    typer.Option("--cs", help="Spherical aberration, mm.", show_default="2.7", rich_help_panel=OPTICS),
]
AmplitudeContrast = Annotated[
    float | None,
    typer.Option(
        "--amplitude-contrast",
        help="Fraction, passed through to RELION.",
        show_default="0.1",
        rich_help_panel=OPTICS,
    ),
]
DosePerFrame = Annotated[
    float | None,
    typer.Option(
        "--dose-per-frame",
        help="e/Å² per frame (of EER movies: per raw frame); else from a sidecar. Without it sums are not weighted.",
        rich_help_panel=OPTICS,
    ),
]
TotalDose = Annotated[
    float | None,
    typer.Option(
        "--total-dose",
        help="e/Å² of the whole movie, instead of --dose-per-frame: what is known of EER movies.",
        rich_help_panel=OPTICS,
    ),
]
FrameDoses = Annotated[
    Path | None,
    typer.Option(
        "--frame-doses",
        help="File of doses where frames differ: e/Å² of each frame (of EER movies: raw frame), or MotionCor's rows "
        "`frames 1 dose`.",
        rich_help_panel=OPTICS,
    ),
]
PreExposure = Annotated[
    float | None,
    typer.Option(
        "--pre-exposure",
        help="e/Å² before the first frame (of the first tilt).",
        show_default="0",
        rich_help_panel=OPTICS,
    ),
]
OpticsGroup = Annotated[
    str | None,
    typer.Option(
        "--optics-group",
        help="Name in RELION's optics table.",
        show_default="opticsGroup1",
        rich_help_panel=OPTICS,
    ),
]

# References
Gain = Annotated[
    Path | None,
    typer.Option(
        "--gain", help="Gain reference (.mrc, .tif, .gain, .dm4); multiplies.", rich_help_panel=REFERENCES
    ),
]
GainRot = Annotated[
    int | None,
    typer.Option(
        "--rot-gain",
        min=0,
        max=3,
        help="Quarter turns of the gain, as -RotGain, --gain_rot.",
        show_default="0",
        rich_help_panel=REFERENCES,
    ),
]
GainFlip = Annotated[
    int | None,
    typer.Option(
        "--flip-gain",
        min=0,
        max=2,
        help="Then 1 upside down, 2 left to right, as -FlipGain.",
        show_default="0",
        rich_help_panel=REFERENCES,
    ),
]
GainMeaning = Annotated[
    GainKind | None,
    typer.Option(
        "--gain-kind",
        help="What the gain is: the factor, or the detector's response; auto: the response for EER movies, but for a "
        ".gain file, else the factor.",
        show_default="auto",
        rich_help_panel=REFERENCES,
    ),
]
Dark = Annotated[
    Path | None,
    typer.Option(
        "--dark",
        help="Dark reference, subtracted first; lies as the frames, it is not turned.",
        rich_help_panel=REFERENCES,
    ),
]
Defects = Annotated[
    Path | None,
    typer.Option(
        "--defects",
        help="Defect map, text file of boxes `x y width height`, or defect list of SerialEM.",
        rich_help_panel=REFERENCES,
    ),
]
Koma = Annotated[
    bool,
    typer.Option(
        "--koma/--no-koma",
        help="Take off the detector's own pattern, as far as the movies before on this command line show it, too: for "
        "movies of one session in the order in which they were taken.",
        rich_help_panel=REFERENCES,
    ),
]

# Motion
SkipFirst = Annotated[
    int | None,
    typer.Option(
        "--throw",
        min=0,
        help="Frames left out at the start; their dose counts.",
        show_default="0",
        rich_help_panel=MOTION,
    ),
]
SkipLast = Annotated[
    int | None,
    typer.Option(
        "--trunc", min=0, help="Frames left out at the end.", show_default="0", rich_help_panel=MOTION
    ),
]
LocalMotion = Annotated[
    bool | None,
    typer.Option(
        "--local-motion/--no-local-motion",
        help="Measure motion that differs across the field.",
        show_default="on",
        rich_help_panel=MOTION,
    ),
]
Patches = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--patches",
        metavar="NX NY",
        help="Patches along x and y for local motion.",
        show_default="by their physical size",
        rich_help_panel=MOTION,
    ),
]
PatchOverlap = Annotated[
    float | None,
    typer.Option(
        "--patch-overlap",
        metavar="PERCENT",
        help="How much of a patch it shares with the next one.",
        show_default="33",
        rich_help_panel=MOTION,
    ),
]
AlignmentWeight = Annotated[
    Weight | None,
    typer.Option(
        "--weight",
        help="How frequencies count: by the movie's own signal and noise, by exp(-B k²/4) on amplitudes, or the same "
        "with all amplitudes set to one.",
        show_default="optimal",
        rich_help_panel=MOTION,
    ),
]
BFactors = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--b-factors",
        metavar="GLOBAL LOCAL",
        help="B in Å² for whole frames and for patches, with --weight b-factor or phase-only.",
        show_default="500 150",
        rich_help_panel=MOTION,
    ),
]
Group = Annotated[
    tuple[int, int] | None,
    typer.Option(
        "--group",
        metavar="GLOBAL LOCAL",
        help="Frames added before they are aligned, for whole frames (1 or more) and for patches (0: as the exposure "
        "allows).",
        show_default="1 0",
        rich_help_panel=MOTION,
    ),
]
ReferenceFrame = Annotated[
    str | None,
    typer.Option(
        "--reference-frame",
        metavar="first|middle|N",
        help="The frame that stays where it is: of those used, or a number from 0.",
        show_default="first",
        rich_help_panel=MOTION,
    ),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        "--iterations",
        help="Rounds of the refinement at most.",
        show_default="12",
        rich_help_panel=MOTION,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        metavar="PIXELS",
        help="The refinement ends when no frame moves by more.",
        show_default="0.005",
        rich_help_panel=MOTION,
    ),
]
MaxShift = Annotated[
    float | None,
    typer.Option(
        "--max-shift",
        metavar="Å",
        help="Largest motion between two frames that is searched for.",
        show_default="200",
        rich_help_panel=MOTION,
    ),
]
AlignmentPixelSize = Annotated[
    float | None,
    typer.Option(
        "--alignment-pixel-size",
        metavar="Å",
        help="Motion is measured on frames binned to about this.",
        show_default="5",
        rich_help_panel=MOTION,
    ),
]

# Sums
BinFactor = Annotated[
    float | None,
    typer.Option(
        "--bin",
        min=1,
        max=4,
        help="Fourier cropping, also by 1.5; 2 for super-resolution.",
        show_default="1",
        rich_help_panel=SUMS,
    ),
]
Magnification = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        "--magnification",
        metavar="MAJOR MINOR ANGLE",
        help="Anisotropic magnification to correct: factors that stretch the picture along its major and minor axis, "
        "degrees of the major axis from x to y.",
        rich_help_panel=SUMS,
    ),
]
DoseWeighting = Annotated[
    bool | None,
    typer.Option(
        "--dose-weighting/--no-dose-weighting",
        help="Weight frames by remaining signal.",
        show_default="on",
        rich_help_panel=SUMS,
    ),
]
InFrameMotion = Annotated[
    bool | None,
    typer.Option(
        "--in-frame-motion",
        help="Weight frames by what motion within them has blurred, too.",
        rich_help_panel=SUMS,
    ),
]
SumRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--sum-range",
        metavar="FROM TO",
        help="e/Å²: the weighted sum of the frames within that exposure too (_DWS).",
        rich_help_panel=SUMS,
    ),
]
EvenOdd = Annotated[
    bool | None,
    typer.Option(
        "--even-odd/--no-even-odd",
        help="Half sums for denoising, not weighted.",
        show_default="on",
        rich_help_panel=SUMS,
    ),
]
EvenOddWeighted = Annotated[
    bool | None,
    typer.Option(
        "--even-odd-weighted", help="Halves of the weighted sum too (_EVN_DW, _ODD_DW).", rich_help_panel=SUMS
    ),
]
AlignedStack = Annotated[
    bool | None,
    typer.Option(
        "--aligned-stack", help="The corrected frames too (_Stk.mrcs), not weighted.", rich_help_panel=SUMS
    ),
]
AlignedStackGroup = Annotated[
    int | None,
    typer.Option(
        "--aligned-stack-group",
        metavar="N",
        help="Frames added into one picture of that stack.",
        show_default="1",
        rich_help_panel=SUMS,
    ),
]
PowerSpectrumGroups = Annotated[
    bool | None,
    typer.Option(
        "--power-spectrum-groups",
        help="_PS as RELION makes it: the sum of the spectra of every 4 e/Å² (slower).",
        rich_help_panel=SUMS,
    ),
]

# Output
OutputFolder = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder for everything; made when missing.", rich_help_panel=OUTPUT),
]
ArchiveWanted = Annotated[
    bool | None,
    typer.Option(
        "--archive/--no-archive",
        help="Write the lossless archive (.mrcz; of EER movies a copy).",
        show_default="on",
        rich_help_panel=OUTPUT,
    ),
]
ArchiveFolder = Annotated[
    Path | None,
    typer.Option(
        "--archive-directory",
        help="Folder for archives.",
        show_default="that of the output",
        rich_help_panel=OUTPUT,
    ),
]
Float16 = Annotated[
    bool | None,
    typer.Option("--float16", help="Sums as 16-bit floats (MRC mode 12).", rich_help_panel=OUTPUT),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, a GPU by its number (cuda:0) or UUID, or auto: a GPU where one can be used.",
        show_default="cpu",
        rich_help_panel=OUTPUT,
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="0 is all cores.", rich_help_panel=OUTPUT)]
