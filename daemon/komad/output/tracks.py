"""Which tracks the thumbnail shows: of the whole frame, and of its parts. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad.model import Acquisition, MotionModel, Movie

FloatArray = npt.NDArray[np.float64]

MAX_PLACES = 36
"""More tracks than this cannot be told apart in a picture of 512 px; patches are not shown one by one then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracks:
    """Ways of the specimen (displacements, vectors as (y, x)) through the frames that were used."""

    whole_angstrom: FloatArray
    """(n_used, 2)."""
    local_angstrom: FloatArray | None
    """(n_used, n_places, 2): the part that differs from the whole; None without a local field."""
    places: FloatArray
    """(n_places, 2): where, as fractions of the field from its first row and column."""
    progress: FloatArray
    """(n_used,) how much of the exposure has passed, 0 to 1."""
    first: str
    """Label for a progress of 0."""
    last: str
    """Label for a progress of 1."""


def motion_tracks(motion: MotionModel, movie: Movie, *, pixel_size_angstrom: float) -> Tracks:
    """Choose the tracks of a movie."""
    used, shape = motion.used, (movie.header.ny, movie.header.nx)
    places_px = _places_px(motion.patch_centres_px, shape)
    local = None
    if motion.local is not None:
        local = -motion.local.at_places(*places_px.T)[used] * pixel_size_angstrom
    progress, first, last = _progress(movie.acquisition, len(used))
    return Tracks(
        whole_angstrom=motion.displacement_px[used] * pixel_size_angstrom,
        local_angstrom=local,
        places=(places_px + 0.5) / np.array(shape),
        progress=progress[used],
        first=first,
        last=last,
    )


def _places_px(centres_px: FloatArray | None, shape: tuple[int, int]) -> FloatArray:
    """(n, 2): the patches where they are few and many enough, else the middles of about 30 equal cells."""
    if centres_px is not None and 9 <= len(centres_px) <= MAX_PLACES:
        return centres_px
    spacing = np.sqrt(shape[0] * shape[1] / 30.0)
    counts = [min(12, max(2, round(length / spacing))) for length in shape]
    y, x = (
        (np.arange(count) + 0.5) * length / count - 0.5 for count, length in zip(counts, shape, strict=True)
    )
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def _progress(acquisition: Acquisition, n_frames: int) -> tuple[FloatArray, str, str]:
    """(n_frames,) from 0 at the start of the movie to 1 at its end, and the labels of both ends."""
    exposure = acquisition.exposure(n_frames)
    if exposure is None or exposure[-1] <= acquisition.pre_exposure:
        return np.arange(1, n_frames + 1) / n_frames, "frame 1", f"{n_frames}"
    start, end = acquisition.pre_exposure, float(exposure[-1])
    return (exposure - start) / (end - start), f"{start:.3g}", f"{end:.3g} e/Å²"
