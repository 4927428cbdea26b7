"""STAR tables as RELION 3.1 reads them: per movie, and the index of the session. Pure.

RELION's own conventions are kept: shifts in pixels of the movie as read, positive moves the content to a larger
index, the first frame that was used is zero, a frame that was not is -9999; accumulated motion in pixels (its label
says Å, its files hold pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.config import Processing
from komad.formats.star import Table
from komad.model import MotionModel, Movie

NOT_OBSERVED = -9999.0
"""What RELION writes for the shift of a frame that was left out."""
NO_LOCAL_MODEL = 0
"""rlnMotionModelVersion when there are global shifts only."""


def movie_tables(
    movie: Movie,
    motion: MotionModel,
    outliers_yx: npt.NDArray[np.int32],  # (n_outliers, 2)
    *,
    processing: Processing,
) -> list[Table]:
    """The tables of `<stem>.star`: general, global_shift, and hot_pixels where there are any."""
    tables = [_general(movie, processing), _global_shift(motion)]
    return [*tables, _hot_pixels(outliers_yx)] if len(outliers_yx) else tables


def _general(movie: Movie, processing: Processing) -> Table:
    header, acquisition, references = movie.header, movie.acquisition, movie.references
    values: dict[str, object] = {
        "rlnImageSizeX": header.nx,
        "rlnImageSizeY": header.ny,
        "rlnImageSizeZ": header.n_frames,
        "rlnMicrographMovieName": str(movie.path),
    }
    # RELION takes the file named here as it lies, so a gain that must be turned first cannot be named.
    if references.gain is not None and not references.gain_rot and not references.gain_flip:
        values["rlnMicrographGainName"] = str(references.gain.original_path)
    values["rlnMicrographBinning"] = processing.bin_factor
    if acquisition.pixel_size_angstrom is not None:
        values["rlnMicrographOriginalPixelSize"] = acquisition.pixel_size_angstrom
    if acquisition.dose_per_frame is not None:
        values["rlnMicrographDoseRate"] = acquisition.dose_per_frame
    values["rlnMicrographPreExposure"] = acquisition.pre_exposure
    if acquisition.voltage_kv is not None:
        values["rlnVoltage"] = acquisition.voltage_kv
    values["rlnMicrographStartFrame"] = processing.skip_first + 1
    values["rlnMotionModelVersion"] = NO_LOCAL_MODEL
    return Table("general", values, loop=False)


def _global_shift(motion: MotionModel) -> Table:
    used = np.isfinite(motion.shifts_px).all(axis=1)
    from_first = motion.shifts_px - motion.shifts_px[np.argmax(used)]
    shifts = np.where(np.isfinite(from_first), from_first, NOT_OBSERVED)
    return Table(
        "global_shift",
        {
            "rlnMicrographFrameNumber": np.arange(1, len(shifts) + 1),
            "rlnMicrographShiftX": shifts[:, 1],
            "rlnMicrographShiftY": shifts[:, 0],
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
    """One line of `corrected_micrographs.star`; names are relative to its folder."""

    name: str
    metadata: str
    name_no_dw: str
    """The unweighted sum: `name` itself where there is no dose-weighted one."""
    power_spectrum: str
    """'' where none was written."""
    optics: Optics
    motion_px: tuple[float, float, float]
    """Total, early, late."""


def session_tables(rows: Sequence[MicrographRow]) -> list[Table]:
    """The tables of `corrected_micrographs.star`: optics and micrographs.

    Micrographs whose optics differ although their group has the same name get groups of their own (`name-2`, ...),
    because RELION takes one pixel size and one voltage for a whole group.
    """
    groups = _numbered_groups(rows)
    columns: dict[str, list[object]] = {"rlnMicrographNameNoDW": [row.name_no_dw for row in rows]}
    if all(row.power_spectrum for row in rows):
        columns["rlnCtfPowerSpectrum"] = [row.power_spectrum for row in rows]
    columns["rlnMicrographName"] = [row.name for row in rows]
    columns["rlnMicrographMetadata"] = [row.metadata for row in rows]
    columns["rlnOpticsGroup"] = [groups[row.optics][0] for row in rows]
    for index, label in enumerate(("rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate")):
        columns[label] = [row.motion_px[index] for row in rows]
    return [_optics_table(groups), Table("micrographs", columns, loop=True)]


def _numbered_groups(rows: Sequence[MicrographRow]) -> dict[Optics, tuple[int, str]]:
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


def _optics_table(groups: dict[Optics, tuple[int, str]]) -> Table:
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
