"""The fused pass against a direct implementation: every pixel by itself, with the field of that very pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.kernels.plan import TAPS, TILE
from komad.model import outliers_at

SHAPE = (75, 300)
DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.float32]


def movie(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> npt.NDArray[Any]:
    """Counts without structure finer than 6 pixels, brighter to one side; those of one byte nobody may change."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(shape[-2])[:, None], np.fft.rfftfreq(shape[-1])[None, :]
    smooth = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * (np.hypot(ky, kx) < 1 / 6), s=shape[-2:])
    frames = 40 + 20 * smooth / smooth.std() + np.linspace(-10, 10, shape[-1])
    frames = np.clip(frames, 0, 120).astype(dtype)
    # For one type: loops are compiled for arrays that may be written to and for others.
    frames.setflags(write=frames.dtype != np.uint8)
    return frames


def references(shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A gain around 1 and an offset around 0, both smooth."""
    y, x = np.indices(shape, np.float32)
    return (1 + 0.1 * np.sin(y / 9 + x / 20)).astype(np.float32), (3 * np.cos(x / 15)).astype(np.float32)


def constant(shifts: npt.ArrayLike, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Nodes of a field that is the same everywhere; (n_frames, 2) or (2,) for one frame."""
    y, x = kernels.node_positions(shape)
    shifts = np.atleast_2d(np.asarray(shifts, np.float32))
    return np.broadcast_to(shifts[:, None, None, :], (len(shifts), len(y), len(x), 2))


def twisted(n_frames: int, shape: tuple[int, int], strength: float = 0.01) -> npt.NDArray[np.float32]:
    """Nodes of a field whose y part and x part vary differently along y and x, `strength` pixels per pixel."""
    y, x = (n[:, None] if axis == 0 else n[None, :] for axis, n in enumerate(kernels.node_positions(shape)))
    field = np.zeros((n_frames, y.size, x.size, 2))
    for t in range(n_frames):
        field[t, ..., 0] = 3.3 - 2.7 * t + strength * (1 - 0.4 * t) * (x - 0.3 * y)
        field[t, ..., 1] = -6.1 + 1.9 * t + strength * (0.6 * t - 0.8) * (y + 0.5 * x)
    return field.astype(np.float32)


def correct(
    frames: npt.NDArray[Any], shifts: npt.NDArray[np.float32], **given: Any
) -> npt.NDArray[np.float32]:
    """Run the kernel, by default without gain, offset and outliers, into one plain sum."""
    shape = (frames.shape[1], frames.shape[2])
    return kernels.correct(
        frames,
        given.get("gain", np.ones(shape, np.float32)),
        given.get("offset", np.zeros(shape, np.float32)),
        kernels.plan_outliers(outliers_at(given.get("outliers", [])), shape),
        shifts=shifts,
        coefficients=given.get("coefficients", np.ones((len(frames), 1), np.float32)),
    )


def sources(nodes: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(2, ny, nx): where the content of each pixel comes from, for one frame's nodes."""
    y, x = kernels.node_positions(shape)
    found = np.indices(shape).astype(np.float64)
    for axis in range(2):
        along_x = np.array([np.interp(np.arange(shape[1]), x, row[:, axis]) for row in nodes])
        found[axis] -= np.array([np.interp(np.arange(shape[0]), y, column) for column in along_x.T]).T
    return found


def directly(
    frames: npt.NDArray[Any],
    gain: Any,
    offset: Any,
    shifts: npt.NDArray[np.float32],
    coefficients: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
    """What `kernels.correct` is to compute, pixel by pixel."""
    shape = (frames.shape[1], frames.shape[2])
    pictures, covers = [], []
    for frame, nodes in zip(frames, shifts, strict=True):
        y, x = sources(nodes, shape)
        corrected = np.pad(frame * gain.astype(np.float64) + offset, 40, mode="symmetric")
        picture, total = np.zeros(shape), np.zeros(shape)
        for i in range(1 - TAPS // 2, 1 + TAPS // 2):
            for j in range(1 - TAPS // 2, 1 + TAPS // 2):
                yy, xx = np.floor(y).astype(int) + i, np.floor(x).astype(int) + j
                weight = lanczos(y - yy) * lanczos(x - xx)
                picture += weight * corrected[yy + 40, xx + 40]
                total += weight
        pictures.append(picture / total)
        covers.append((y >= -0.5) & (y < shape[0] - 0.5) & (x >= -0.5) & (x < shape[1] - 0.5))
    moved, covered = np.array(pictures), np.array(covers)
    covered |= ~covered.any(axis=0)
    n_covering, plain = covered.sum(axis=0), (moved * covered).sum(axis=0)
    uncovered_by_all = ~np.array(covers).any(axis=0)
    level = np.empty(shape)
    for y0 in range(0, shape[0], TILE[0]):
        for x0 in range(0, shape[1], TILE[1]):
            tile = (slice(y0, y0 + TILE[0]), slice(x0, x0 + TILE[1]))
            seen = ~uncovered_by_all[tile]
            level[tile] = plain[tile][seen].sum() / max(1, n_covering[tile][seen].sum())
    trust = np.minimum(1, n_covering / np.maximum(len(frames) - n_covering, 1e-9))
    mean = level + trust * (plain / n_covering - level)
    return np.einsum("tr,tyx->ryx", coefficients, np.where(covered, moved, mean))


def lanczos(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The kernel of three lobes."""
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_twisted_field(dtype: Any) -> None:
    """Every pixel follows the field at its own place, in every running sum, for every type a camera writes."""
    frames, (gain, offset) = movie((3, *SHAPE), dtype), references(SHAPE)
    shifts = twisted(3, SHAPE)
    coefficients = np.array([[1, 0.3], [1, -0.5], [1, 0.8]], np.float32)
    expected = directly(frames, gain, offset, shifts, coefficients)
    sums = correct(frames, shifts, gain=gain, offset=offset, coefficients=coefficients)
    for measured, exact in zip(sums, expected, strict=True):
        # 4 x 8 pixels share a position: at most 0.04 px off here, times the slope of the picture.
        assert np.sqrt(np.square(measured - exact).mean()) < 0.02 * exact.std()
        assert np.abs(measured - exact).max() < 0.1 * exact.std()


@pytest.mark.parametrize("shape", [(75, 300), (32, 128), (33, 129), (1, 1), (5, 700), (161, 9)])
def test_frames_of_any_size(shape: tuple[int, int]) -> None:
    """Tiles that are not full, single rows and single columns are no different."""
    frames = np.random.default_rng(3).poisson(3, (2, *shape)).astype(np.uint8)
    shifts = constant([[0.25, -1.5], [2.0, 0.75]], shape)
    ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    expected = directly(frames, ones, zeros, shifts, np.ones((2, 1)))
    np.testing.assert_allclose(correct(frames, shifts), expected, atol=1e-3)


def test_a_constant_field_is_exact() -> None:
    """Positions that the weight table holds give the interpolation to rounding, for each frame its own."""
    frames, (gain, offset) = movie((7, *SHAPE)), references(SHAPE)
    shifts = constant(np.random.default_rng(4).integers(-900, 900, (7, 2)) / 256, SHAPE)
    coefficients = np.random.default_rng(5).normal(size=(7, 3)).astype(np.float32)
    expected = directly(frames, gain, offset, shifts, coefficients)
    sums = correct(frames, shifts, gain=gain, offset=offset, coefficients=coefficients)
    np.testing.assert_allclose(sums, expected, atol=2e-3)


def test_positive_shift_moves_content_to_larger_index() -> None:
    """A whole-pixel shift of (+3, -5) moves a lone bright pixel by exactly (+3, -5)."""
    frames = np.zeros((1, 96, 400), np.uint8)
    frames[0, 40, 200] = 100
    moved = correct(frames, constant((3, -5), (96, 400)))[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (43, 195)
    assert moved[43, 195] == pytest.approx(100)
    assert np.abs(moved).sum() == pytest.approx(100, abs=1e-3)


def test_sub_pixel_shift_is_the_fourier_shift() -> None:
    """A fractional shift of a smooth picture equals the exact Fourier shift to half a percent of its spread."""
    shape, shift = (128, 256), (1.37, -2.61)
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    spectrum = np.fft.rfft2(np.random.default_rng(0).normal(size=shape)) * (np.hypot(ky, kx) < 0.125)
    picture = np.fft.irfft2(spectrum, s=shape)
    exact = np.fft.irfft2(spectrum * np.exp(-2j * np.pi * (ky * shift[0] + kx * shift[1])), s=shape)
    moved = correct(picture.astype(np.float32)[None], constant(shift, shape))[0]
    inside = (slice(8, -8), slice(8, -8))
    # The weight table has 256 positions: up to 1/512 px off, times the steepest slope.
    assert np.abs(moved - exact)[inside].max() < 0.02 * picture.std()


def test_no_seam_between_tiles() -> None:
    """A field that bends at the nodes moves a straight ramp without a step where tiles meet."""
    shape = (4 * TILE[0], 3 * TILE[1])
    ramp = np.broadcast_to(np.arange(shape[1], dtype=np.float32), (1, *shape))
    shifts = np.random.default_rng(6).uniform(-0.3, 0.3, constant((0, 0), shape).shape).astype(np.float32)
    moved = correct(ramp, shifts)[0]
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(moved - sources(shifts[0], shape)[1])[inside].max() < 0.08


@pytest.mark.parametrize(
    "shift", [(4, 0), (-4, 0), (0, 4), (0, -4), (6.5, -3.25), (-6.5, 3.25), (3, 9), (-3, -9)]
)
def test_what_one_frame_does_not_cover_comes_from_the_others(shift: tuple[float, float]) -> None:
    """At every edge and corner the covering frames stand for those that do not cover, in proportion in every sum."""
    frames, (gain, offset) = movie((4, *SHAPE)), references(SHAPE)
    shifts = constant([(0, 0), shift, (0.5, -0.5), (0, 0)], SHAPE)
    coefficients = np.array([[1, 0, 0.2], [1, 1, -0.7], [1, 0, 0.4], [1, 1, 0.1]], np.float32)
    expected = directly(frames, gain, offset, shifts, coefficients)
    sums = correct(frames, shifts, gain=gain, offset=offset, coefficients=coefficients)
    np.testing.assert_allclose(sums, expected, atol=2e-3)


def test_the_plain_sum_is_normalised_by_the_covering_frames() -> None:
    """Three frames of even brightness, one of which left: the strip that it does not see is as bright as the rest."""
    frames = np.full((3, *SHAPE), 10, np.uint8)
    frames[1] = 40
    total = correct(frames, constant([(0, 0), (0, 20), (0, 0)], SHAPE))[0]
    np.testing.assert_allclose(total[:, 20:], 60, atol=1e-4)
    np.testing.assert_allclose(total[:, :20], 30, atol=1e-4)


def test_few_covering_frames_leave_no_speckle() -> None:
    """Along an edge that a drift leaves to ever fewer frames the noise stays below 1.6 times that of the middle."""
    frames = np.random.default_rng(8).poisson(2.0, (30, 96, 256)).astype(np.uint8)
    total = correct(frames, constant([(0, 2 * t) for t in range(30)], (96, 256)))[0]
    spread = total.std(axis=0)
    assert spread[:58].max() < 1.6 * spread[100:].mean()
    np.testing.assert_allclose(total[:, :58].mean(axis=0), 60, atol=4)


def test_what_no_frame_covers_is_reflected() -> None:
    """Where all frames come from beyond the detector the picture goes on mirrored: no seam, no zeros."""
    frames = movie((2, 64, 64))
    moved = correct(frames, constant([(4, 0), (6, 0)], (64, 64)))[0]
    np.testing.assert_allclose(moved[:4], frames[0, 3::-1] + frames[1, 5:1:-1].astype(float), atol=1e-4)
    # Two rows that only the first frame covers.
    np.testing.assert_allclose(moved[4:6], 2.0 * frames[0, :2], atol=1e-4)


def test_a_twisted_field_at_the_edges() -> None:
    """Where a field that varies leaves the frame, coverage is decided pixel by pixel."""
    shape = (70, 260)
    frames = np.full((2, *shape), 10, np.uint8)
    frames[1] = 30
    shifts = np.concatenate([constant((0, 0), shape), twisted(1, shape, 0.05)])
    y, x = sources(shifts[1], shape)
    inside = (y >= -0.5) & (y < shape[0] - 0.5) & (x >= -0.5) & (x < shape[1] - 0.5)
    assert 0.05 < (~inside).mean() < 0.5
    np.testing.assert_allclose(correct(frames, shifts)[0], np.where(inside, 40, 20), atol=1e-4)


def test_correct_replaces_outliers_before_interpolation() -> None:
    """A hot pixel, at the edge and inside, neither shows nor rings after a fractional shift."""
    frames = np.full((3, 64, 200), 7, np.uint8)
    spots = np.array([[0, 0], [20, 127], [21, 128], [63, 199]], np.int32)
    frames[:, spots[:, 0], spots[:, 1]] = 255
    total = correct(frames, constant(np.full((3, 2), 0.4), (64, 200)), outliers=spots)[0]
    np.testing.assert_allclose(total, 21, atol=1e-4)


def test_unused_frames_do_not_count() -> None:
    """A frame with coefficient zero adds nothing and covers nothing, whatever is in it and wherever it went."""
    frames = np.stack([movie((64, 64)), np.full((64, 64), np.nan)]).astype(np.float32)
    shifts = np.concatenate([constant((2, 0), (64, 64)), np.full_like(constant((0, 0), (64, 64)), np.nan)])
    total = correct(frames, shifts, coefficients=np.array([[1], [0]], np.float32))[0]
    np.testing.assert_allclose(total[2:], frames[0, :-2], atol=1e-4)
    np.testing.assert_allclose(total[:2], frames[0, 1::-1], atol=1e-4)


def test_nodes_reach_from_the_first_to_the_last_pixel() -> None:
    """Nodes are the first pixels of the tiles and the last pixel of the frame."""
    y, x = kernels.node_positions((100, 256))
    assert y.tolist() == [0, 32, 64, 96, 99]
    assert x.tolist() == [0, 128, 255]
