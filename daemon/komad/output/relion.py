"""STAR tables as RELION 3.1 reads them: per movie, and the index of the session. Pure.

RELION's own conventions are kept: shifts in pixels of the movie as read, positive moves the content to a larger
index, the first frame that was used is zero, a frame that was not is -9999; accumulated motion in pixels (its label
says Å, its files hold pixels).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from komad.config import Processing
from komad.formats.star import Table
from komad.model import MotionModel, Movie, MovieHeader
from komad.output.polynomial import Polynomial

NOT_OBSERVED = -9999.0
"""What RELION writes for the shift of a frame that was left out."""
EER_UPSAMPLING = {1: 1, 2: 2, 4: 3}
"""Pixels of a frame along a pixel of the camera -> RELION's number of it (3 is for 16K)."""
NO_LOCAL_MODEL, POLYNOMIAL_MODEL = 0, 1
"""rlnMotionModelVersion: global shifts only, or the polynomial on top of them."""


def movie_tables(
    movie: Movie,
    motion: MotionModel,
    polynomial: Polynomial | None,
    outliers_yx: npt.NDArray[np.int32],  # (n_outliers, 2)
    *,
    processing: Processing,
    warnings: Sequence[str] = (),
) -> list[Table]:
    """The tables of `<stem>.star` in RELION's order, those that have something to say.

    These are general (with the warnings as comments), global_shift, local_motion_model, hot_pixels and local_shift.
    `motion` and `polynomial` are those of RELION's frames: `in_relions_frames`.
    """
    tables = [_general(movie, motion, polynomial, processing, warnings), _global_shift(motion)]
    if polynomial is not None:
        tables.append(_local_motion_model(polynomial))
    if len(outliers_yx):
        tables.append(_hot_pixels(outliers_yx))
    if polynomial is not None and motion.patch_centres_px is not None:
        tables.append(_local_shift(motion, motion.patch_centres_px))
    return tables


def shares_of_frames(header: MovieHeader) -> npt.NDArray[np.float64]:
    """(n, n_frames) which part of each frame that RELION makes of the movie lies in each of ours.

    They are the same, but of an EER movie RELION makes frames of equally many raw frames only, and drops what is left.
    """
    rendering = header.eer
    if rendering is None:
        return np.eye(header.n_frames)
    grouping = rendering.grouping
    ends = grouping * np.arange(1, rendering.n_raw_frames // grouping + 1)[:, None]
    ours, starts = np.array(rendering.ends), np.array((0, *rendering.ends[:-1]))
    overlap = np.minimum(ends, ours) - np.maximum(ends - grouping, starts)
    return np.maximum(overlap, 0) / grouping


def in_relions_frames(motion: MotionModel, header: MovieHeader) -> MotionModel:
    """The motion in the frames that RELION makes of the movie, from our first one that was used on.

    The picture lies as that one does. A frame of RELION in which it has a part is not quite there: it has the mean of
    its parts.
    """
    shares = shares_of_frames(header)
    from_first = motion.shifts_px - motion.shifts_px[np.argmax(motion.used)]
    used = shares * motion.used
    with np.errstate(invalid="ignore"):
        shifts = used @ np.nan_to_num(from_first) / used.sum(axis=1, keepdims=True)
    local = motion.local and replace(motion.local, moments=shares @ motion.local.moments)
    return replace(motion, shifts_px=shifts, local=local)


def _general(
    movie: Movie,
    motion: MotionModel,
    polynomial: Polynomial | None,
    processing: Processing,
    warnings: Sequence[str],
) -> Table:
    header, acquisition, references = movie.header, movie.acquisition, movie.references
    values: dict[str, object] = {
        "rlnImageSizeX": header.nx,
        "rlnImageSizeY": header.ny,
        "rlnImageSizeZ": len(motion.shifts_px),
        "rlnMicrographMovieName": str(movie.path),
    }
    if references.gain is not None and references.as_relion_reads(header.format):
        values["rlnMicrographGainName"] = str(references.gain.original_path)
    values["rlnMicrographBinning"] = processing.bin_factor
    if acquisition.pixel_size_angstrom is not None:
        values["rlnMicrographOriginalPixelSize"] = acquisition.pixel_size_angstrom
    if acquisition.dose_per_frame is not None:
        values["rlnMicrographDoseRate"] = acquisition.dose_per_frame * _usual_length(header)
    values["rlnMicrographPreExposure"] = acquisition.exposure_before(header.n_frames)
    if acquisition.voltage_kv is not None:
        values["rlnVoltage"] = acquisition.voltage_kv
    # RELION counts the frames of the local model from this one.
    values["rlnMicrographStartFrame"] = int(np.argmax(motion.used)) + 1
    if header.eer is not None:
        values["rlnEERUpsampling"] = EER_UPSAMPLING[header.eer.upsampling]
        values["rlnEERGrouping"] = header.eer.grouping
    values["rlnMotionModelVersion"] = NO_LOCAL_MODEL if polynomial is None else POLYNOMIAL_MODEL
    return Table("general", values, loop=False, comments=tuple(f"warning: {text}" for text in warnings))


def _usual_length(header: MovieHeader) -> float:
    """Length of the frames that are alike, in units of their mean: the first and the last of an EER movie differ."""
    rendering = header.eer
    return 1.0 if rendering is None else rendering.grouping * header.n_frames / rendering.n_raw_frames


def _global_shift(motion: MotionModel) -> Table:
    shifts = np.where(np.isfinite(motion.shifts_px), motion.shifts_px, NOT_OBSERVED)
    return Table(
        "global_shift",
        {
            "rlnMicrographFrameNumber": np.arange(1, len(shifts) + 1),
            "rlnMicrographShiftX": shifts[:, 1],
            "rlnMicrographShiftY": shifts[:, 0],
        },
        loop=True,
    )


def _local_motion_model(polynomial: Polynomial) -> Table:
    y, x = polynomial.coefficients_px
    misfit = (
        f"{polynomial.misfit_rms_px:.3f} px RMS, {polynomial.misfit_largest_px:.3f} px at the worst point"
    )
    return Table(
        "local_motion_model",
        {
            "rlnMotionModelCoeffsIdx": np.arange(len(x) + len(y)),
            "rlnMotionModelCoeff": np.concatenate([x, y]),
        },
        loop=True,
        comments=(f"distance of this model to the measured field: {misfit}",),
    )


def _local_shift(motion: MotionModel, centres_px: npt.NDArray[np.float64]) -> Table:
    """The measured field at the patches, not its polynomial; RELION shows it and computes nothing from it."""
    assert motion.local is not None
    frames = np.flatnonzero(motion.used)
    shifts = motion.local.at_places(*centres_px.T)[frames]
    shifts -= shifts[0]
    n_patches = len(centres_px)
    return Table(
        "local_shift",
        {
            "rlnMicrographFrameNumber": np.tile(frames + 1, n_patches),
            "rlnCoordinateX": np.repeat(centres_px[:, 1], len(frames)),
            "rlnCoordinateY": np.repeat(centres_px[:, 0], len(frames)),
            "rlnMicrographShiftX": shifts[:, :, 1].T.ravel().round(5),
            "rlnMicrographShiftY": shifts[:, :, 0].T.ravel().round(5),
        },
        loop=True,
    )


def _hot_pixels(outliers_yx: npt.NDArray[np.int32]) -> Table:
    columns = {"rlnCoordinateX": outliers_yx[:, 1], "rlnCoordinateY": outliers_yx[:, 0]}
    return Table("hot_pixels", columns, loop=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optics:
    """What makes two micrographs belong to different optics groups."""

    name: str
    movie_pixel_size_angstrom: float
    pixel_size_angstrom: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MicrographRow:
    """One line of `corrected_micrographs.star`; names are relative to its folder, '' where there is no such file."""

    name: str
    metadata: str
    name_no_dw: str
    """The unweighted sum: `name` itself where there is no dose-weighted one."""
    power_spectrum: str = ""
    even: str = ""
    odd: str = ""
    pre_exposure: float | None = None
    """e/Å² before the first frame; None when it is not known."""
    optics: Optics
    motion_px: tuple[float, float, float]
    """Total, early, late."""

    def columns(self, optics_group: int = 0) -> dict[str, object]:
        """Label -> value, in RELION's order, of those that it has, with the number of its optics group.

        The halves are RELION 5's for tomograms; 3.1 passes over what it does not know.
        """
        total, early, late = self.motion_px
        values = {
            "rlnMicrographNameNoDW": self.name_no_dw,
            "rlnCtfPowerSpectrum": self.power_spectrum,
            "rlnMicrographNameEven": self.even,
            "rlnMicrographNameOdd": self.odd,
            "rlnMicrographPreExposure": self.pre_exposure,
            "rlnMicrographName": self.name,
            "rlnMicrographMetadata": self.metadata,
            "rlnOpticsGroup": optics_group,
            "rlnAccumMotionTotal": total,
            "rlnAccumMotionEarly": early,
            "rlnAccumMotionLate": late,
        }
        return {label: value for label, value in values.items() if value not in {"", None}}


@dataclass(frozen=True, slots=True)
class SessionLayout:
    """What all rows of `corrected_micrographs.star` share: its columns and optics groups."""

    labels: tuple[str, ...]
    """Those that every row has."""
    groups: Mapping[Optics, tuple[int, str]]
    """Number and unique name."""

    @classmethod
    def of(cls, rows: Collection[MicrographRow]) -> Self:
        """Find the layout for these rows, one at least.

        Micrographs whose optics differ although their group has the same name get groups of their own (`name-2`, ...),
        because RELION takes one pixel size and one voltage for a whole group.
        """
        some = next(iter(rows)).columns()
        shared = set(some).intersection(*{tuple(row.columns()) for row in rows})
        return cls(tuple(filter(shared.__contains__, some)), _numbered_groups(rows))

    def fits(self, row: MicrographRow) -> bool:
        """Whether this is also the layout of the rows with this one behind them."""
        return row.optics in self.groups and row.columns().keys() >= {*self.labels}

    def optics(self) -> Table:
        """The table of optics groups."""
        return _optics_table(self.groups)

    def values(self, row: MicrographRow) -> list[object]:
        """What stands in the columns."""
        values = row.columns(self.groups[row.optics][0])
        return [values[label] for label in self.labels]


def _numbered_groups(rows: Collection[MicrographRow]) -> dict[Optics, tuple[int, str]]:
    """Number (from 1, in order of appearance) and unique name of each group."""
    groups: dict[Optics, tuple[int, str]] = {}
    taken: set[str] = set()
    for optics in dict.fromkeys(row.optics for row in rows):
        name, repeat = optics.name, 1
        while name in taken:
            repeat += 1
            name = f"{optics.name}-{repeat}"
        taken.add(name)
        groups[optics] = (len(groups) + 1, name)
    return groups


def _optics_table(groups: Mapping[Optics, tuple[int, str]]) -> Table:
    optics = list(groups)
    return Table(
        "optics",
        {
            "rlnOpticsGroupName": [name for _, name in groups.values()],
            "rlnOpticsGroup": [number for number, _ in groups.values()],
            "rlnMicrographOriginalPixelSize": [group.movie_pixel_size_angstrom for group in optics],
            "rlnVoltage": [group.voltage_kv for group in optics],
            "rlnSphericalAberration": [group.cs_mm for group in optics],
            "rlnAmplitudeContrast": [group.amplitude_contrast for group in optics],
            "rlnMicrographPixelSize": [group.pixel_size_angstrom for group in optics],
        },
        loop=True,
    )
