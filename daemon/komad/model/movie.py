"""The movie and what is known about it: header, acquisition, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt


class MovieFormat(StrEnum):
    """Container of a movie."""

    MRC = "mrc"
    MRCZ = "mrcz"
    TIFF = "tiff"
    EER = "eer"
    DM = "dm"
    FILES = "files"
    """One file for each frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EerRendering:
    """How the raw frames of an EER movie, lists of electrons, become frames of counts."""

    ends: tuple[int, ...]
    """(n_frames,) for each frame the raw frame that it ends before; it begins where the one before ends."""
    upsampling: Literal[1, 2, 4] = 1
    """1: a pixel of the camera is a pixel of the frame; 2 and 4: it is 2 x 2 or 4 x 4 of them."""

    @property
    def n_raw_frames(self) -> int:
        """Raw frames in all; none is left out."""
        return self.ends[-1]

    @property
    def grouping(self) -> int:
        """Raw frames of a usual frame: the first ones may have fewer, the last one more or fewer."""
        return max(self.raw_frames_per_frame[:-1] or self.ends)

    @property
    def raw_frames_per_frame(self) -> tuple[int, ...]:
        """(n_frames,) raw frames that each frame is the sum of."""
        return tuple(end - start for start, end in zip((0, *self.ends), self.ends, strict=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieHeader:
    """What the file itself says, read without decoding a frame."""

    format: MovieFormat
    n_frames: int
    ny: int
    nx: int
    dtype: str
    """NumPy name of the decoded frames in native byte order: uint8, int8, int16, uint16, float16, float32."""
    pixel_size_angstrom: float | None = None
    """None when the header does not say (zero, negative or absurd values count as not said)."""
    mrc_mode: int | None = None
    """Mode number for MRC and MRCZ (without the codec), None for others."""
    eer: EerRendering | None = None
    """None for all but EER movies. As the file lies, each raw frame is a frame at the camera's own pixels."""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What else the file tells, by names with a unit: total_dose_e_per_px, exposure_time_s, camera, ..."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Turn what `dataclasses.asdict` and JSON made of a header back into one."""
        eer = values.get("eer")
        rendering = EerRendering(ends=tuple(eer["ends"]), upsampling=eer["upsampling"]) if eer else None
        return cls(**{**values, "format": MovieFormat(values["format"]), "eer": rendering})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_frames, ny, nx)."""
        return (self.n_frames, self.ny, self.nx)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A finished file under a watched folder, not yet known to the database."""

    path: Path
    size_bytes: int
    mtime_ns: int
    folder: int
    """Index of the watched folder in the configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquisition:
    """Optics and dose of one movie. None means unknown: not in configuration, sidecar or header."""

    pixel_size_angstrom: float | None = None
    """Å per pixel of the movie as read."""
    voltage_kv: float | None = None
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    dose_per_frame: float | None = None
    """e/Å² per frame; the mean where `frame_doses` is given."""
    frame_doses: tuple[float, ...] | None = None
    """e/Å² of each frame, where they differ."""
    frame_time_s: float | None = None
    """Exposure time of a frame, s."""
    pre_exposure: float = 0.0
    """e/Å² before frame 0; of a tilt series, before its first tilt."""
    earlier_exposures: float | None = 0.0
    """Dose of the tilts of this series that were taken before, as a multiple of the movie's own; None while the place
    in the series is unknown."""
    optics_group: str = "opticsGroup1"
    sources: Mapping[str, str] = field(default_factory=dict)
    """Field name -> where its value came from: 'supplied', 'configuration', a sidecar's file name, 'header'. A field
    that is unknown, or has its default, is not listed."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Field name -> what a person should know of it: sources that disagree, a value that was not used and why."""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What a sidecar tells beyond this, by names with a unit: defocus, stage position, beam shift, ..."""

    def exposure(self, n_frames: int) -> npt.NDArray[np.float64] | None:
        """(n_frames,) e/Å² on the specimen at the END of each frame, skipped ones included; None when unknown."""
        if self.frame_doses is not None:
            doses = np.cumsum(np.asarray(self.frame_doses, np.float64))
        elif self.dose_per_frame:
            doses = self.dose_per_frame * np.arange(1, n_frames + 1, dtype=np.float64)
        else:
            return None
        return self.exposure_before(n_frames) + doses

    def exposure_before(self, n_frames: int) -> float:
        """e/Å² on the specimen before frame 0, earlier tilts included."""
        own = (
            sum(self.frame_doses) if self.frame_doses is not None else (self.dose_per_frame or 0.0) * n_frames
        )
        return self.pre_exposure + (self.earlier_exposures or 0.0) * own


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceFile:
    """A reference as it was when the movie was found: a private copy, named by its content."""

    path: Path
    """The copy under the state directory (or the file itself for a one-off job)."""
    original_path: Path
    """Where the configuration names it."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """Gain, dark and defects bound to a movie; None means the configuration names none."""

    gain: ReferenceFile | None = None
    gain_rot: int = 0
    """0-3: the gain is np.rot90(gain, -gain_rot), in MRC row order, before the flip."""
    gain_flip: int = 0
    """0 none, 1 `[::-1, :]`, 2 `[:, ::-1]`, after the rotation."""
    gain_is_response: bool = False
    """The file holds what the detector counts in even light, and the factor is mean / response; else the factor."""
    gain_rows_as_eer: bool = False
    """Its first row is that of the frames: a `.gain` of an EER movie. The first row of another TIFF is the last."""
    dark: ReferenceFile | None = None
    defects: ReferenceFile | None = None

    def as_relion_reads(self, kind: MovieFormat) -> bool:
        """Whether RELION finds the same factor in the file of the gain, which it takes as it lies."""
        if self.gain is None or self.gain_rot or self.gain_flip:
            return False
        suffix = self.gain.original_path.suffix.lower()
        is_response = kind is MovieFormat.EER and suffix != ".gain"
        return suffix in {".mrc", ".tif", ".tiff", ".gain"} and is_response == self.gain_is_response


@dataclass(frozen=True, kw_only=True, slots=True)
class Movie:
    """One movie as the rest of the program sees it, with everything bound when it was found."""

    movie_id: int
    """Row in the database; 0 in a one-off job."""
    path: Path
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    """Hex SHA-256 over size, the first and the last mebibyte."""
    stem: str
    """Name of all outputs: unique in the session, without dots."""
    header: MovieHeader
    acquisition: Acquisition
    references: References
    processing: Mapping[str, object]
    """The `[processing]` settings of that moment, as plain values."""
    found_at: str
    """UTC, ISO 8601."""
    koma: Mapping[str, object] = field(default_factory=dict)
    """The `[koma]` settings of that moment, as plain values; what is not in it has its default."""
    series: str = ""
    """Movies of one series share the detector's pattern: `series_of`; '' shares it with none."""
