"""The CUDA kernels, compiled for the host, against the CPU's loops."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.kernels import cpu, cuda
from komad.kernels.cuda import device
from komad.kernels.cuda import frames as cuda_frames
from komad.model import ALL_FRAMES, OutlierPixels, outliers_at
from tests.kernels import host_cuda

SHAPE = (150, 300)
N_FRAMES = 7

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch on the host, and have several groups of frames."""
    monkeypatch.setattr(device, "launch", host_cuda.launch)
    monkeypatch.setattr(cuda_frames, "GROUP_BYTES", 3 * 4 * SHAPE[0] * SHAPE[1])


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
def test_reduce(fill: Any, factor: int) -> None:
    """Binned frames are those of the CPU, outliers filled in the frames that they are in."""
    given = (movie(), *references(), kernels.plan_outliers(some_outliers(), SHAPE, fill), factor, 2)
    np.testing.assert_allclose(cuda.reduce(*given), cpu.reduce(*given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_correct_for_every_kind_of_pixel(dtype: str) -> None:
    """Running sums are those of the CPU."""
    coefficients = np.random.default_rng(5).normal(0, 1, (N_FRAMES, 3)).astype(np.float32)
    given = (
        movie(dtype),
        *references(),
        kernels.plan_outliers(some_outliers(), SHAPE),
        field(2.0),
        coefficients,
        0,
    )
    np.testing.assert_allclose(cuda.correct(*given), cpu.correct(*given), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [0.0, 20.0, 400.0])
def test_correct_at_the_edges(size: float) -> None:
    """What left the frame, in some or all frames, is made up as on the CPU; frames without a coefficient stay out."""
    coefficients = np.random.default_rng(6).normal(0, 1, (N_FRAMES, 2)).astype(np.float32)
    coefficients[[1, 5]] = 0
    shifts = field(size)
    shifts[1] = np.nan
    given = (movie(), *references(), kernels.plan_outliers(outliers_at([]), SHAPE), shifts, coefficients, 0)
    sums = cuda.correct(*given)
    np.testing.assert_allclose(sums, cpu.correct(*given), rtol=1e-4, atol=1e-3)


def test_sum_frames() -> None:
    """Totals and largest values are exact."""
    for ours, theirs in zip(cuda.sum_frames(movie("int16")), cpu.sum_frames(movie("int16")), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def waves() -> tuple[Any, ...]:
    """Windows in Fourier space, frequencies, and shifts."""
    rng = np.random.default_rng(7)

    def white(*shape: int) -> npt.NDArray[np.complex64]:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    ky, kx = np.fft.fftfreq(24).astype(np.float32), np.fft.rfftfreq(30).astype(np.float32)
    return white(3, 5, 24, 16), ky, kx, rng.normal(0, 3, (3, 5, 2)), white(3, 24, 16)


def test_aligned_sum_and_its_gradient() -> None:
    """Both are those of the CPU."""
    *given, pull = waves()
    np.testing.assert_allclose(cuda.aligned_sum(*given), cpu.aligned_sum(*given), rtol=1e-4, atol=1e-4)
    ours, theirs = cuda.alignment_gradient(*given, pull), cpu.alignment_gradient(*given, pull)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_add_filtered() -> None:
    """A radial filter is that of the CPU, also beyond its last value."""
    values, ky, kx, *_ = waves()
    frequency, radial = np.linspace(0, 0.5, 40), np.cos(np.linspace(0, 3, 40))
    ours, theirs = values[0, 0].copy(), values[0, 0].copy()
    cuda.add_filtered(ours, values[0, 1], ky, kx, frequency, radial)
    cpu.add_filtered(theirs, values[0, 1], ky, kx, frequency, radial)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", sorted(path.name for path in device.SOURCES.glob("*.cu")))
def test_nvcc_compiles(source: str, tmp_path: Path) -> None:
    """NVIDIA's compiler takes the sources as they are, for a device of today, without a warning."""
    macros = ["-DCOUNT=unsigned char", "-DN_SUMS=7"]
    command = ["nvcc", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", *macros, "-cubin"]
    subprocess.run([*command, "-o", str(tmp_path / "out"), str(device.SOURCES / source)], check=True)
