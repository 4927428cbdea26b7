"""The hot loops, each behind one signature: `cpu` (numba) for NumPy arrays, a CUDA twin for CuPy arrays.

Callers use the functions here; which side runs follows from the arrays given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from komad.arrays import Array, namespace
from komad.errors import DeviceError
from komad.kernels import cpu
from komad.kernels.plan import Outliers, node_positions, plan_outliers

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "Outliers",
    "add_filtered",
    "aligned_sum",
    "alignment_gradient",
    "correct",
    "node_positions",
    "plan_outliers",
    "reduce",
    "sum_frames",
]

FloatArray = npt.NDArray[np.float32]


def _side(*arrays: Array) -> ModuleType:
    if namespace(*arrays) is not np:
        raise DeviceError("this version has no CUDA kernels; set workers.devices = ['cpu']")
    return cpu


def sum_frames(frames: Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Sum over frames of (n_frames, ny, nx) and mean of each frame.

    Returns (ny, nx) uint32 or int32 for integers, float64 for floating-point frames; and (n_frames,) float64.
    """
    return _side(frames).sum_frames(frames)


def reduce(
    frames: Array, gain: FloatArray, offset: FloatArray, outliers: Outliers, *, factor: int
) -> FloatArray:
    """Area-binned corrected frames: the sum of `frames * gain + offset` over factor x factor pixels.

    Parameters
    ----------
    frames : (n_frames, ny, nx) counts of any real type.
    gain, offset : (ny, nx) float32.
    outliers : pixels whose value is drawn from a good neighbour instead.
    factor : pixels per side; rows and columns that do not fill a block are left out.

    Returns
    -------
    (n_frames, ny // factor, nx // factor) float32.
    """
    return _side(frames, gain).reduce(frames, gain, offset, outliers, factor)


def correct(
    frames: Array,
    gain: FloatArray,
    offset: FloatArray,
    outliers: Outliers,
    *,
    shifts: FloatArray,
    coefficients: FloatArray,
) -> FloatArray:
    """The fused pass: gain, outliers, displacement and accumulation into running sums, tile by tile over the counts.

    sums[r, y, x] = sum over t of coefficients[t, r] * corrected_t(y - shift_y, x - shift_x), with the shift of frame t
    at (y, x): bilinear between the nodes, sub-pixel positions shared by 4 x 8 pixels, Lanczos-3 interpolation.

    A frame covers a pixel when the place from which it comes lies within the outer edges of the frame. Where some
    frames do and others do not, the mean of those that do stands for the others in every sum, which makes the
    unweighted sum the one that is normalised by the number of frames that really saw the place. Where fewer than half
    do, that mean is drawn to the mean of the tile, so that one frame is not repeated as a speckle. Where none does,
    the picture is continued by its reflection.

    Parameters
    ----------
    frames : (n_frames, ny, nx) counts of any real type.
    gain, offset : (ny, nx) float32; corrected = frame * gain + offset.
    outliers : pixels whose value is drawn from a good neighbour instead.
    shifts : (n_frames, nodes_y, nodes_x, 2) float32 as (y, x), pixels, at `node_positions((ny, nx))`.
    coefficients : (n_frames, n_sums) float32; a frame whose coefficients are all zero is not read and does not count.

    Returns
    -------
    (n_sums, ny, nx) float32.
    """
    return _side(frames, gain).correct(frames, gain, offset, outliers, shifts, coefficients)


def aligned_sum(
    values: npt.NDArray[np.complex64], ky: FloatArray, kx: FloatArray, shifts: npt.NDArray[np.float64]
) -> npt.NDArray[np.complex64]:
    """Aligned sum of each window in Fourier space: A(k) = sum over t of values_t(k) exp(-2 pi i k . shift_t).

    Parameters
    ----------
    values : (n_windows, n_frames, my, mx) complex64.
    ky, kx : (my,), (mx,) cycles per pixel.
    shifts : (n_windows, n_frames, 2) as (y, x), pixels of the grid whose transform `values` is.

    Returns
    -------
    (n_windows, my, mx) complex64.
    """
    return _side(values).aligned_sum(values, ky, kx, shifts)


def alignment_gradient(
    values: npt.NDArray[np.complex64],
    ky: FloatArray,
    kx: FloatArray,
    shifts: npt.NDArray[np.float64],
    pull: npt.NDArray[np.complex64],
) -> npt.NDArray[np.float64]:
    """Gradient with respect to every shift of 2 Re sum over k of conj(pull(k)) A(k), `pull` being held.

    Gives (n_windows, n_frames, 2).

    With pull = w A, (n_windows, my, mx), this is the gradient of sum over k of w(k) |A(k)|².
    """
    return _side(values).alignment_gradient(values, ky, kx, shifts, pull)


def add_filtered(
    total: npt.NDArray[np.complex64],
    spectrum: npt.NDArray[np.complex64],
    ky: FloatArray,
    kx: FloatArray,
    frequency: npt.NDArray[np.float64],
    radial: npt.NDArray[np.float64],
) -> None:
    """Add `spectrum` times a radial filter to `total`, in place: the one function here that changes an argument.

    Parameters
    ----------
    total, spectrum : (my, mx) complex64.
    ky, kx : (my,), (mx,) frequency of rows and columns.
    frequency : (n,) evenly spaced from 0, same unit.
    radial : (n,) filter there; linear between, the last value beyond.
    """
    _side(total).add_filtered(total, spectrum, ky, kx, frequency, radial)
