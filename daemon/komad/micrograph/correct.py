"""From raw counts and shifts to the sums: one fused pass, then one Fourier transform per running sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from komad import kernels
from komad.arrays import Array, irfft2, namespace, rfft2, thread_count
from komad.micrograph.weights import DoseRange
from komad.optics.exposure import LowRankWeights
from komad.optics.frequency import rfft_frequency

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums of the corrected frames, (y, x) float32 at the output pixel size; None where not asked for."""

    full: FloatArray
    """Unweighted, at the pixel size of the movie as read: for the power spectrum."""
    unweighted: FloatArray
    dose_weighted: FloatArray | None
    even: FloatArray | None
    odd: FloatArray | None
    even_weighted: FloatArray | None = None
    """What the even frames give to `dose_weighted`; together with `odd_weighted` it is the whole."""
    odd_weighted: FloatArray | None = None
    dose_range: FloatArray | None = None


def correct_frames(
    frames: Array,  # (n_frames, ny, nx)
    gain: FloatArray,  # (ny, nx)
    offset: FloatArray,  # (ny, nx); corrected = frame * gain + offset
    outliers: kernels.Outliers,
    *,
    shifts_px: FloatArray,  # (n_frames, nodes_y, nodes_x, 2)
    used: npt.NDArray[np.bool_],  # (n_frames,)
    weights: LowRankWeights | None,  # frequency in cycles per pixel of the movie; rows for used frames only
    even_odd: bool,
    bin_factor: float,
    even_odd_weighted: bool = False,
    dose_range: DoseRange | None = None,
) -> Sums:
    """Correct, shift and add all frames that are used.

    A dose-weighted sum is sum over r of radial_r(|k|) * FFT(running sum r): the low-rank form of a different filter
    for every frame. Even and odd count frames of the movie from 1, as STAR files do. The halves of the weighted sum
    are made only with `weights`.

    One pass over the counts makes the sums of all frames and their halves. The weighted halves and the dose range have
    a pass of their own over their frames, so that no more running sums are in memory than one weighted sum needs.
    """

    def running_sums(where: npt.NDArray[np.bool_], rows: FloatArray) -> FloatArray:
        coefficients = np.zeros((len(where), rows.shape[1]), np.float32)
        coefficients[where] = rows
        return kernels.correct(frames, gain, offset, outliers, shifts=shifts_px, coefficients=coefficients)

    is_even = np.arange(1, len(used) + 1) % 2 == 0
    basis = np.ones((int(used.sum()), 1), np.float32) if weights is None else weights.frame_coefficients
    rank = basis.shape[1]
    half = is_even[used, None].astype(np.float32)
    running = running_sums(used, np.concatenate([basis, half], axis=1) if even_odd else basis)
    weighted = even_weighted = in_range = None
    if weights is not None:
        weighted = _weighted_sum(running[:rank], weights, bin_factor)
    # Copies, so that the other running sums leave the memory. The first term of the weights is one for every frame.
    full, even = running[0].copy(), running[rank].copy() if even_odd else None
    del running
    if weights is not None and even_odd_weighted:
        even_weighted = _weighted_sum(running_sums(used & is_even, basis[is_even[used]]), weights, bin_factor)
    if dose_range is not None:
        in_range = _weighted_sum(
            running_sums(dose_range.frames, dose_range.weights.frame_coefficients),
            dose_range.weights,
            bin_factor,
        )
    return Sums(
        full=full,
        unweighted=fourier_crop(full, bin_factor),
        dose_weighted=weighted,
        even=None if even is None else fourier_crop(even, bin_factor),
        odd=None if even is None else fourier_crop(full - even, bin_factor),
        even_weighted=even_weighted,
        odd_weighted=None if weighted is None or even_weighted is None else weighted - even_weighted,
        dose_range=in_range,
    )


def output_shape(shape: tuple[int, int], bin_factor: float) -> tuple[int, int]:
    """(y, x) after Fourier cropping: the even numbers nearest to shape / bin_factor."""
    if bin_factor == 1:
        return shape
    ny, nx = (max(2, 2 * round(n / bin_factor / 2)) for n in shape)
    return ny, nx


def fourier_crop(picture: FloatArray, bin_factor: float) -> FloatArray:
    """The picture at `bin_factor` times larger pixels, the mean kept; the picture itself for 1."""
    if bin_factor == 1:
        return picture
    shape = output_shape((picture.shape[0], picture.shape[1]), bin_factor)
    return _inverse(_crop(_forward(picture), shape), shape, picture.size)


def _weighted_sum(running: FloatArray, weights: LowRankWeights, bin_factor: float) -> FloatArray:
    """Sum over r of radial_r(|k|) * FFT(running[r]), cropped and transformed back."""
    full_shape = (running.shape[1], running.shape[2])
    shape = output_shape(full_shape, bin_factor)
    ky, kx = rfft_frequency(shape)
    # Frequencies of the cropped spectrum in cycles per pixel of the movie.
    ky, kx = ky * np.float32(shape[0] / full_shape[0]), kx * np.float32(shape[1] / full_shape[1])
    total = namespace(running).zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    for plane, radial in zip(running, weights.radial, strict=True):
        kernels.add_filtered(total, _crop(_forward(plane), shape), ky[:, 0], kx[0], weights.frequency, radial)
    return _inverse(total, shape, plane.size)


def _forward(picture: FloatArray) -> npt.NDArray[np.complex64]:
    return rfft2(picture, workers=thread_count())


def _inverse(spectrum: npt.NDArray[np.complex64], shape: tuple[int, int], n_pixels: int) -> FloatArray:
    """Real picture of `shape`; `n_pixels` of the picture that was transformed keeps the mean. Overwrites `spectrum`."""
    spectrum *= np.float32(shape[0] * shape[1] / n_pixels)
    return irfft2(spectrum, shape, workers=thread_count())


def _crop(spectrum: npt.NDArray[np.complex64], shape: tuple[int, int]) -> npt.NDArray[np.complex64]:
    """Low frequencies of an `rfft2` spectrum, those of a picture of `shape`."""
    my, mx = shape
    if spectrum.shape == (my, mx // 2 + 1):
        return spectrum
    half = my // 2
    cropped = np.concatenate([spectrum[: my - half, : mx // 2 + 1], spectrum[-half:, : mx // 2 + 1]])
    # At the new Nyquist lines only one of two conjugate coefficients is left; they hold noise alone.
    cropped[half, :] = 0
    cropped[:, -1] = 0
    return cropped
