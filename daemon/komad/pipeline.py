"""The order of the stages for one movie. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, to_host, wait_for
from komad.config import Processing
from komad.detector import (
    calibrate,
    detector_warnings,
    find_outliers,
    frame_correlations,
    gamma_of,
    leave_out_unlit,
    stack_facts,
    without_pattern,
)
from komad.errors import MotionError, ParameterError
from komad.micrograph import (
    correct_frames,
    fourier_crop,
    group_sums,
    groups_for_spectrum,
    output_shape,
    power_spectrum,
    shifts_at_nodes_px,
    successive_groups,
    weights_of_sums,
)
from komad.model import (
    Acquisition,
    DetectorReport,
    KomaMethod,
    MicrographResult,
    MotionModel,
    OutlierPixels,
    Pattern,
    StackSum,
)
from komad.motion import estimate_motion
from komad.optics.exposure import voltage_factor

FloatArray = npt.NDArray[np.float32]

SMALLEST_LENGTH = 192
"""Pixels. Small frames are not binned below this, whatever the alignment pixel size."""
SAMPLE_STRIDE = 7


def sum_stack(
    frames: Array,  # (n_frames, ny, nx) raw
    *,
    gain: FloatArray | None,
    dark: FloatArray | None,
    defects: npt.NDArray[np.bool_] | None,
    processing: Processing,
) -> StackSum:
    """Sum the frames as the camera wrote them, and find the outlier pixels on the gain-corrected sum.

    `gain_gamma` makes no difference here: the dose rate may be known only later, and outliers stand out all the same.

    Raises
    ------
    ReferenceFileError
        A reference has another size than the frames.
    """
    sums = kernels.sum_frames(frames)
    calibration = calibrate((frames.shape[1], frames.shape[2]), gain=gain, dark=dark)
    outliers = find_outliers(
        frames,
        sums,
        calibration,
        defects=defects,
        hot_sigma=processing.hot_sigma,
        dead_sigma=processing.dead_sigma,
        xray_sigma=processing.xray_sigma,
    )
    return StackSum(
        total=_smallest_type(sums.total),
        frame_means=sums.means,
        outliers=outliers,
        facts=stack_facts(sums.total, calibration, outliers, n_frames=len(frames)),
        largest_count=_finite(sums.largest.max()),
    )


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _smallest_type(total: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """uint16 or uint32 for counts; float32 where the sum is negative somewhere, too large, or not whole."""
    if np.issubdtype(total.dtype, np.integer) and total.min() >= 0:
        for dtype in (np.uint16, np.uint32):
            if total.max() <= np.iinfo(dtype).max:
                return total.astype(dtype)
    with np.errstate(over="ignore"):
        return total.astype(np.float32)


def correct_movie(
    frames: Array,  # (n_frames, ny, nx) raw
    *,
    gain: FloatArray | None,
    dark: FloatArray | None,
    outliers: OutlierPixels,
    acquisition: Acquisition,
    processing: Processing,
    even_odd: bool,
    power_spectrum_wanted: bool,
    even_odd_weighted: bool = False,
    power_spectrum_groups: bool = False,
    pattern: Pattern | None = None,
    koma_method: KomaMethod = "subtract",
    on_stage: Callable[[str], None] | None = None,
) -> MicrographResult:
    """Make the micrographs of one movie: references, motion, sums, spectrum.

    A `pattern` is taken off with the gain; without one there is no KOMA. What the movie shows of the detector is
    measured before and after.

    Raises
    ------
    ParameterError
        The pixel size is unknown, dose weighting is asked for and a parameter of it is unknown or out of range, the
        doses of single frames are as many as the movie has not, or `gain_gamma` needs the time of a frame.
    MotionError
        No frames are left after skipping, or they hold no picture.
    ReferenceFileError
        A reference has another size than the frames.
    """
    timings: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if on_stage:
            on_stage(name)
        start = perf_counter()
        yield
        wait_for(frames)
        timings[name] = round(perf_counter() - start, 4)

    shape = (frames.shape[1], frames.shape[2])
    pixel_size = _known(acquisition.pixel_size_angstrom, "pixel size")
    exposure = _exposure(acquisition, len(frames))
    if processing.dose_weighting:
        _known(exposure, "dose per frame")
        voltage_factor(_known(acquisition.voltage_kv, "voltage"))
    used = _used_frames(len(frames), processing)
    with stage("references"):
        gamma = _gain_gamma(frames, dark, acquisition.frame_time_s, processing)
        calibration = calibrate(shape, gain=gain, dark=dark, gamma=gamma, like=frames)
        koma = None if pattern is None else without_pattern(calibration, pattern, koma_method)
        replaced = kernels.plan_outliers(outliers, shape, processing.outlier_fill)
    with stage("detector"):
        correlations = frame_correlations(frames, calibration, outliers, koma, fill=processing.outlier_fill)
        calibration = koma or calibration
    with stage("reduce"):
        factor = alignment_binning(shape, acquisition, processing)
        span = _range(used)
        small = kernels.reduce(
            frames[span],
            calibration.gain,
            calibration.offset,
            replaced,
            factor=factor,
            first_frame=span.start,
        )
        small, used, unlit = leave_out_unlit(small, used)
        mean = float(small.mean(dtype=np.float64)) / factor**2
    with stage("motion"):
        motion = estimate_motion(
            small,
            used=used,
            shape=shape,
            binning=factor,
            pixel_size_angstrom=pixel_size,
            exposure=exposure,
            voltage_kv=acquisition.voltage_kv,
            processing=processing,
        )
        del small
    with stage("correct"):
        shifts = shifts_at_nodes_px(motion, shape, magnification=processing.magnification)
        weights, dose_range = weights_of_sums(
            used,
            motion.shifts_px,
            exposure=exposure,
            exposure_before=acquisition.exposure_before(len(frames)),
            pixel_size_angstrom=pixel_size,
            voltage_kv=acquisition.voltage_kv,
            processing=processing,
        )
        sums = correct_frames(
            frames,
            calibration.gain,
            calibration.offset,
            replaced,
            shifts_px=shifts,
            used=used,
            weights=weights,
            even_odd=even_odd,
            bin_factor=processing.bin_factor,
            even_odd_weighted=even_odd_weighted,
            dose_range=dose_range,
        )
    spectrum, spectrum_pixel = None, 0.0
    if power_spectrum_wanted:
        with stage("power_spectrum"):
            pictures: Iterable[FloatArray] = (sums.full,)
            if power_spectrum_groups and exposure is not None:
                groups = groups_for_spectrum(used, exposure)
                pictures = group_sums(
                    frames, calibration.gain, calibration.offset, replaced, shifts_px=shifts, groups=groups
                )
            spectrum, spectrum_pixel = power_spectrum(pictures, pixel_size_angstrom=pixel_size)
    return MicrographResult(
        sum_unweighted=to_host(sums.unweighted),
        sum_dose_weighted=to_host(sums.dose_weighted),
        sum_even=to_host(sums.even),
        sum_odd=to_host(sums.odd),
        sum_even_weighted=to_host(sums.even_weighted),
        sum_odd_weighted=to_host(sums.odd_weighted),
        sum_dose_range=to_host(sums.dose_range),
        power_spectrum=spectrum,
        power_spectrum_pixel_size_angstrom=spectrum_pixel,
        pixel_size_angstrom=pixel_size * (shape[1] / output_shape(shape, processing.bin_factor)[1]),
        motion=motion,
        n_outliers=len(outliers.throughout_yx),
        mean_e_per_px_frame=mean,
        detector=_detector_report(outliers, correlations),
        timings_s=timings,
        warnings=(
            *detector_warnings(frames, calibration, n_outliers=len(outliers.throughout_yx), unlit=unlit),
            *_warnings(motion, int(used.sum()), processing, dose_range is not None),
        ),
    )


def aligned_stack(
    frames: Array,  # (n_frames, ny, nx) raw
    *,
    gain: FloatArray | None,
    dark: FloatArray | None,
    outliers: OutlierPixels,
    motion: MotionModel,
    processing: Processing,
    group: int,
    frame_time_s: float | None = None,
    pattern: Pattern | None = None,
    koma_method: KomaMethod = "subtract",
) -> Iterator[FloatArray]:
    """The corrected frames themselves, each (y, x) at the output pixel size, `group` successive ones added together.

    Frames that `motion` leaves out are left out, and the last picture may be of fewer frames. Not weighted.
    """
    shape = (frames.shape[1], frames.shape[2])
    gamma = _gain_gamma(frames, dark, frame_time_s, processing)
    calibration = calibrate(shape, gain=gain, dark=dark, gamma=gamma, like=frames)
    if pattern is not None:
        calibration = without_pattern(calibration, pattern, koma_method)
    pictures = group_sums(
        frames,
        calibration.gain,
        calibration.offset,
        kernels.plan_outliers(outliers, shape, processing.outlier_fill),
        shifts_px=shifts_at_nodes_px(motion, shape, magnification=processing.magnification),
        groups=successive_groups(motion.used, group),
    )
    for picture in pictures:
        yield to_host(fourier_crop(picture, processing.bin_factor))


def alignment_binning(shape: tuple[int, int], acquisition: Acquisition, processing: Processing) -> int:
    """Whole number of pixels per small pixel: as near to the wanted size as frames of `shape` (ny, nx) allow.

    Raises
    ------
    ParameterError
        The pixel size is unknown.
    """
    pixel_size = _known(acquisition.pixel_size_angstrom, "pixel size")
    wanted = processing.alignment_pixel_size_angstrom
    return max(1, min(round(wanted / pixel_size), min(shape) // SMALLEST_LENGTH))


def _gain_gamma(
    frames: Array, dark: FloatArray | None, frame_time_s: float | None, processing: Processing
) -> float:
    """The power of the gain at the movie's dose rate, which a sample of its pixels tells well enough."""
    if frame_time_s is None or processing.gain_gamma == "off":
        return gamma_of(processing.gain_gamma, None)
    place = np.s_[::SAMPLE_STRIDE, ::SAMPLE_STRIDE]
    counts = float(frames[:, *place].mean(dtype=np.float64)) - (
        0.0 if dark is None else float(dark[place].mean())
    )
    return gamma_of(processing.gain_gamma, counts / frame_time_s)


def _detector_report(outliers: OutlierPixels, correlations: tuple[float, float, float]) -> DetectorReport:
    """What the movie itself shows; what its neighbours tell is for whoever knows them."""
    raw, filled, without = correlations
    return DetectorReport(
        correlation_raw=raw,
        correlation_outliers=filled,
        correlation_koma=without,
        n_hot=outliers.n_hot,
        n_dead=outliers.n_dead,
        n_defects=outliers.n_defects,
        n_xrays=outliers.n_xrays,
    )


Value = TypeVar("Value")


def _known(value: Value | None, name: str) -> Value:
    if value is None:
        raise ParameterError(
            f"{name} unknown: give it in the configuration, a sidecar or on the command line"
        )
    return value


def _exposure(acquisition: Acquisition, n_frames: int) -> npt.NDArray[np.float64] | None:
    """(n_frames,) e/Å² at the end of each frame; None when unknown."""
    if acquisition.frame_doses is not None and len(acquisition.frame_doses) != n_frames:
        raise ParameterError(
            f"frame_doses has {len(acquisition.frame_doses)} values, but the movie has {n_frames} frames; "
            "give the dose of every frame, or dose_per_frame instead"
        )
    return acquisition.exposure(n_frames)


def _used_frames(n_frames: int, processing: Processing) -> npt.NDArray[np.bool_]:
    """(n_frames,) which frames are aligned and summed."""
    index = np.arange(n_frames)
    used = (index >= processing.skip_first) & (index < n_frames - processing.skip_last)
    if not used.any():
        raise MotionError(
            f"no frame is left: the movie has {n_frames}, skip_first is {processing.skip_first}, "
            f"skip_last is {processing.skip_last}"
        )
    return used


def _range(used: npt.NDArray[np.bool_]) -> slice:
    """The used frames as a slice, so that no copy of the movie is made."""
    first = int(np.argmax(used))
    return slice(first, first + int(used.sum()))


def _warnings(motion: MotionModel, n_used: int, processing: Processing, range_found: bool) -> Iterator[str]:
    if n_used == 1:
        yield "only one frame: no motion can be measured; where each frame is a file, name them with frame_files"
    elif motion.n_iterations == 0:
        yield f"group_frames adds all {n_used} frames into one: no motion can be measured"
    elif not motion.supported:
        yield (
            "no motion stands out from the noise (empty ice, or a specimen at rest): the frames were added as they came"
        )
    wanted = processing.n_patches if processing.local_motion else None
    if wanted not in {None, (1, 1)} and motion.supported and motion.patch_centres_px is None:
        assert wanted is not None
        columns, rows = wanted
        yield f"n_patches {columns} x {rows} was not done: {motion.reason}"
    if processing.sum_range and not range_found:
        first, last = processing.sum_range
        yield f"no frame lies within sum_range, {first:g} to {last:g} e/Å²: no sum of it was made"
