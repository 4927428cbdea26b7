"""The CUDA kernels, compiled for the host, against the CPU's loops."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.arrays import DeviceFrames
from komad.arrays.gpu import PinnedUploader
from komad.kernels import cpu
from komad.kernels.cuda import device
from komad.model import ALL_FRAMES, OutlierPixels, outliers_at
from tests.device import device_on_the_host

SHAPE = (150, 300)
N_FRAMES = 7

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    """The device's arrays, on the host."""
    with device_on_the_host() as module:
        yield module


def movie(dtype: str = "uint8") -> npt.NDArray[Any]:
    """Counts, some of them large."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (N_FRAMES, *SHAPE))
    counts[:, ::17, ::13] += rng.poisson(40.0)
    return counts.astype(dtype)


def references() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Gain and offset."""
    rng = np.random.default_rng(2)
    return rng.normal(1, 0.1, SHAPE).astype(np.float32), rng.normal(0, 0.1, SHAPE).astype(np.float32)


def some_outliers() -> OutlierPixels:
    """Single ones, a cluster, hits in one frame, some that keep a part of their value; at the corners too."""
    rng = np.random.default_rng(3)
    yx = np.concatenate(
        [rng.integers(0, SHAPE, (60, 2)), np.argwhere(np.ones((4, 9))) + 70, [[0, 0], [149, 299]]]
    )
    yx = np.unique(yx, axis=0).astype(np.int32)
    keep = rng.choice([0.0, 0.4], len(yx)).astype(np.float32)
    return OutlierPixels(yx=yx, keep=keep, frame=rng.choice([ALL_FRAMES, 4], len(yx)).astype(np.int32))


def field(size: float) -> npt.NDArray[np.float32]:
    """Shifts of each frame at the nodes, of which some bring in what lies beyond the edges."""
    rng = np.random.default_rng(4)
    y, x = kernels.node_positions(SHAPE)
    whole = rng.normal(0, size, (N_FRAMES, 1, 1, 2))
    return (whole + rng.normal(0, 0.4, (N_FRAMES, len(y), len(x), 2))).astype(np.float32)


@pytest.mark.parametrize("fill", ["mean", "draw"])
@pytest.mark.parametrize("factor", [1, 4])
def test_reduce(cupy: Any, fill: Any, factor: int) -> None:
    """Binned frames are those of the CPU, outliers filled in the frames that they are in."""
    given = (movie(), *references())
    outliers = kernels.plan_outliers(some_outliers(), SHAPE, fill)
    ours = kernels.reduce(*map(cupy.asarray, given), outliers, factor=factor, first_frame=2).get()
    np.testing.assert_allclose(ours, cpu.reduce(*given, outliers, factor, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_correct_for_every_kind_of_pixel(cupy: Any, dtype: str, resident: bool) -> None:
    """Running sums are those of the CPU, also of frames that come to the device a few at a time."""
    coefficients = np.random.default_rng(5).normal(0, 1, (N_FRAMES, 3)).astype(np.float32)
    frames, (gain, offset), outliers = (
        movie(dtype),
        references(),
        kernels.plan_outliers(some_outliers(), SHAPE),
    )
    there: Any = DeviceFrames(frames, PinnedUploader(), at_a_time=3, resident=resident)
    ours = kernels.correct(
        there,
        cupy.asarray(gain),
        cupy.asarray(offset),
        outliers,
        shifts=field(2.0),
        coefficients=coefficients,
    )
    theirs = cpu.correct(frames, gain, offset, outliers, field(2.0), coefficients, 0)
    np.testing.assert_allclose(ours.get(), theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [0.0, 20.0, 400.0])
def test_correct_at_the_edges(cupy: Any, size: float) -> None:
    """What left the frame, in some or all frames, is made up as on the CPU; frames without a coefficient stay out."""
    coefficients = np.random.default_rng(6).normal(0, 1, (N_FRAMES, 2)).astype(np.float32)
    coefficients[[1, 5]] = 0
    shifts = field(size)
    shifts[1] = np.nan
    given, none = (movie(), *references()), kernels.plan_outliers(outliers_at([]), SHAPE)
    sums = kernels.correct(*map(cupy.asarray, given), none, shifts=shifts, coefficients=coefficients)
    theirs = cpu.correct(*given, none, shifts, coefficients, 0)
    np.testing.assert_allclose(sums.get(), theirs, rtol=1e-4, atol=1e-3)


def test_sum_frames(cupy: Any) -> None:
    """Totals and largest values are exact."""
    frames = movie("int16")
    sums = kernels.sum_frames(cupy.asarray(frames))
    for ours, theirs in zip(sums, cpu.sum_frames(frames), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def waves() -> tuple[Any, ...]:
    """Windows in Fourier space, frequencies, and shifts."""
    rng = np.random.default_rng(7)

    def white(*shape: int) -> npt.NDArray[np.complex64]:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    ky, kx = np.fft.fftfreq(24).astype(np.float32), np.fft.rfftfreq(30).astype(np.float32)
    return white(3, 5, 24, 16), ky, kx, rng.normal(0, 3, (3, 5, 2)), white(3, 24, 16)


def test_aligned_sum_and_its_gradient(cupy: Any) -> None:
    """Both are those of the CPU."""
    values, *where, pull = waves()
    there = cupy.asarray(values)
    ours, theirs = kernels.aligned_sum(there, *where), cpu.aligned_sum(values, *where)
    np.testing.assert_allclose(ours.get(), theirs, rtol=1e-4, atol=1e-4)
    slopes = kernels.alignment_gradient(there, *where, cupy.asarray(pull))
    theirs = cpu.alignment_gradient(values, *where, pull)
    np.testing.assert_allclose(slopes, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_add_filtered(cupy: Any) -> None:
    """A radial filter is that of the CPU, also beyond its last value."""
    values, ky, kx, *_ = waves()
    frequency, radial = np.linspace(0, 0.5, 40), np.cos(np.linspace(0, 3, 40))
    ours, theirs = cupy.asarray(values[0, 0]), values[0, 0].copy()
    kernels.add_filtered(ours, cupy.asarray(values[0, 1]), ky, kx, frequency, radial)
    cpu.add_filtered(theirs, values[0, 1], ky, kx, frequency, radial)
    np.testing.assert_allclose(ours.get(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", sorted(path.name for path in device.SOURCES.glob("*.cu")))
def test_nvcc_compiles(source: str, tmp_path: Path) -> None:
    """NVIDIA's compiler takes the sources as they are, for a device of today, without a warning."""
    macros = ["-DCOUNT=unsigned char", "-DN_SUMS=7"]
    command = ["nvcc", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", *macros, "-cubin"]
    subprocess.run([*command, "-o", str(tmp_path / "out"), str(device.SOURCES / source)], check=True)
