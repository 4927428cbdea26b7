"""Motion of one movie: the whole frame first, then what differs across the field, then the whole frame again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, beside, namespace, to_host
from komad.config import Processing
from komad.errors import MotionError, ParameterError
from komad.model import outliers_at
from komad.model.motion import MotionKind, MotionModel, SplineField, time_basis
from komad.motion import global_shifts, local_field
from komad.motion.field_of_view import keep_lit
from komad.motion.global_shifts import HIGHEST_BAND, Alignment
from komad.motion.local_field import LocalFit
from komad.motion.patches import MIN_KNOTS, Patches, group_frames, lay_patches
from komad.motion.spectra import (
    LOWEST_RESOLUTION_ANGSTROM,
    Rings,
    Spectra,
    Window,
    make_rings,
    transform,
)
from komad.motion.weights import Weighting
from komad.optics.exposure import signal_left
from komad.optics.frequency import fast_even_length_below

FloatArray = npt.NDArray[np.float64]

TAPER_FRACTION = 0.05
"""Part of each side of a whole frame over which it fades to its mean, so that its edges do not correlate."""
WHOLE_PERIODS, PATCH_PERIODS = 8, 4
"""Structure with fewer periods across a window is left out: what enters and leaves at the edges biases it."""
SMALLEST_FRAME = 32
"""Small pixels along each side: with fewer, hardly a wave is left between the coarsest and the finest."""
WHOLE_RINGS, PATCH_RINGS = 128, 48
LOCAL_ROUNDS = 5
CORRECTION_ROUNDS = 3
"""Rounds of each stage when it starts from a result that is nearly right."""
SMALL_SHIFT = 1.0
"""Small pixels. Where local motion stays below, a patch moves as one and the sum of whole frames is sharp: the first
fits are as good as second ones of frames that are freed from local motion."""
FIRST_BAND = 0.36
"""Cycles per small pixel that whole frames are aligned with first: finer details are used where they say something."""
LOCAL_TOLERANCE = 0.01
"""Small pixels. A field is not fitted more finely than this, whatever `tolerance_px` says: it is known less well."""
SPREAD = (1e-9, 1e9)
"""Within a frame, from the least to the largest value: beyond, the powers of spectra do not fit into 32-bit floats."""
LEAST_SIGNAL_LEFT = 1e-6
"""Of the amplitude: so little says nothing, and its powers can still be divided by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Movie:
    """What is known of the frames that are used."""

    frames: Array
    """(n, y, x) float32 small frames."""
    moments: FloatArray
    """(n,) exposure in the middle of each frame, e/Å²; its index where the dose is unknown."""
    exposure: FloatArray | None
    """(n,) e/Å² at the end of each frame; None where unknown, or where damage is not to be counted with."""
    voltage_kv: float | None
    small_pixel: float
    """Å."""
    binning: int
    processing: Processing

    def damage(self, groups: list[npt.NDArray[np.intp]], frequency: FloatArray) -> FloatArray:
        """(n_groups, n) amplitude left in the sum of each group over the root of the number of its frames."""
        q = np.ones((len(self.frames), len(frequency)))
        if self.exposure is not None and self.voltage_kv is not None:
            left = signal_left(frequency / self.small_pixel, self.exposure, voltage_kv=self.voltage_kv)
            q = np.maximum(np.asarray(left, np.float64), LEAST_SIGNAL_LEFT)
        return np.stack([q[group].sum(axis=0) / np.sqrt(len(group)) for group in groups])

    def weighting(self, stage: int) -> Weighting:
        """Of whole frames (0) or patches (1)."""
        return Weighting(
            kind=self.processing.alignment_weight,
            b_factor_angstrom2=self.processing.b_factors_angstrom2[stage],
            small_pixel=self.small_pixel,
        )

    def rounds(self, usual: int) -> int:
        """So many rounds, if the settings allow as many."""
        return min(usual, self.processing.max_iterations)

    def rings(self, shape: tuple[int, int], n_rings: int, periods: int, band: float) -> Rings:
        """Rings of a window, without what is too coarse and what is finer than `band`."""
        low = max(self.small_pixel / LOWEST_RESOLUTION_ANGSTROM, periods / min(shape))
        return make_rings(shape, n_rings=n_rings, low=low, high=band, like=self.frames)


def estimate_motion(
    small: Array,  # (n_used, y, x) float32
    *,
    used: npt.NDArray[np.bool_],  # (n_frames,)
    shape: tuple[int, int],
    binning: int,
    pixel_size_angstrom: float,
    exposure: FloatArray | None,  # (n_frames,)
    voltage_kv: float | None,
    processing: Processing,
) -> MotionModel:
    """Measure how the specimen moved; frames that are not used have shifts that are NaN.

    Parameters
    ----------
    small : gain-corrected frames that are used, binned. All that is large is computed where they are.
    used : which frames of the movie they are.
    shape : (ny, nx) of the movie as read.
    binning : pixels of the movie per small pixel.
    pixel_size_angstrom : of the movie as read.
    exposure : e/Å² at the end of each frame of the movie; None when unknown.
    voltage_kv : for the radiation damage; None when unknown.

    Raises
    ------
    MotionError
        The frames are too small, or hold no numbers to align (NaN, all pixels equal, far too large or too small).
    ParameterError
        The frame of reference is not one of the frames that are used.
    """
    reference = _reference_frame(used, processing.reference_frame)
    if min(small.shape[1:]) < SMALLEST_FRAME:
        raise MotionError(
            f"the frames are {shape[1]} x {shape[0]} pixels, too small for motion to be measured; "
            f"they need {SMALLEST_FRAME * binning} along each side"
        )
    spread = _spread(small)
    if spread == 0:
        raise MotionError(
            "the frames hold no picture (all pixels equal, or not numbers): was the beam on, and is the gain reference "
            "one of this camera?"
        )
    if not SPREAD[0] <= spread <= SPREAD[1]:
        raise MotionError(
            f"the values within a frame differ by {spread:.1g}, which is no picture of electrons; "
            "check the gain reference"
        )
    moments = _moments(exposure, len(used))
    movie = _Movie(
        frames=keep_lit(small),
        moments=moments[used],
        exposure=exposure[used] if exposure is not None and processing.dose_weighting else None,
        voltage_kv=voltage_kv,
        small_pixel=pixel_size_angstrom * binning,
        binning=binning,
        processing=processing,
    )
    whole = _align_whole(movie)
    patches, why = _patches(movie)
    local: LocalFit | None = None
    if patches is not None:
        local = _fit_local(movie, patches, whole)
        if local.max_order:
            more = time_basis(movie.moments, patches.knots) @ local.whole
            whole = replace(whole, shifts=whole.shifts + more - more.mean(axis=0))
        if local.max_order and _largest_shift(movie, patches, local) > SMALL_SHIFT:
            whole = _align_whole(movie, patches, local, whole)
            local = _fit_local(movie, patches, whole, before=local)
        why = _explain(local)
    return _model(
        movie, patches, whole, local, why, used=used, shape=shape, moments=moments, reference=reference
    )


def _spread(frames: Array) -> float:
    """From the least to the largest value, in the frame where they differ most; 0 where a pixel is no number."""
    ends = to_host(np.stack([frames.min(axis=(1, 2)), frames.max(axis=(1, 2))]))
    return float((ends[1] - ends[0]).max()) if np.isfinite(ends).all() else 0.0


def _reference_frame(used: npt.NDArray[np.bool_], wanted: int | str) -> int:
    """Index of the frame that stays where it is."""
    indices = np.flatnonzero(used)
    if wanted == "first":
        return int(indices[0])
    if wanted == "middle":
        return int(indices[len(indices) // 2])
    if wanted not in indices:
        raise ParameterError(
            f"frame {wanted} cannot be the frame of reference: the frames that are used are {indices[0]} to "
            f"{indices[-1]}, counted from 0; change processing.reference_frame"
        )
    return int(wanted)


def _moments(exposure: FloatArray | None, n_frames: int) -> FloatArray:
    """(n_frames,) exposure in the middle of each frame; where it is unknown, 1 e/Å² per frame stands in."""
    if exposure is None:
        return np.arange(n_frames, dtype=np.float64)
    # Frames of no dose at all still follow one another.
    dose = np.maximum(np.diff(exposure, prepend=2 * exposure[0] - exposure[min(1, n_frames - 1)]), 1e-3)
    return np.asarray(np.cumsum(dose) - dose / 2)


def _patches(movie: _Movie) -> tuple[Patches | None, str]:
    """Patches and groups of frames, or why there are none."""
    processing = movie.processing
    if not processing.local_motion:
        return None, "local motion is switched off"
    groups = group_frames(movie.moments, processing.group_frames[1])
    if len(groups) < MIN_KNOTS:
        return None, "the movie is too short for local motion"
    layout = lay_patches(
        (movie.frames.shape[1], movie.frames.shape[2]),
        small_pixel=movie.small_pixel,
        n_patches=processing.n_patches,
        overlap=processing.patch_overlap_percent / 100,
    )
    if layout is None:
        return None, "the field is too small for patches"
    knots = np.array([movie.moments[group].mean() for group in groups])
    return Patches(layout=layout, groups=groups, knots=knots), ""


def _align_whole(
    movie: _Movie,
    patches: Patches | None = None,
    local: LocalFit | None = None,
    before: Alignment | None = None,
) -> Alignment:
    """One shift per frame; of frames freed from local motion when there is a fit of it."""
    processing = movie.processing
    groups = group_frames(movie.moments, processing.group_frames[0])
    if len(groups) == 1:
        still = np.zeros((len(movie.frames), 2))
        return Alignment(
            shifts=still, error=float("nan"), rounds=0, supported=False, pattern=0.0, band=HIGHEST_BAND
        )
    if patches is None or local is None:
        frames = _sums(movie.frames, groups)
    else:
        frames = _moved(movie, _local_shifts(movie, patches, local.paths), groups)
    spectra, plain = _whole_spectra(movie, frames, groups, None if before is None else before.band)
    moments = np.array([movie.moments[group].mean() for group in groups])
    if before is None:
        max_shift = processing.max_shift_angstrom / movie.small_pixel
        start = global_shifts.search(spectra, small_pixel=movie.small_pixel, max_shift=max_shift)
    else:
        start = np.array([before.shifts[group].mean(axis=0) for group in groups])
    aligned = global_shifts.refine(
        spectra,
        plain,
        start,
        moments=moments,
        weighting=movie.weighting(0),
        trusted=before is not None and before.supported,
        max_rounds=movie.rounds(processing.max_iterations if before is None else CORRECTION_ROUNDS),
        tolerance=processing.tolerance_px / movie.binning,
    )
    return replace(aligned, shifts=time_basis(movie.moments, moments) @ aligned.shifts)


def _whole_spectra(
    movie: _Movie, frames: Array, groups: list[npt.NDArray[np.intp]], band: float | None
) -> tuple[Spectra, Array]:
    """Spectra of whole frames, and of their plain sum; without a `band`, up to what the first look needs."""
    ny, nx = (fast_even_length_below(length) for length in frames.shape[1:])
    if band is None:
        # The search takes frames that are no longer than its grid as they are, with all rows.
        band = HIGHEST_BAND if max(ny, nx) <= global_shifts.COARSE_LENGTH else FIRST_BAND
    ramps = _ramp(ny), _ramp(nx)
    along_y, along_x = (beside(frames, ramp) for ramp in ramps)
    taper = (along_y[:, None] * along_x[None, :]).astype(np.float32)
    rings = movie.rings((ny, nx), WHOLE_RINGS, WHOLE_PERIODS, band)
    top, left = (frames.shape[1] - ny) // 2, (frames.shape[2] - nx) // 2
    window: Window = (slice(top, top + ny), slice(left, left + nx))
    share = float(np.prod([np.square((ramp**2).mean()) / (ramp**4).mean() for ramp in ramps]))

    def spectra(pictures: Array, q: FloatArray) -> Spectra:
        phase_only = movie.processing.alignment_weight == "phase_only"
        return transform(pictures, [window], taper, rings, q, share=share, phase_only=phase_only)

    plain = spectra(frames.sum(axis=0)[None], np.ones((1, WHOLE_RINGS))).values[0, 0]
    return spectra(frames, movie.damage(groups, rings.frequency)), plain


def _ramp(length: int) -> FloatArray:
    """(length,) one in the middle, falling to zero as a raised cosine at both ends."""
    distance = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(distance / (TAPER_FRACTION * length), 0, 1)))


def _fit_local(
    movie: _Movie, patches: Patches, whole: Alignment, *, before: LocalFit | None = None
) -> LocalFit:
    """The local field, from patches of frames that were moved by all that is known already."""
    layout, knots = patches.layout, patches.knots
    n_terms = len(local_field.TERM_ORDERS)
    applied = np.zeros((n_terms, len(knots), 2)) if before is None else before.paths
    shifts = _local_shifts(movie, patches, applied) + whole.shifts[:, None, None, :]
    sums = _moved(movie, shifts, patches.groups)
    rings = movie.rings(layout.taper.shape, PATCH_RINGS, PATCH_PERIODS, whole.band)
    spectra = transform(
        sums,
        layout.windows,
        layout.taper,
        rings,
        movie.damage(patches.groups, rings.frequency),
        share=layout.share,
        phase_only=movie.processing.alignment_weight == "phase_only",
    )
    basis = local_field.field_basis(
        layout.centres[:, 0], layout.centres[:, 1], (sums.shape[1], sums.shape[2])
    )
    return local_field.fit_field(
        spectra,
        basis,
        knots,
        applied=applied,
        weighting=movie.weighting(1),
        before=before,
        max_rounds=movie.rounds(LOCAL_ROUNDS if before is None else CORRECTION_ROUNDS),
        tolerance=max(LOCAL_TOLERANCE, movie.processing.tolerance_px / movie.binning),
    )


def _local_shifts(movie: _Movie, patches: Patches, paths: FloatArray) -> FloatArray:
    """(n, nodes_y, nodes_x, 2) local shift of each frame at the nodes of the small frames."""
    shape = (movie.frames.shape[1], movie.frames.shape[2])
    y, x = np.meshgrid(*kernels.node_positions(shape), indexing="ij")
    basis = local_field.field_basis(y, x, shape)
    return np.einsum(
        "yxm,tk,mkd->tyxd", basis, time_basis(movie.moments, patches.knots), paths, optimize=True
    )


def _largest_shift(movie: _Movie, patches: Patches, local: LocalFit) -> float:
    return float(np.abs(_local_shifts(movie, patches, local.paths)).max())


def _moved(movie: _Movie, shifts: FloatArray, groups: list[npt.NDArray[np.intp]]) -> Array:
    """(n_groups, y, x) sums of shifted frames over the root of their number, so that all have the same noise."""
    xp, shape = namespace(movie.frames), (movie.frames.shape[1], movie.frames.shape[2])
    coefficients = np.zeros((len(movie.frames), len(groups)), np.float32)
    for index, group in enumerate(groups):
        coefficients[group, index] = 1 / np.sqrt(len(group))
    return kernels.correct(
        movie.frames,
        xp.ones(shape, np.float32),
        xp.zeros(shape, np.float32),
        kernels.plan_outliers(outliers_at([]), shape),
        shifts=shifts.astype(np.float32),
        coefficients=coefficients,
    )


def _sums(frames: Array, groups: list[npt.NDArray[np.intp]]) -> Array:
    """`_moved` by nothing."""
    if len(groups) == len(frames):
        return frames
    # Groups are of successive frames.
    return np.stack(
        [frames[group[0] : group[-1] + 1].sum(axis=0) / np.float32(np.sqrt(len(group))) for group in groups]
    )


def _explain(local: LocalFit) -> str:
    if not local.max_order:
        return "a local field does not make the held-out frames likelier"
    extent = "linear over the field" if local.max_order == 1 else "all orders"
    return f"the held-out frames are likelier by {local.gain:.1f} (log) with a local field ({extent})"


def _model(
    movie: _Movie,
    patches: Patches | None,
    whole: Alignment,
    local: LocalFit | None,
    why: str,
    *,
    used: npt.NDArray[np.bool_],
    shape: tuple[int, int],
    moments: FloatArray,
    reference: int,
) -> MotionModel:
    """The result in pixels of the movie, both parts zero in the frame of reference."""
    shifts = np.full((len(used), 2), np.nan)
    shifts[used] = (whole.shifts - whole.shifts[np.count_nonzero(used[:reference])]) * movie.binning
    field = None
    if patches is not None and local is not None and local.max_order:
        at_reference = time_basis(moments[[reference]], patches.knots)
        paths = local.paths - np.einsum("ok,mkd->mod", at_reference, local.paths)
        field = SplineField(
            shape=shape,
            knots=patches.knots,
            moments=moments,
            coefficients_px=local_field.spline_coefficients(paths) * movie.binning,
        )
    if not whole.supported and field is None:
        why = "no motion stands out from the noise" if len(movie.frames) > 1 else "one frame shows no motion"
    kind: MotionKind = "local" if field is not None else "global" if whole.supported else "none"
    return MotionModel(
        shifts_px=shifts,
        shift_error_px=whole.error * movie.binning,
        n_iterations=whole.rounds,
        kind=kind,
        reason=why,
        local=field,
        local_error_px=float("nan") if local is None or field is None else local.error * movie.binning,
        fixed_pattern=whole.pattern,
        patch_centres_px=None if patches is None else (patches.layout.centres + 0.5) * movie.binning - 0.5,
    )
