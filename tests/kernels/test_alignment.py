"""Sums and gradients of the alignment against plain NumPy and against finite differences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels

FloatArray = npt.NDArray[np.float64]

SHAPES = [
    (1, 4, 48, 17),
    (3, 5, 40, 33),
    (2, 3, 300, 9),  # more rows than one piece of work has
    (1, 1, 129, 5),
]


def spectra(
    n_windows: int, n_frames: int, my: int, mx: int
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float32], npt.NDArray[np.float32], FloatArray]:
    """Random values that nobody may change, the frequencies of a half plane, and shifts of a few pixels."""
    rng = np.random.default_rng(n_windows * my + mx)
    shape = (n_windows, n_frames, my, mx)
    values = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    ky, kx = np.fft.fftfreq(my).astype(np.float32), np.fft.rfftfreq(2 * mx - 2).astype(np.float32)
    shifts = rng.normal(0, 3, (n_windows, n_frames, 2))
    for array in (values, ky, kx, shifts):
        array.setflags(write=False)
    return values, ky, kx, shifts


def direct_sum(
    values: npt.NDArray[np.complex64],
    ky: npt.NDArray[np.float32],
    kx: npt.NDArray[np.float32],
    shifts: FloatArray,
) -> npt.NDArray[np.complex128]:
    """The formula, in double precision."""
    along_y = ky[:, None].astype(float) * shifts[:, :, 0, None, None]
    along_x = kx[None, :].astype(float) * shifts[:, :, 1, None, None]
    return (values.astype(complex) * np.exp(-2j * np.pi * (along_y + along_x))).sum(axis=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_aligned_sum_is_the_formula(shape: tuple[int, int, int, int]) -> None:
    """Every window with shifts of its own, to single precision."""
    values, ky, kx, shifts = spectra(*shape)
    total = kernels.aligned_sum(values, ky, kx, shifts)
    assert total.dtype == np.complex64
    np.testing.assert_allclose(total, direct_sum(values, ky, kx, shifts), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_formula(shape: tuple[int, int, int, int]) -> None:
    """4 pi sum of k Im(conj(pull) F_t exp(-2 pi i k . shift_t)) for any pull, of every window, frame and axis."""
    values, ky, kx, shifts = spectra(*shape)
    rng = np.random.default_rng(5)
    pull = (rng.normal(size=(shape[0], *shape[2:])) + 1j * rng.normal(size=(shape[0], *shape[2:]))).astype(
        np.complex64
    )
    pull.setflags(write=False)
    expected = np.empty((*shape[:2], 2))
    for t in range(shape[1]):
        moved = direct_sum(values[:, [t]], ky, kx, shifts[:, [t]])
        slope = 4 * np.pi * (pull.conj() * moved).imag
        expected[:, t, 0] = (slope * ky[:, None]).sum(axis=(1, 2))
        expected[:, t, 1] = (slope * kx).sum(axis=(1, 2))
    gradient = kernels.alignment_gradient(values, ky, kx, shifts, pull)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


def test_gradient_is_the_slope_of_the_weighted_power() -> None:
    """With pull = w A it is what finite differences of sum of w |A|² say, along both axes."""
    values, ky, kx, shifts = spectra(2, 4, 40, 21)
    weight = np.random.default_rng(8).uniform(0, 1, (2, 40, 21)).astype(np.float32)

    def objective(at: FloatArray) -> float:
        return float((weight * np.square(np.abs(direct_sum(values, ky, kx, at)))).sum())

    pull = kernels.aligned_sum(values, ky, kx, shifts) * weight
    gradient = kernels.alignment_gradient(values, ky, kx, shifts, pull)
    for place in np.ndindex(2, 4, 2):
        step = np.zeros_like(shifts)
        step[place] = 1e-4
        expected = (objective(shifts + step) - objective(shifts - step)) / 2e-4
        assert gradient[place] == pytest.approx(expected, abs=1e-4 * float(np.abs(gradient).max()))


def test_a_moved_picture_is_moved_back() -> None:
    """A positive shift moves the content to a larger index: in value and sign, on a picture that is not square."""
    picture = np.random.default_rng(2).normal(size=(60, 44))
    frames = np.stack([np.roll(picture, (-dy, -dx), (0, 1)) for dy, dx in [(0, 0), (3, -5), (-7, 2)]])
    values = np.fft.rfft2(frames)[None].astype(np.complex64)
    ky, kx = np.fft.fftfreq(60).astype(np.float32), np.fft.rfftfreq(44).astype(np.float32)
    total = kernels.aligned_sum(values, ky, kx, np.array([[[0.0, 0], [3, -5], [-7, 2]]]))
    np.testing.assert_allclose(np.fft.irfft2(total[0], s=(60, 44)), 3 * picture, atol=1e-4)
