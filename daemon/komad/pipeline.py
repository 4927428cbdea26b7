"""The order of the stages for one movie. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array
from komad.config import Processing
from komad.detector import calibrate, find_outliers
from komad.errors import MotionError, ParameterError
from komad.micrograph import correct_frames, power_spectrum
from komad.micrograph.correct import output_shape
from komad.model import Acquisition, MicrographResult, MotionModel, StackSum
from komad.motion import estimate_motion
from komad.optics.exposure import LowRankWeights, dose_weights, factorise, signal_left

FloatArray = npt.NDArray[np.float32]

SMALLEST_LENGTH = 128
"""Pixels. Small frames are not binned below this, whatever the alignment pixel size."""
OUTLIER_FRACTION_WARNING = 0.01


def sum_stack(
    frames: Array,  # (n_frames, ny, nx) raw
    *,
    gain: FloatArray | None,
    dark: FloatArray | None,
    defects: npt.NDArray[np.bool_] | None,
    processing: Processing,
) -> StackSum:
    """Sum the frames as the camera wrote them, and find the outlier pixels on the gain-corrected sum.

    Raises
    ------
    ReferenceFileError
        A reference has another size than the frames.
    """
    total, frame_means = kernels.sum_frames(frames)
    calibration = calibrate((frames.shape[1], frames.shape[2]), gain=gain, dark=dark)
    outliers = find_outliers(
        total,
        calibration,
        n_frames=len(frames),
        defects=defects,
        hot_sigma=processing.hot_sigma,
        dead_sigma=processing.dead_sigma,
    )
    return StackSum(total=_smallest_type(total), frame_means=frame_means, outliers_yx=outliers)


def _smallest_type(total: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """uint16 or uint32 for counts; float32 where the sum is negative somewhere, too large, or not whole."""
    if np.issubdtype(total.dtype, np.integer) and total.min() >= 0:
        for dtype in (np.uint16, np.uint32):
            if total.max() <= np.iinfo(dtype).max:
                return total.astype(dtype)
    return total.astype(np.float32)


def correct_movie(
    frames: Array,  # (n_frames, ny, nx) raw
    *,
    gain: FloatArray | None,
    dark: FloatArray | None,
    outliers_yx: npt.NDArray[np.int32],  # (n, 2)
    acquisition: Acquisition,
    processing: Processing,
    even_odd: bool,
    power_spectrum_wanted: bool,
    on_stage: Callable[[str], None] | None = None,
) -> MicrographResult:
    """Make the micrographs of one movie: references, motion, sums, spectrum.

    Raises
    ------
    ParameterError
        The pixel size is unknown, or dose weighting is asked for and a parameter of it is unknown or out of range.
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
        timings[name] = round(perf_counter() - start, 4)

    pixel_size = _known(acquisition.pixel_size_angstrom, "pixel size")
    used = _used_frames(len(frames), processing)
    shape = (frames.shape[1], frames.shape[2])
    with stage("references"):
        calibration = calibrate(shape, gain=gain, dark=dark)
        outliers = kernels.plan_outliers(outliers_yx, shape)
    with stage("reduce"):
        factor = _binning(shape, pixel_size, processing.alignment_pixel_size_angstrom)
        small = kernels.reduce(
            frames[_range(used)], calibration.gain, calibration.offset, outliers, factor=factor
        )
        mean = float(small.mean(dtype=np.float64)) / factor**2
    with stage("motion"):
        motion = estimate_motion(
            small,
            used=used,
            shape=shape,
            binning=factor,
            pixel_size_angstrom=pixel_size,
            exposure=acquisition.exposure(len(frames)),
            voltage_kv=acquisition.voltage_kv,
            processing=processing,
        )
        del small
    with stage("correct"):
        sums = correct_frames(
            frames,
            calibration.gain,
            calibration.offset,
            outliers,
            shifts_px=_field(motion, shape),
            used=used,
            weights=_weights(used, acquisition, pixel_size) if processing.dose_weighting else None,
            even_odd=even_odd,
            bin_factor=processing.bin_factor,
        )
    spectrum, spectrum_pixel = None, 0.0
    if power_spectrum_wanted:
        with stage("power_spectrum"):
            spectrum, spectrum_pixel = power_spectrum(sums.full, pixel_size_angstrom=pixel_size)
    return MicrographResult(
        sum_unweighted=sums.unweighted,
        sum_dose_weighted=sums.dose_weighted,
        sum_even=sums.even,
        sum_odd=sums.odd,
        power_spectrum=spectrum,
        power_spectrum_pixel_size_angstrom=spectrum_pixel,
        pixel_size_angstrom=pixel_size * (shape[1] / output_shape(shape, processing.bin_factor)[1]),
        motion=motion,
        n_outliers=len(outliers_yx),
        mean_e_per_px_frame=mean,
        timings_s=timings,
        warnings=_warnings(len(outliers_yx), shape, motion, int(used.sum())),
    )


def _known(value: float | None, name: str) -> float:
    if value is None:
        raise ParameterError(
            f"{name} unknown: give it in the configuration, a sidecar or on the command line"
        )
    return value


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


def _binning(shape: tuple[int, int], pixel_size: float, wanted: float) -> int:
    """Whole number of pixels per small pixel, as near to `wanted` Å as the size of the frames allows."""
    return max(1, min(round(wanted / pixel_size), min(shape) // SMALLEST_LENGTH))


def _field(motion: MotionModel, shape: tuple[int, int]) -> FloatArray:
    """(n_frames, nodes_y, nodes_x, 2): the shift at the nodes of the correction; zero for frames left out."""
    return np.nan_to_num(motion.shifts_on_grid_px(*kernels.node_positions(shape))).astype(np.float32)


def _weights(used: npt.NDArray[np.bool_], acquisition: Acquisition, pixel_size: float) -> LowRankWeights:
    """Dose weights of the used frames, over frequencies up to the corner of the spectrum, in low-rank form."""
    _known(acquisition.dose_per_frame, "dose per frame")
    exposure = acquisition.exposure(len(used))
    assert exposure is not None
    dose = exposure[used]
    frequency = np.linspace(0, np.sqrt(0.5), 1024)
    q = signal_left(frequency / pixel_size, dose, voltage_kv=_known(acquisition.voltage_kv, "voltage"))
    return factorise(dose_weights(q), frequency)


def _warnings(n_outliers: int, shape: tuple[int, int], motion: MotionModel, n_used: int) -> tuple[str, ...]:
    warnings = []
    if n_outliers > OUTLIER_FRACTION_WARNING * shape[0] * shape[1]:
        share = 100 * n_outliers / (shape[0] * shape[1])
        warnings.append(
            f"{share:.1f} % of the pixels are outliers: is the gain reference the right one, the right way up?"
        )
    if n_used == 1:
        warnings.append("only one frame: no motion can be measured")
    elif not motion.supported:
        warnings.append(
            "no motion stands out from the noise (empty ice, or a specimen at rest): the frames were added as they came"
        )
    return tuple(warnings)
