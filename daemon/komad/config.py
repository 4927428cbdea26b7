"""The configuration: one strict tree from a TOML file and the environment (KOMAD_OUTPUT__DIRECTORY=...)."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from komad.errors import ConfigError
from komad.model.frame_names import FrameNames

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
DEVICE = re.compile(r"cpu|cuda:\d+|(GPU|MIG)-[\w./-]+")


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class AcquisitionSettings(Section):
    """What the operator knows of optics and dose; what is left out is taken from sidecar, then header."""

    pixel_size_angstrom: Annotated[float, Field(gt=0.05, lt=50)] | None = None
    """Å per pixel of the movie as written (super-resolution pixel for super-resolution movies, the camera's own pixel
    for EER movies)."""
    voltage_kv: Annotated[float, Field(ge=60, le=400)] | None = None
    """kV. Dose weighting is defined from 100 to 300 kV."""
    cs_mm: NonNegative = 2.7
    """Spherical aberration, mm; passed through to RELION."""
    amplitude_contrast: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction; passed through to RELION."""
    dose_per_frame: Positive | None = None
    """e/Å² per frame; of EER movies, per raw frame."""
    frame_doses: tuple[NonNegative, ...] | None = None
    """e/Å² of each frame, where they differ; as many as the movie has frames (EER: raw frames). Used instead of
    dose_per_frame."""
    total_dose: Positive | None = None
    """e/Å² of the whole movie: what is known of EER movies. Used instead of dose_per_frame."""
    pre_exposure: NonNegative = 0.0
    """e/Å² on the specimen before the first frame."""
    frame_time_s: Positive | None = None
    """Exposure time of a frame, s: needed only where the gain's gamma depends on the dose rate."""
    optics_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "opticsGroup1"
    """Name in RELION's optics table; letters, digits and hyphens."""

    @field_validator("frame_doses")
    @classmethod
    def _some_dose(cls, doses: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if doses is not None and not any(doses):
            raise ValueError("no frame has a dose; leave it out when the doses are not known")
        return doses


class ReferenceSettings(Section):
    """Files that say what the detector does to a picture. A file named here that is missing stops the daemon."""

    gain: Path | None = None
    """Gain reference (.mrc, .tif, .gain, .dm4), the factor that multiplies the counts; see `gain_kind`."""
    gain_rot: Literal[0, 1, 2, 3] = 0
    """Quarter turns before the flip: np.rot90(gain, -gain_rot) in MRC row order, as -RotGain / --gain_rot."""
    gain_flip: Literal[0, 1, 2] = 0
    """After the rotation: 0 none, 1 upside down, 2 left to right, as -FlipGain / --gain_flip."""
    gain_kind: Literal["auto", "factor", "response"] = "auto"
    """What the gain is: the factor, or the detector's response, whose factor is mean / response. "auto", as RELION: the
    response for EER movies, but for a `.gain` file; else the factor."""
    dark: Path | None = None
    """Dark reference (.mrc or .tif), subtracted from each frame before the gain."""
    defects: Path | None = None
    """Defect map (.mrc or .tif, non-zero is bad) or text file of boxes `x y width height`."""


class WatchFolder(Section):
    """A folder into which a camera writes."""

    directory: Path
    """The folder; it need not exist yet (a network mount may come later)."""
    patterns: tuple[str, ...] = (
        "*.mrc",
        "*.mrcs",
        "*.mrc.bz2",
        "*.mrc.xz",
        "*.mrc.zst",
        "*.mrc.gz",
        "*.mrcz",
        "*.tif",
        "*.tiff",
        "*.eer",
        "*.dm4",
        "*.dm3",
    )
    """File names that are movies; of no meaning with `frame_files`."""
    ignore: tuple[str, ...] = (
        ".*",
        "*.tmp",
        "*.part",
        "*.partial",
        "*.filepart",
        "*~",
        "gain.*",
        "*_gain.*",
        "*-gain-ref.*",
        "CountRef_*",
        "SuperRef_*",
        "*Gain Ref*",
        "*Dark Ref*",
    )
    """File and folder names that never are: temporary names, gain references. Files named under `references` are
    left out without being listed."""
    frame_files: str | None = None
    """How files are named where each frame is one: "{movie}_frame{frame}.mrc". Then these alone are looked at."""
    frames_per_movie: Annotated[int, Field(ge=1)] | None = None
    """Frames of such a movie; when left out, it is complete when none was added for `frame_settle_s` and their numbers
    have no gap."""
    frame_settle_s: NonNegative = 30.0
    """Seconds without a new frame after which a movie has all of them."""
    recursive: bool = True
    """Look into sub-folders."""
    acquisition: AcquisitionSettings = AcquisitionSettings()
    """Optics and dose of movies in this folder."""
    references: ReferenceSettings = ReferenceSettings()
    """Gain, dark and defects for movies in this folder."""
    epu_session: Path | None = None
    """Folder of EPU's session (that with `Images-Disc1`): a movie's `.xml` is found there by name. Needed where movies
    are written to another disk."""
    optics_groups: Literal["one", "beam_shift"] = "one"
    """Movies of the folder are one optics group, acquisition.optics_group, or one for each beam shift, named after it
    (opticsGroup1-001, ...): for image shift acquisition, as AFIS in EPU and multi-shot in SerialEM."""
    beam_shift_tolerance: Literal["auto"] | Positive = "auto"
    """How far from its group's centre a movie may be, in the sidecar's unit: EPU's BeamShift has none, SerialEM's
    ImageShift is in µm. auto: found from the shifts."""
    tilt_series_mdoc: Path | None = None
    """SerialEM's `.mdoc` of a tilt series, or the folder of such files: movies wait until one lists them, and are
    weighted with the dose of the tilts before. Needed where these files do not lie beside the movies."""

    @field_validator("frame_files")
    @classmethod
    def _is_template(cls, template: str | None) -> str | None:
        if template is not None:
            FrameNames(template)
        return template

    @model_validator(mode="after")
    def _frames_are_files(self) -> Self:
        if self.frames_per_movie is not None and self.frame_files is None:
            raise ValueError(
                "frames_per_movie is for movies of one file for each frame: name them with frame_files"
            )
        if self.frame_files is not None and "/" in self.frame_files.strip("/") and not self.recursive:
            raise ValueError(
                "frame_files has a folder in it, which is a sub-folder: leave out recursive = false"
            )
        return self

    @model_validator(mode="after")
    def _groups_have_a_tolerance(self) -> Self:
        if self.beam_shift_tolerance != "auto" and self.optics_groups == "one":
            raise ValueError('beam_shift_tolerance is for optics groups: set optics_groups = "beam_shift"')
        return self


class Watching(Section):
    """How finished movies are found."""

    sweep_interval_s: Annotated[float, Field(ge=0.1, le=600)] = 3.0
    """Seconds between two looks at every folder, more where a look takes long. A growing file must be unchanged between
    two looks."""
    use_events: bool = True
    """Let file system events announce files early. They never arrive for files that another host writes: on network
    file systems none are asked for."""
    give_up_s: Annotated[float, Field(ge=1)] = 600.0
    """Seconds after which an unfinished file that does not change any more is reported as cut off."""


class Output(Section):
    """Where results go and which."""

    directory: Path = Path("komad-output")
    """Micrographs, STAR files, indices."""
    archive_directory: Path | None = None
    """Archives; the output directory when left out."""
    group: Annotated[str, Field(min_length=1)] | None = None
    """Group that result files, and folders made for them, are given to; komad's user must be in it."""
    file_mode: Annotated[str, Field(pattern=r"^0?6[0246]{2}$")] | None = None
    """Permissions of result files, octal ("0640"); as the umask gives when left out."""
    directory_mode: Annotated[str, Field(pattern=r"^[0-3]?7[0-7]{2}$")] | None = None
    """Permissions of folders made for results, octal; with "2770" what others write there has its group too."""
    float16: bool = False
    """Sums as 16-bit floats (MRC mode 12): half the size, unreadable for some older programs."""
    even_odd: bool = True
    """Write `_EVN` and `_ODD` half sums (for denoising)."""
    even_odd_weighted: bool = False
    """Write `_EVN_DW` and `_ODD_DW` too: the same halves of the dose-weighted sum."""
    aligned_stack: bool = False
    """Write `_Stk.mrcs`, the corrected frames themselves, not weighted. As large as the movie in 32-bit floats."""
    aligned_stack_group: Annotated[int, Field(ge=1)] = 1
    """Frames that are added into one picture of the aligned stack."""
    power_spectrum: bool = True
    """Write `_PS`, the movie's power spectrum for CTF estimation in RELION."""
    power_spectrum_groups: bool = False
    """Make `_PS` from sums of about 4 e/Å² each, as RELION does, and not from the sum of all frames: motion that was
    not corrected blurs it less. Takes twice as long as the sums. Without a dose it is from the sum of all."""
    thumbnail: bool = True
    """Write a PNG with the tracks of the motion."""
    min_free_gb: NonNegative = 5.0
    """GB. No new job starts below this; it goes on by itself when there is room again."""


class Processing(Section):
    """What happens to the pixels. Bound to a movie when it is found."""

    bin_factor: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Fourier cropping of the sums; need not be a whole number. 2 for super-resolution movies."""
    eer_dose_per_frame: Positive = 1.0
    """e/Å² that one frame of an EER movie is made of, as nearly as whole raw frames allow."""
    eer_early_split: Literal[1, 2, 4] = 2
    """Frames in place of each of those of an EER movie's first 4 e/Å², when the specimen moves most: motion within a
    frame is not corrected. Not with eer_grouping, nor while the dose is unknown."""
    eer_grouping: Annotated[int, Field(ge=1)] | None = None
    """Raw frames that one frame of an EER movie is made of, used instead of eer_dose_per_frame. What is left at the end
    is a frame of its own, or belongs to the last one where it is less than half of that."""
    eer_upsampling: Literal[1, 2, 4] = 1
    """Pixels of a frame along each side of a pixel of an EER camera: 2 for super-resolution, with bin_factor = 2 if the
    sums should have the camera's own pixels."""
    skip_first: Annotated[int, Field(ge=0)] = 0
    """Frames left out at the start; their dose still counts."""
    skip_last: Annotated[int, Field(ge=0)] = 0
    """Frames left out at the end."""
    dose_weighting: bool = True
    """Weight frames by remaining signal (Grant & Grigorieff 2015). Needs pixel size, voltage and dose per frame."""
    hot_sigma: Positive | None = None
    """Pixels of the stack sum above its mean by this many standard deviations are replaced; left out: where the tail
    of its histogram leaves what counting explains, found for each movie."""
    dead_sigma: Positive | None = None
    """The same below the mean."""
    xray_sigma: NonNegative = 8.0
    """A pixel of a single frame that is as unlikely, by its other frames, as this many standard deviations of a normal
    distribution is replaced in that frame; 0 replaces none."""
    outlier_fill: Literal["mean", "draw"] = "mean"
    """What stands in for an outlier. mean: its neighbours, weighted by the detector's point spread; draw: one good
    neighbour, another one in each frame, which keeps the statistics of the noise (as MotionCor2 does)."""
    gain_gamma: (
        Annotated[float, Field(gt=0, le=4)] | tuple[float, float, float, float] | Literal["off", "k2"]
    ) = "off"
    """The gain reference is raised to this power. k2: by the dose rate, as published for the K2 Summit; four numbers
    a1, b1, a2, a3: a1 r^b1 + a2 r + a3 at a dose rate of r e/px/s, as `komad gain gamma` fits them. A power that
    depends on the dose rate needs acquisition.frame_time_s."""
    sum_range: tuple[NonNegative, Positive] | None = None
    """e/Å² (from, to): write `_DWS`, the dose-weighted sum of the frames whose exposure lies within."""
    magnification: tuple[Positive, Positive, float] | None = None
    """Anisotropic magnification to correct: major scale, minor scale, angle of the major axis in degrees from x to y.
    The picture is stretched by the two scales along the two axes, in the one interpolation that corrects the motion."""
    in_frame_motion: bool = False
    """Weight frames by what motion within them has blurred, too: in the dose-weighted sums."""
    local_motion: bool = True
    """Measure motion that differs across the field; used where the movie supports it."""
    n_patches: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Patches along (x, y) for local motion; by their physical size when left out."""
    patch_overlap_percent: Annotated[float, Field(ge=0, le=50)] = 33.0
    """How much of a patch it shares with the next one."""
    alignment_weight: Literal["optimal", "b_factor", "phase_only"] = "optimal"
    """optimal: from the movie's own signal and noise; b_factor: exp(-B k²/4) on amplitudes; phase_only: the same on
    phases, all amplitudes being set to one."""
    b_factors_angstrom2: tuple[NonNegative, NonNegative] = (500.0, 150.0)
    """B for whole frames and for patches, used with b_factor and phase_only."""
    group_frames: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]] = (1, 0)
    """Frames that are added before they are aligned, for the whole field and for patches; 0 is as many as the
    exposure allows: single frames early, more when motion has slowed down."""
    reference_frame: Annotated[int, Field(ge=0)] | Literal["first", "middle"] = "first"
    """The frame that stays where it is: first or middle of those used, or a number from 0."""
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 12
    """Rounds of the refinement at most."""
    tolerance_px: Annotated[float, Field(gt=0, le=1)] = 0.005
    """The refinement ends when no frame moves by more than this; pixels of the movie as read."""
    alignment_pixel_size_angstrom: Annotated[float, Field(ge=0.5, le=16)] = 5.0
    """Motion is measured on frames binned to about this pixel size."""
    max_shift_angstrom: Positive = 200.0
    """Largest motion between any two frames that is searched for."""

    @field_validator("sum_range")
    @classmethod
    def _rising(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and limits[0] >= limits[1]:
            raise ValueError(
                f"from {limits[0]:g} to {limits[1]:g} e/Å² is no range: the lower exposure comes first"
            )
        return limits

    @field_validator("magnification")
    @classmethod
    def _scales_near_one(cls, values: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if values is not None and not all(0.9 <= scale <= 1.1 for scale in values[:2]):
            raise ValueError(
                f"{values[0]:g} and {values[1]:g} are not both within 0.9 to 1.1: these are the factors by which the "
                "picture is stretched along the major and the minor axis, as 1.003, 0.998, 34.0; not magnifications"
            )
        return values

    @model_validator(mode="after")
    def _sensible_together(self) -> Self:
        if self.sum_range and not self.dose_weighting:
            raise ValueError("sum_range is a dose-weighted sum: it needs dose_weighting")
        if self.in_frame_motion and not self.dose_weighting:
            raise ValueError("in_frame_motion is about the dose-weighted sum: it needs dose_weighting")
        if isinstance(self.reference_frame, int) and self.reference_frame < self.skip_first:
            raise ValueError(
                f"reference_frame {self.reference_frame} is left out by skip_first = {self.skip_first}"
            )
        return self


class Koma(Section):
    """The detector's own pattern, from neighbouring movies: the knock-out moving average (McLeod et al. 2017)."""

    mode: Literal["trailing", "centred", "off"] = "trailing"
    """trailing: from earlier movies, without waiting; centred: from as many later ones too, which are waited for; off:
    the pattern is measured for `komad status`, but not taken off."""
    radius: Annotated[int, Field(ge=1, le=50)] = 12
    """Movies on either side; twice as many stack sums are averaged, the movie's own never."""
    method: Literal["subtract", "divide"] = "subtract"
    """How the pattern is taken off. divide: as an error of the gain; the same where contrast is low."""
    max_wait_s: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """A movie is processed with what there is when it has waited this long for its neighbours."""


class GainCheck(Section):
    """Whether the gain reference lies the right way: tried in all eight ways on the first movies of a session."""

    action: Literal["warn", "hold", "off"] = "warn"
    """What happens when another way is clearly better. warn: log and status say so; hold: no movie of the series is
    corrected until a person has decided (correct gain_rot and gain_flip and restart, or `komad gain accept`); off: not
    tried. The reference is never turned by itself."""
    n_movies: Annotated[int, Field(ge=2, le=50)] = 6
    """Stack sums that are looked at, at the start and after every change of the reference or the camera mode."""


class Archive(Section):
    """The lossless copy of each movie."""

    enabled: bool = True
    """Write `<stem>.mrcz`; of EER movies `<stem>.eer`, a copy of the file."""
    codec: Literal["blosclz", "lz4", "lz4hc", "zlib", "zstd"] = "zstd"
    """Compressor inside blosc, always with bitshuffle."""
    level: Annotated[int, Field(ge=1, le=9)] = 1
    """Effort; more than 1 hardly makes counts smaller."""


class Cleanup(Section):
    """Removal of the camera's files. Side files and everything that is no movie stay."""

    delete_movies_after_h: Annotated[float, Field(ge=0, le=87600)] | None = None
    """Hours after its archive was made that a movie is removed, if its archive then is proven, by reading both again,
    to hold the same frames. Movies stay when left out."""


class Workers(Section):
    """Who does the work."""

    devices: Literal["auto"] | tuple[str, ...] = "auto"
    """One worker process per entry: cpu, a GPU by its number (1 or cuda:1, as nvidia-smi counts) or by its UUID. auto:
    every NVIDIA GPU that CuPy can use, and the CPU where there is none."""
    gpu_memory_fraction: Annotated[float, Field(ge=0.1, le=1)] = 0.9
    """The part of a GPU's memory that is used; workers on one GPU share it."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each worker; 0 is the number of cores divided among the workers. Those of a GPU compress archives."""
    read_ahead: bool = True
    """Read the next movie while one is computed: faster, one more movie in memory."""

    @field_validator("devices", mode="before")
    @classmethod
    def _names(cls, devices: object) -> object:
        """One entry for each worker, as text; a single one needs no list."""
        if devices == "auto":
            return devices
        entries = devices if isinstance(devices, (list, tuple)) else [devices]
        if not entries:
            raise ValueError("no device is named: leave the list out, or name one")
        return tuple(_device(entry) for entry in entries)


def _device(entry: object) -> str:
    name = f"cuda:{entry}" if isinstance(entry, int) and not isinstance(entry, bool) else entry
    if not isinstance(name, str) or not DEVICE.fullmatch(name):
        raise ValueError(
            f"{entry!r} is no device: cpu, the number of a GPU (1 or cuda:1, as nvidia-smi counts) or its UUID "
            "(GPU-... or MIG-..., as `nvidia-smi -L` lists them); auto stands alone"
        )
    return name


class Queue(Section):
    """Order, retries and leases."""

    order: Literal["oldest", "newest", "alternate"] = "oldest"
    """Which movie comes first when more wait than can be processed. alternate: the newest and the oldest by turns;
    newest: every eighth is the oldest, so that none waits for ever."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Tries per job before it is `failed`."""
    lease_timeout_s: Annotated[float, Field(ge=3)] = 15.0
    """A worker that shows no new beat for this long loses its jobs."""
    job_timeout_s: Annotated[float, Field(ge=10)] = 900.0
    """A worker stops beating when one job takes longer than this."""


class Log(Section):
    """What is said, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important line that is shown."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: readable on a terminal, JSON otherwise (systemd's journal)."""


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="KOMAD_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    state_directory: Path = Path("komad-state")
    """Database, lock, references by content, stack sums, compiled kernels. On a local disk."""
    watch: tuple[WatchFolder, ...] = ()
    """Folders to watch, each a [[watch]] table."""
    watching: Watching = Watching()
    output: Output = Output()
    processing: Processing = Processing()
    koma: Koma = Koma()
    gain_check: GainCheck = GainCheck()
    archive: Archive = Archive()
    cleanup: Cleanup = Cleanup()
    workers: Workers = Workers()
    queue: Queue = Queue()
    log: Log = Log()

    @model_validator(mode="after")
    def _removed_only_with_archive(self) -> Self:
        if self.cleanup.delete_movies_after_h is not None and not self.archive.enabled:
            raise ValueError(
                "cleanup.delete_movies_after_h needs archive.enabled: without archives movies are lost"
            )
        return self

    @model_validator(mode="after")
    def _weighted_halves_of_something(self) -> Self:
        if self.output.even_odd_weighted and not self.processing.dose_weighting:
            raise ValueError("output.even_odd_weighted needs processing.dose_weighting")
        return self

    @field_validator("watch")
    @classmethod
    def _distinct(cls, folders: tuple[WatchFolder, ...]) -> tuple[WatchFolder, ...]:
        names = [str(folder.directory) for folder in folders]
        if len(set(names)) < len(names):
            raise ValueError("the same directory is watched twice")
        return folders

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file: what a person sets for one run wins."""
        return env_settings, init_settings

    @property
    def archive_directory(self) -> Path:
        """Where archives go."""
        return self.output.archive_directory or self.output.directory


def load_settings(path: Path) -> Settings:
    """Read a TOML file (and the environment) into settings; relative paths in it count from its folder.

    Raises
    ------
    ConfigError
        The file is missing, is not TOML, has an unknown key or a value out of range; the message names each place.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; `komad config example` prints one"
        ) from error
    except (ValueError, RecursionError) as error:  # among them tomllib's own, and numbers that are too long
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(f"{path} has {error.error_count()} problem(s):\n{_explain(error)}") from error
    try:
        settings = _anchored(settings, path.resolve().parent)
        _refuse_own_results(path, settings)
    except (
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # no such user's home, a zero byte, a circle of links
        raise ConfigError(f"{path} has a path that cannot be used: {error}") from error
    return settings


NEED_A_RESTART = (
    "state_directory",
    "output.directory",
    "output.archive_directory",
    "watching.use_events",
    "workers.devices",
    "workers.gpu_memory_fraction",
    "workers.threads",
)
"""Settings that a running daemon does not change; nor which folders it watches, and whether sub-folders."""


def taken_over(running: Settings, read: Settings) -> tuple[Settings, list[str], list[str]]:
    """What a running daemon takes over of a configuration that was read again.

    Returns
    -------
    Settings
        To go on with: all that may change; the watched folders in the order that they have now.
    list of str
        Settings that have changed in it, as `section.name` or `watch FOLDER`.
    list of str
        Settings that differ and need a restart.
    """
    kept, waiting = dict(read), []
    for name in NEED_A_RESTART:
        section, _, key = name.rpartition(".")
        if not section:
            kept[key] = getattr(running, key)
            differs = getattr(running, key) != getattr(read, key)
        else:
            value = getattr(getattr(running, section), key)
            differs = value != getattr(getattr(read, section), key)
            kept[section] = kept[section].model_copy(update={key: value})
        if differs:
            waiting.append(name)
    found = {folder.directory: folder for folder in read.watch}
    folders = []
    for folder in running.watch:
        now = found.pop(folder.directory, None)
        if now is None or now.recursive != folder.recursive:
            waiting.append(f"watch {folder.directory}")
        folders.append(folder if now is None else now.model_copy(update={"recursive": folder.recursive}))
    waiting += [f"watch {directory}" for directory in found]
    settings = running.model_copy(update={**kept, "watch": tuple(folders)})
    return settings, _changed(running, settings), waiting


def _changed(before: Settings, after: Settings) -> list[str]:
    names = [
        f"{section}.{key}"
        for section, table in before
        if isinstance(table, Section)
        for key, value in table
        if getattr(getattr(after, section), key) != value
    ]
    folders = zip(before.watch, after.watch, strict=True)
    return names + [f"watch {old.directory}" for old, new in folders if new != old]


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        what = (
            "unknown key (misspelt, or in the wrong table?)"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        lines.append(f"  {place}: {what}" if place else f"  {what}")
    return "\n".join(lines) + "\n`komad config example` prints every key with its meaning."


def _anchored(settings: Settings, base: Path) -> Settings:
    """Resolve relative paths against the folder of the configuration file."""

    def at(path: Path | None) -> Path | None:
        # Without "..": the watcher tells files by their paths.
        return None if path is None else Path(os.path.normpath(base / path.expanduser()))

    watch = tuple(
        folder.model_copy(
            update={
                "directory": at(folder.directory),
                "tilt_series_mdoc": at(folder.tilt_series_mdoc),
                "epu_session": at(folder.epu_session),
                "references": folder.references.model_copy(
                    update={
                        name: at(getattr(folder.references, name)) for name in ("gain", "dark", "defects")
                    }
                ),
            }
        )
        for folder in settings.watch
    )
    output = settings.output.model_copy(
        update={
            "directory": at(settings.output.directory),
            "archive_directory": at(settings.output.archive_directory),
        }
    )
    return settings.model_copy(
        update={"state_directory": at(settings.state_directory), "watch": watch, "output": output}
    )


def _refuse_own_results(path: Path, settings: Settings) -> None:
    """Refuse results that would be found as movies, and processed again, and again."""
    for folder in settings.watch:
        ignored = re.compile("|".join(map(fnmatch.translate, folder.ignore)) or r"(?!)", re.IGNORECASE)
        for name, directory in (
            ("output.directory", settings.output.directory),
            ("output.archive_directory", settings.archive_directory),
            ("state_directory", settings.state_directory),
        ):
            below = _below(directory, folder.directory)
            if below is None:
                continue
            if not below or (folder.recursive and not any(map(ignored.match, below))):
                raise ConfigError(
                    f"{path}: {name} ({directory}) lies in the watched folder {folder.directory}, its files would be "
                    f"taken for movies: move it, or add the name of a folder on its way to `ignore`"
                )


def _below(directory: Path, folder: Path) -> tuple[str, ...] | None:
    """Names on the way from `folder` down to `directory`, as written or with links followed; None outside of it."""
    for inner, outer in ((directory, folder), (directory.resolve(), folder.resolve())):
        if inner.is_relative_to(outer):
            return inner.relative_to(outer).parts
    return None
