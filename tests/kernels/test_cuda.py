"""The CUDA kernels, compiled for the host, against the CPU's loops."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.arrays import DeviceFrames
from komad.arrays.gpu import PinnedUploader
from komad.kernels import cpu
from komad.kernels.cpu.filling import spots_and_scales
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


def test_correct_however_the_frames_come(cupy: Any) -> None:
    """In groups of any size the sums are the same to the last bit: less memory makes no other picture."""
    frames, references_there = movie(), tuple(map(cupy.asarray, references()))
    outliers, coefficients = (
        kernels.plan_outliers(some_outliers(), SHAPE),
        np.random.default_rng(5).normal(0, 1, (N_FRAMES, 3)).astype(np.float32),
    )
    found = [
        kernels.correct(
            DeviceFrames(frames, PinnedUploader(), at_a_time=at_a_time, resident=False),
            *references_there,
            outliers,
            shifts=field(2.0),
            coefficients=coefficients,
        ).get()
        for at_a_time in (1, 2, N_FRAMES)
    ]
    assert found[0].std() > 1
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


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


def test_ring_sums() -> None:
    """Sums over rings are those of the CPU, of each picture and in any number of rings; what is on none is left out."""
    rng = np.random.default_rng(11)
    index = rng.integers(-1, 5, (70, 41)).astype(np.int32)
    index[index == 3] = -1
    pictures = rng.normal(2, 1, (3, *index.shape)).astype(np.float32)
    expected = [[picture[index == ring].sum(dtype=np.float64) for ring in range(6)] for picture in pictures]
    for brought in (np.asarray, sys.modules["cupy"].asarray):
        there = brought(index)
        found = kernels.ring_sums(brought(pictures), kernels.ring_plan(there, 6), 6)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0, 3] == found[0, 5] == 0


def test_frames_are_there_when_they_are_read(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through buffers far smaller than they are, however late they come: after all that does not wait for them."""
    monkeypatch.setattr("komad.arrays.gpu.BUFFER_BYTES", 1000)
    frames = movie()
    for resident in (True, False):
        there = DeviceFrames(frames, PinnedUploader(), at_a_time=2, resident=resident)
        for first in (0, 2, 4, 1):
            np.testing.assert_array_equal(there.on_device(first, first + 2).get(), frames[first : first + 2])
        np.testing.assert_array_equal(there[1:6][:, ::7, 3:5].get(), frames[1:6, ::7, 3:5])


def test_a_buffer_is_filled_while_the_other_one_is_read() -> None:
    """A copy waits for what was launched before the other buffer was given, not for what came since."""
    waited: list[tuple[int, int]] = []
    launched = 0

    class Uploader(PinnedUploader):
        def mark(self) -> Any:
            return launched

        def copy(self, source: Any, target: Any, *, after: Any) -> None:
            waited.append((target.data.ptr, after))

    there = DeviceFrames(movie(), Uploader(), at_a_time=1, resident=False)
    for frame in range(5):
        there.on_device(frame, frame + 1)
        launched += 1
    assert [after for _, after in waited] == [0, 1, 1, 2, 3]
    assert waited[0][0] == waited[2][0] != waited[1][0]


def stack_sum(dtype: str, shape: tuple[int, int]) -> kernels.RelativeStack:
    """A stack sum of a few bad pixels, at corners and side by side too, with a gain, a dark, and what is no number."""
    rng = np.random.default_rng(8)
    ny, nx = shape
    yx = rng.integers(0, shape, (max(1, ny * nx // 50), 2))
    yx = np.unique(np.concatenate([yx, [[0, 0], [ny - 1, nx - 1]]]), axis=0).astype(np.int32)
    if min(shape) > 20:
        yx = np.unique(np.concatenate([yx, np.argwhere(np.ones((7, 7))) + 9]), axis=0).astype(np.int32)
    keep = rng.choice([0.0, 0.4], len(yx)).astype(np.float32)
    frame = rng.choice([ALL_FRAMES, 2], len(yx)).astype(np.int32)
    bad = kernels.bad_pixels(OutlierPixels(yx=yx, keep=keep, frame=frame), shape)
    pattern = 1 + 0.1 * rng.normal(size=shape) + 0.1 * rng.normal(size=nx)
    total = rng.poisson(np.clip(40 * pattern, 0.1, None)).astype(dtype)
    total[-1, -1] = 60_000
    gain, offset = (rng.normal(m, 0.1, shape).astype(np.float32) for m in (1, -3))
    gain[0, 0] = np.nan
    return kernels.RelativeStack(
        total=total, gain=gain, offset=offset, scale=1 / 37, offset_scale=1 / 41, bad=bad
    )


def running_total(shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Of three stacks."""
    rng = np.random.default_rng(9)
    lines = 0.1 * rng.normal(size=shape[1])
    return (3 * 65536 * (1 + lines + 0.1 * rng.normal(size=shape))).astype(np.int32)


def on(cupy: Any, stack: kernels.RelativeStack) -> kernels.RelativeStack:
    """The same on the device."""
    return replace(
        stack, **{name: cupy.asarray(getattr(stack, name)) for name in ("total", "gain", "offset")}
    )


STACK_SHAPES = [(150, 300), (33, 65), (3, 40), (1, 1), (1100, 16)]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "float32", "float64"])
def test_add_fixed_point(cupy: Any, dtype: str, sign: int) -> None:
    """A running total has the whole numbers of the CPU, all of them: workers of both sides share its meaning."""
    for shape in STACK_SHAPES:
        stack, theirs = stack_sum(dtype, shape), running_total(shape)
        ours = cupy.asarray(theirs)
        how = {"unit": 65536, "limit": 64 * 65536, "sign": sign}
        before = theirs.copy()
        cpu.add_fixed_point(theirs, stack, **how)
        kernels.add_fixed_point(ours, on(cupy, stack), **how)
        assert (theirs != before).mean() > 0.9
        np.testing.assert_array_equal(ours.get(), theirs)


@pytest.mark.parametrize("shape", STACK_SHAPES)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_line_means(cupy: Any, shape: tuple[int, int], dtype: str) -> None:
    """Means along segments of columns and rows are those of the CPU, on the host."""
    stack, total = stack_sum(dtype, shape), running_total(shape)
    n_segments = (min(5, shape[0]), min(16, shape[1]))
    ours = kernels.line_means(cupy.asarray(total), 1 / (3 * 65536), on(cupy, stack), n_segments)
    for mine, theirs in zip(ours, cpu.line_means(total, 1 / (3 * 65536), stack, n_segments), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("n_taps", [1, 5, 9])
@pytest.mark.parametrize("shape", [*STACK_SHAPES, (2100, 40)])
def test_moments_and_pattern(cupy: Any, shape: tuple[int, int], n_taps: int) -> None:
    """Sums of squares, over the same bands of a large picture, and the pattern are those of the CPU."""
    rng = np.random.default_rng(10)
    stack, total = stack_sum("uint16", shape), running_total(shape)
    lines = tuple(rng.normal(0, 0.1, n).astype(np.float32) for n in (*shape, *shape))
    taps = np.concatenate([half := rng.normal(0, 0.2, n_taps // 2), [0.3], half[::-1]]).astype(np.float32)
    inverse, there = 1 / (3 * 65536), cupy.asarray(total)
    ours = kernels.pixel_moments(there, inverse, on(cupy, stack), lines, taps)
    theirs = cpu.pixel_moments(total, inverse, stack, lines, taps)
    scale = np.sqrt(theirs[0] * theirs[2])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)
    scales = {"scales": (0.7, 0.8, 0.9)}
    pattern = kernels.shared_pattern(there, inverse, stack.bad, lines[:2], taps, **scales)
    expected = cpu.shared_pattern(total, inverse, stack.bad, lines[:2], taps, **scales)
    np.testing.assert_allclose(pattern.get(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(7, 150, 300), (3, 64, 64), (1, 5, 7)])
def test_block_moments(cupy: Any, shape: tuple[int, int, int]) -> None:
    """Sums of squares without the means of blocks are those of the CPU, also of blocks that the edge cuts."""
    values = np.random.default_rng(11).normal(5, 1, shape).astype(np.float32)
    values += np.arange(shape[2], dtype=np.float32) / 10
    ours = kernels.block_moments(cupy.asarray(values), block=16)
    np.testing.assert_allclose(ours, cpu.block_moments(values, 16), rtol=1e-4)


@pytest.mark.parametrize("fill", ["mean", "draw"])
@pytest.mark.parametrize("dark", [0.0, 0.1])
def test_what_stands_in_for_outliers(cupy: Any, fill: Any, dark: float) -> None:
    """References on a device give the CPU's weights, bit for bit, also where gain and dark are no numbers."""
    gain, offset = references()
    offset *= np.float32(dark)
    outliers = kernels.plan_outliers(some_outliers(), SHAPE, fill)
    gain[70:74, 70:79] = offset[0, 0] = np.nan
    expected = spots_and_scales(outliers, gain, offset, 2)
    for ours, theirs in zip(
        spots_and_scales(outliers, cupy.asarray(gain), cupy.asarray(offset), 2), expected, strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()
    assert np.isfinite(expected[1]).all()
