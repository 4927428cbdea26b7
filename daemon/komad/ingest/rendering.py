"""How the raw frames of an EER movie become frames, chosen once, when the movie is found. Pure.

What people and sidecars tell of an EER movie is about the file as it was written: its raw frames and the camera's own
pixels. What the rest of komad is told is about the frames as they are rendered. Here one is turned into the other.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import numpy as np

from komad.config import Processing
from komad.errors import ParameterError
from komad.model import Acquisition, EerRendering, MovieHeader

N_FRAMES = 40
"""About so many frames are made where the dose is unknown."""
EARLY_DOSE = 4.0
"""e/Å²: until then frames are split."""


def choose_rendering(header: MovieHeader, acquisition: Acquisition, processing: Processing) -> EerRendering:
    """Choose how many raw frames make a frame.

    Parameters
    ----------
    header, acquisition
        As the file was written: frames are raw frames, pixels the camera's.
    processing
        `eer_grouping`; else `eer_dose_per_frame` where the dose is known, and `eer_early_split` at the start; else
        there are about `N_FRAMES` frames.

    Returns
    -------
    EerRendering
        Of frames that are all of as many raw frames, the first of them split; those left at the end are a frame of
        their own, or belong to the last one where they are less than half of that.

    Raises
    ------
    ParameterError
        `eer_grouping` is more than the movie has.
    """
    n_raw, raw_dose = header.n_frames, acquisition.dose_per_frame
    grouping, n_split = processing.eer_grouping, 0
    if grouping is None:
        wanted = processing.eer_dose_per_frame / raw_dose if raw_dose else n_raw / N_FRAMES
        grouping = max(1, round(min(wanted, n_raw)))
        n_split = math.ceil(EARLY_DOSE / (raw_dose * grouping)) if raw_dose else 0
    if grouping > n_raw:
        raise ParameterError(
            f"processing.eer_grouping (--eer-grouping) makes a frame of {grouping} raw frames, and the movie has "
            f"{n_raw}: give less, or leave it out, so that processing.eer_dose_per_frame counts"
        )
    ends = list(range(grouping, n_raw + 1, grouping))
    left = n_raw - ends[-1]
    if 2 * left >= grouping:
        ends.append(n_raw)
    else:
        ends[-1] = n_raw
    starts, parts = [0, *ends[:-1]], min(processing.eer_early_split, grouping)
    early = [
        start + round((end - start) * part / parts)
        for start, end in zip(starts[:n_split], ends, strict=False)
        for part in range(1, parts + 1)
    ]
    return EerRendering(ends=(*early, *ends[n_split:]), upsampling=processing.eer_upsampling)


def rendered(acquisition: Acquisition, rendering: EerRendering) -> Acquisition:
    """Say of the rendered frames and their pixels what is said of raw frames and the camera's pixels."""
    counts = rendering.raw_frames_per_frame
    doses, raw_dose = acquisition.frame_doses, acquisition.dose_per_frame
    if doses is not None:
        starts = (0, *rendering.ends[:-1])
        doses = tuple(sum(doses[start:end]) for start, end in zip(starts, rendering.ends, strict=True))
    elif raw_dose is not None and len(set(counts)) > 1:
        doses = tuple(raw_dose * count for count in counts)
    per_frame = rendering.n_raw_frames / len(counts)
    pixel_size, time_s = acquisition.pixel_size_angstrom, acquisition.frame_time_s
    return replace(
        acquisition,
        pixel_size_angstrom=pixel_size and pixel_size / rendering.upsampling,
        dose_per_frame=fmean(doses) if doses is not None else raw_dose and raw_dose * per_frame,
        frame_doses=doses,
        frame_time_s=time_s and time_s * per_frame,
    )


def as_written(acquisition: Acquisition, rendering: EerRendering) -> Acquisition:
    """Turn back what `rendered` made, so that rendering it again in the same way gives the same, but for rounding.

    Doses that differed within a frame are alike in it now.
    """
    counts = rendering.raw_frames_per_frame
    doses, dose = acquisition.frame_doses, acquisition.dose_per_frame
    if doses is not None:
        differ = "frame_doses" in acquisition.sources
        each = zip(doses, counts, strict=True)
        doses = tuple(dose / count for dose, count in each for _ in range(count)) if differ else None
    per_frame = rendering.n_raw_frames / len(counts)
    pixel_size, time_s = acquisition.pixel_size_angstrom, acquisition.frame_time_s
    return replace(
        acquisition,
        pixel_size_angstrom=pixel_size and pixel_size * rendering.upsampling,
        dose_per_frame=dose and dose / per_frame,
        frame_doses=doses,
        frame_time_s=time_s and time_s / per_frame,
    )


def is_same(one: Acquisition, other: Acquisition) -> bool:
    """Tell whether two differ in no more than rounding, which turning back and forth may bring."""
    converted = ("pixel_size_angstrom", "dose_per_frame", "frame_doses", "frame_time_s")
    if replace(one, **{name: getattr(other, name) for name in converted}) != other:
        return False
    pairs = [(getattr(one, name), getattr(other, name)) for name in converted]
    return all(
        a == b or (a and b and np.shape(a) == np.shape(b) and np.allclose(a, b, 1e-9, 0)) for a, b in pairs
    )


def header_as_written(header: MovieHeader) -> MovieHeader:
    """Say of the file what a header of an EER movie says of rendered frames; other headers stay as they are."""
    rendering = header.eer
    if rendering is None:
        return header
    finer, pixel_size = rendering.upsampling, header.pixel_size_angstrom
    return replace(
        header,
        n_frames=rendering.n_raw_frames,
        ny=header.ny // finer,
        nx=header.nx // finer,
        pixel_size_angstrom=pixel_size and pixel_size * finer,
        eer=EerRendering(ends=tuple(range(1, rendering.n_raw_frames + 1))),
    )
