"""What others read: a line of `processed.jsonl`, `<stem>.json` and `session.json`, as typed models.

The writers make plain values; tests hold them to these models, and the JSON Schema in `docs/schema/` is made of them.
A model takes what it does not know, because new keys may appear at any time; `SCHEMA_VERSION` is raised when a key
changes its meaning or goes away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from komad.model import Acquisition, MovieHeader
from komad.output.micrograph import SCHEMA_VERSION
from komad.output.session import SessionState

YX = tuple[float, float]


class Record(BaseModel):
    """An object of JSON. Its values do not change; keys that are not known are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class MotionLengths(Record):
    """How far the specimen went."""

    total: NonNegativeFloat
    """Path length of the whole frame."""
    early: NonNegativeFloat
    """Of it, the part in the first 4 e/Å²; 0 where the dose is unknown."""
    late: NonNegativeFloat
    """The rest."""
    local_rms: NonNegativeFloat
    """Local displacement beside that, RMS over field and frames."""
    local_corner: NonNegativeFloat
    """The largest local displacement at a corner."""


class DetectorNumbers(Record):
    """What the detector added, and what was taken off; null is what could not be measured."""

    correlation_raw: float | None
    """Mean Pearson correlation between frames, noise that does not move with the specimen: after the gain."""
    correlation_outliers: float | None
    """After outliers were replaced."""
    correlation_koma: float | None
    """After KOMA."""
    n_hot: NonNegativeInt
    """Pixels replaced in all frames, because they count too much."""
    n_dead: NonNegativeInt
    """Because they count too little."""
    n_defects: NonNegativeInt
    """Because the defect file names them, or the gain has no use for them."""
    n_xrays: NonNegativeInt
    """Hits of x-rays in single frames."""
    pattern_spread: float | None
    """What the gain reference left: its standard deviation as a part of the mean."""
    pattern_correlation: float | None
    """How alike that is in this movie and its neighbours."""
    koma_mode: Literal["trailing", "centred", "off"]
    """Which neighbours were averaged."""
    n_stacks: NonNegativeInt
    """Stack sums that were averaged."""
    n_wanted: NonNegativeInt
    """Those of a full window."""
    n_left_out: NonNegativeInt
    """Neighbours that could not be used."""


class Summary(Record):
    """What `processed.jsonl` and `<stem>.json` both say of a movie."""

    schema_version: PositiveInt
    """Of these keys."""
    komad_version: str
    """Which komad made it."""
    stem: str
    """Name of all of the movie's files, unique in the output folder."""
    movie: Path
    """The camera's file."""
    written_at: AwareDatetime
    """When the files were written, UTC; another time each time the movie is made."""
    files: dict[str, str]
    """Kind of file -> name in the output folder: micrograph, micrograph_no_dw, even, odd, even_weighted, odd_weighted,
    dose_range, aligned_stack, power_spectrum, thumbnail, details, motion; those that there are."""
    archive: Path | None
    """The archive; null where none is made."""
    dose_weighted: bool
    """Whether `micrograph` is; if so, `micrograph_no_dw` is the sum that is not."""
    n_frames: PositiveInt
    """Frames of the movie, as rendered where it is an EER movie."""
    movie_pixel_size_angstrom: float
    """Å per pixel of the movie."""
    pixel_size_angstrom: float
    """Å per pixel of the micrograph."""
    voltage_kv: float
    """kV."""
    cs_mm: float
    """Spherical aberration, mm."""
    amplitude_contrast: float
    """Fraction."""
    dose_per_frame: float | None
    """e/Å²; the mean where frames differ; null when unknown."""
    exposure_before: float | None = None
    """e/Å² on the specimen before the first frame; null while the place in the tilt series is unknown."""
    optics_group: str
    """Name of the optics group as it was configured or found."""
    motion_px: MotionLengths
    """In pixels of the movie."""
    motion_angstrom: MotionLengths
    """In Å."""
    motion_kind: Literal["none", "global", "local"]
    """What the movie supported."""
    shift_error_px: float | None
    """Expected RMS error per axis of the whole frame's shifts, pixels of the movie."""
    expected_error_angstrom: float | None
    """Expected RMS error per axis that is left, of whole frames and local motion together."""
    n_outliers: NonNegativeInt
    """Pixels that were replaced in all frames."""
    detector: DetectorNumbers
    """The health of the detector."""
    mean_e_per_px_frame: float | None
    """Electrons per pixel and frame."""
    timings_s: dict[str, float]
    """Stage -> seconds."""
    warnings: list[str]
    """What a person should know."""
    output_bytes: NonNegativeInt
    """Of all files in `files` but the JSON."""


class ProcessedMovie(Summary):
    """A line of `processed.jsonl`: one for each time that a movie was made."""

    movie_id: NonNegativeInt
    """Number in komad's database; 0 of `komad process`."""
    sequence: PositiveInt
    """Grows from line to line."""


class MovieFile(Record):
    """The camera's file as it was found."""

    path: Path
    size_bytes: NonNegativeInt
    mtime_ns: int
    fingerprint_sha256: str
    """Of its size, its first and its last mebibyte."""
    found_at: AwareDatetime


class Reference(Record):
    """A gain, dark or defect file that was bound to the movie."""

    path: Path
    sha256: str


class BoundReferences(Record):
    """The references of a movie; null where there is none."""

    gain: Reference | None
    gain_rot: int
    """np.rot90(gain, -gain_rot) in MRC row order, before the flip."""
    gain_flip: int
    """0 none, 1 upside down, 2 left to right, after the rotation."""
    gain_is_response: bool = False
    """The file holds what the detector counts in even light, and the factor is mean / response; else the factor."""
    gain_rows_as_eer: bool = False
    """Its first row is that of the frames; the first row of another TIFF is the last."""
    dark: Reference | None
    defects: Reference | None


class LocalField(Record):
    """The spline of the local correction; `komad.model.motion.SplineField` evaluates it."""

    shape: tuple[int, int]
    """Rows and columns of the movie."""
    knots: list[float]
    moments: list[float]
    """e/Å² at the middle of each frame, or its index."""
    coefficients_px: list[list[list[YX]]]
    """(knot, y, x, 2), pixels of the movie."""


class RelionModel(Record):
    """How far RELION's polynomial is from the measured field."""

    misfit_rms_px: float
    misfit_largest_px: float


class Motion(Record):
    """Everything that was measured of the motion; vectors are [y, x], null stands for a frame that was left out."""

    kind: Literal["none", "global", "local"]
    reason: str
    """Why it is no more than that."""
    supported: bool
    """Whether motion stands out from the noise."""
    shifts_yx_px: list[YX | None]
    """For each frame the correction of the whole frame: a positive one moves the picture to a larger index."""
    shifts_yx_angstrom: list[YX | None]
    displacement_px: list[list[list[list[float]]] | None]
    """(frame, 2, 17, 17): what the specimen did, whole and local together, at places from outer edge to outer edge."""
    shift_error_px: float | None
    """Expected RMS error per axis of the whole frame."""
    local_error_px: float | None
    """Of the local field."""
    expected_error_angstrom: float | None
    """Of both together."""
    fixed_pattern: float | None
    """Power of what stays with the detector over the noise power."""
    n_iterations: NonNegativeInt
    patch_centres_yx_px: list[YX] | None
    """Where local motion was looked at."""
    local: LocalField | None
    relion_model: RelionModel | None
    """Null where `<stem>.star` has no local model."""


class Window(Record):
    """The neighbours whose stack sums KOMA averaged."""

    members: list[int]
    """Numbers of movies."""
    left_out: dict[str, str]
    """Number of a movie -> why."""
    note: str
    """Why there are fewer than wanted."""


class Detector(DetectorNumbers):
    """All that is known of the detector in a movie."""

    scale: dict[str, float | None]
    """Part of the pattern (pixels, rows, columns) -> how much of it this movie shows, 0 to 1."""
    window: Window
    outliers_yx: list[tuple[int, int]]
    """The first 10,000 pixels that were replaced in all frames, from 0."""
    xrays_frame_yx: list[tuple[int, int, int]]
    """[frame, y, x] of the first 10,000 hits of x-rays, from 0."""


class MovieDetails(Summary):
    """`<stem>.json`: everything that is known of a movie."""

    movie_file: MovieFile
    header: MovieHeader
    """What the file says of itself; of the frames as rendered where it is an EER movie."""
    acquisition: Acquisition
    """Optics and dose, each with its source."""
    references: BoundReferences
    largest_count: float | None = None
    """The largest value of a pixel in a frame, as the camera wrote it; null where it is not known."""
    processing: dict[str, Any]
    """The `[processing]` settings of that moment, as `config/komad.toml` explains them."""
    motion: Motion
    detector: Detector
    file_sizes_bytes: dict[str, NonNegativeInt]
    """Name of a file -> its size."""


class Session(Record):
    """`session.json`."""

    schema_version: PositiveInt
    """Of these keys."""
    komad_version: str
    """Which komad wrote it."""
    state: SessionState = SessionState.RUNNING
    """running; stopped: komad has ended and goes on with movies that are left; complete: nothing is left to do."""
    n_micrographs: NonNegativeInt
    """Rows of `corrected_micrographs.star`."""
    n_processed: NonNegativeInt
    """Lines of `processed.jsonl`: a movie that was made again has several."""
    first_written_at: AwareDatetime | None
    """Of the first line; null before it."""
    last_written_at: AwareDatetime | None
    """Of the last line."""
    settings: dict[str, Any]
    """What of the configuration bears on the results."""


DOCUMENTS: dict[str, tuple[type[Record], str]] = {
    "processed": (ProcessedMovie, "a line of processed.jsonl"),
    "movie": (MovieDetails, "<stem>.json"),
    "session": (Session, "session.json"),
}
"""Name of a schema -> its model, and what it is the schema of."""


def json_schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema (draft 2020-12) of one of DOCUMENTS, for this SCHEMA_VERSION."""
    schema = DOCUMENTS[name][0].model_json_schema()
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
