"""The kernels on the device, against the CPU's loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from komad import kernels
from komad.kernels import cpu
from tests.kernels.test_cuda import N_FRAMES, SHAPE, field, movie, references, some_outliers, waves

cupy = pytest.importorskip("cupy", reason="no CuPy")


@pytest.fixture(autouse=True)
def device() -> None:
    """Skip without one."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        count = 0
    if not count:
        pytest.skip("no GPU")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_sums_and_binned_frames(dtype: str) -> None:
    """Running sums, binned frames and totals on the device are those of the CPU to 1e-4."""
    frames, (gain, offset) = movie(dtype), references()
    outliers = kernels.plan_outliers(some_outliers(), SHAPE)
    coefficients = np.random.default_rng(5).normal(0, 1, (N_FRAMES, 3)).astype(np.float32)
    there = tuple(cupy.asarray(it) for it in (frames, gain, offset))
    sums = kernels.correct(*there, outliers, shifts=field(5.0), coefficients=coefficients)
    expected = cpu.correct(frames, gain, offset, outliers, field(5.0), coefficients, 0)
    np.testing.assert_allclose(sums.get(), expected, rtol=1e-4, atol=1e-3)
    binned = kernels.reduce(*there, outliers, factor=4)
    np.testing.assert_allclose(
        binned.get(), cpu.reduce(frames, gain, offset, outliers, 4, 0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(kernels.sum_frames(there[0]).total, cpu.sum_frames(frames).total)


def test_waves() -> None:
    """Aligned sums, their gradient and a filter on the device are those of the CPU to 1e-4."""
    values, ky, kx, shifts, pull = waves()
    there: Any = cupy.asarray(values)
    np.testing.assert_allclose(
        kernels.aligned_sum(there, ky, kx, shifts).get(),
        cpu.aligned_sum(values, ky, kx, shifts),
        rtol=1e-4,
        atol=1e-4,
    )
    expected = cpu.alignment_gradient(values, ky, kx, shifts, pull)
    found = kernels.alignment_gradient(there, ky, kx, shifts, cupy.asarray(pull))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    frequency, radial = np.linspace(0, 0.5, 40), np.cos(np.linspace(0, 3, 40))
    ours, theirs = cupy.asarray(values[0, 0]), values[0, 0].copy()
    kernels.add_filtered(ours, there[0, 1], ky, kx, frequency, radial)
    cpu.add_filtered(theirs, values[0, 1], ky, kx, frequency, radial)
    np.testing.assert_allclose(ours.get(), theirs, rtol=1e-5, atol=1e-5)
