"""The whole way of one movie on a device, played by the host, against the CPU's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad.arrays import DeviceFrames
from komad.arrays.gpu import PinnedUploader
from komad.config import Processing
from komad.model import ALL_FRAMES, Acquisition, MicrographResult, OutlierPixels, Pattern, outliers_at
from komad.pipeline import aligned_stack, correct_movie
from tests.device import MEMORY, device_on_the_host
from tests.toy import toy_movie

SHAPE = (320, 448)
N_FRAMES = 9
ACQUISITION = Acquisition(pixel_size_angstrom=1.0, voltage_kv=300, dose_per_frame=1.2)

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a movie is corrected with."""

    frames: npt.NDArray[Any]
    gain: npt.NDArray[np.float32] | None
    dark: npt.NDArray[np.float32] | None
    outliers: OutlierPixels
    pattern: Pattern | None = None


def given(*, with_pattern: bool = False) -> Given:
    """A movie that moves, seen by a camera with a gain, a dark, hot pixels, hits of single frames and a pattern."""
    rng = np.random.default_rng(8)
    counts = toy_movie(n_frames=N_FRAMES, dose=2.5, contrast=0.3, seed=31).frames[:, : SHAPE[0], : SHAPE[1]]
    relative = np.float32(0.02) * rng.standard_normal(SHAPE, np.float32)
    gain = (1 + 0.1 * rng.standard_normal(SHAPE)).clip(0.6, 1.4).astype(np.float32)
    gain[200, 100] = np.nan
    dark = rng.normal(3, 0.2, SHAPE).astype(np.float32)
    frames = np.rint(8 * counts * (1 + relative) / np.nan_to_num(gain, nan=1) + dark).astype(np.uint16)
    yx = np.unique(np.concatenate([rng.integers(0, SHAPE, (80, 2)), [[200, 100]]]), axis=0).astype(np.int32)
    hit = rng.random(len(yx)) < 0.2
    hit[(yx == (200, 100)).all(axis=1)] = False
    frames[:, *yx[~hit].T] = 900
    frames[4, *yx[hit].T] = 2000
    outliers = OutlierPixels(
        yx=yx,
        keep=np.where(hit, 0.0, rng.choice([0.0, 0.3], len(yx)) * (yx[:, 0] != 200)).astype(np.float32),
        frame=np.where(hit, 4, ALL_FRAMES).astype(np.int32),
    )
    mean = float(frames.mean() - dark.mean())
    pattern = Pattern(relative=relative, n_stacks=20, spread=0.02, mean_e_per_px_frame=mean)
    return Given(
        frames=frames, gain=gain, dark=dark, outliers=outliers, pattern=pattern if with_pattern else None
    )


def corrected(movie: Given, frames: Any = None, **asked: Any) -> MicrographResult:
    """All pictures; `asked` are arguments, and settings among them."""
    names = {field for field in Processing.model_fields if field in asked}
    processing = Processing(**{name: asked.pop(name) for name in names})
    asked = {"even_odd": True, "power_spectrum_wanted": True, "acquisition": ACQUISITION} | asked
    return correct_movie(
        movie.frames if frames is None else frames,
        gain=movie.gain,
        dark=movie.dark,
        outliers=movie.outliers,
        pattern=movie.pattern,
        processing=processing,
        **asked,
    )


def on_a_device(movie: Given, *, at_a_time: int = N_FRAMES, resident: bool = True) -> Any:
    """Its frames, to be computed on the device."""
    return DeviceFrames(movie.frames, PinnedUploader(), at_a_time=at_a_time, resident=resident)


def assert_same(ours: MicrographResult, theirs: MicrographResult) -> None:
    """Motion to 0.01 px, pictures to 1e-4 of their spread, reports to 1e-4, and every word."""
    for field in fields(MicrographResult):
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(other, np.ndarray):
            assert type(one) is np.ndarray
            assert np.sqrt(np.square(one - other).mean()) < 1e-4 * other.std(), field.name
        elif field.name == "motion":
            assert one.supported == other.supported
            places = (np.linspace(0, n - 1, 5) for n in SHAPE)
            y, x = places
            np.testing.assert_allclose(
                one.shifts_on_grid_px(y, x), other.shifts_on_grid_px(y, x), rtol=0, atol=0.01
            )
        elif field.name == "detector":
            assert replace(one, correlation_raw=0, correlation_outliers=0, correlation_koma=0) == replace(
                other, correlation_raw=0, correlation_outliers=0, correlation_koma=0
            )
            for name in ("correlation_raw", "correlation_outliers", "correlation_koma"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-6)
        elif field.name == "timings_s":
            assert one.keys() == other.keys()
        elif isinstance(other, float):
            assert one == pytest.approx(other, rel=1e-5)
        else:
            assert one == other


@pytest.fixture(scope="module")
def movie() -> Given:
    """With everything but a pattern."""
    return given()


EVERYTHING = {"even_odd_weighted": True, "power_spectrum_groups": True, "sum_range": (0, 12)}


@pytest.fixture(scope="module")
def all_sums(movie: Given) -> MicrographResult:
    """What the CPU makes of it."""
    result = corrected(movie, **EVERYTHING)
    assert result.motion.supported
    assert all(getattr(result, name) is not None for name in ("sum_odd_weighted", "sum_dose_range"))
    return result


@pytest.mark.parametrize(("at_a_time", "resident"), [(1, False), (3, True), (N_FRAMES, True)])
def test_every_sum(movie: Given, all_sums: MicrographResult, at_a_time: int, resident: bool) -> None:
    """All pictures, numbers and words are those of the CPU, however many frames the device has at a time."""
    with device_on_the_host():
        frames = on_a_device(movie, at_a_time=at_a_time, resident=resident)
        assert_same(corrected(movie, frames, **EVERYTHING), all_sums)


CASES: dict[str, dict[str, Any]] = {
    "binned, stretched, drawn": {
        "bin_factor": 2,
        "magnification": (1.02, 1.0, 30.0),
        "outlier_fill": "draw",
        "in_frame_motion": True,
        "even_odd_weighted": True,
        "power_spectrum_groups": True,
    },
    "KOMA": {"with_pattern": True, "koma_method": "subtract", "skip_first": 2},
    "KOMA as a gain": {"with_pattern": True, "koma_method": "divide", "skip_last": 1, "even_odd": False},
    "gain with a power": {
        "gain_gamma": "k2",
        "acquisition": replace(ACQUISITION, frame_time_s=10.0),
        "bin_factor": 1.5,
    },
    "not weighted": {
        "dose_weighting": False,
        "acquisition": Acquisition(pixel_size_angstrom=3.0),
        "power_spectrum_wanted": False,
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_settings(case: dict[str, Any]) -> None:
    """Whatever is asked for, the device gives what the CPU gives."""
    asked = dict(case)
    movie = given(with_pattern=asked.pop("with_pattern", False))
    expected = corrected(movie, **asked)
    with device_on_the_host():
        assert_same(corrected(movie, on_a_device(movie, at_a_time=4), **asked), expected)


def test_frames_and_references_that_are_on_the_device(movie: Given, all_sums: MicrographResult) -> None:
    """Plain arrays of the device serve as well, and are not changed."""
    with device_on_the_host() as cupy:
        there = {name: cupy.asarray(getattr(movie, name)) for name in ("frames", "gain", "dark")}
        assert_same(corrected(replace(movie, **there), **EVERYTHING), all_sums)
        for name, array in there.items():
            np.testing.assert_array_equal(array.get(), getattr(movie, name))


def test_frames_without_beam_and_too_much_of_it() -> None:
    """Dark frames are left out, a saturated movie is corrected, with the same words."""
    frames = np.minimum(toy_movie(n_frames=8, length=320, seed=32, contrast=0.3).frames, 1)
    frames[[0, 4]] = 0
    movie = Given(frames=frames, gain=None, dark=None, outliers=outliers_at([[5, 5]]))
    expected = corrected(movie)
    assert len(expected.warnings) == 2
    with device_on_the_host():
        assert_same(corrected(movie, on_a_device(movie)), expected)


def test_the_aligned_stack(movie: Given, all_sums: MicrographResult) -> None:
    """Its pictures come to the host one by one, and are those of the CPU."""
    asked = {
        "gain": movie.gain,
        "dark": movie.dark,
        "outliers": movie.outliers,
        "motion": all_sums.motion,
        "processing": Processing(bin_factor=2),
        "group": 4,
        "pattern": given(with_pattern=True).pattern,
    }
    expected = list(aligned_stack(movie.frames, **asked))
    with device_on_the_host():
        pictures = list(aligned_stack(on_a_device(movie, at_a_time=3, resident=False), **asked))
    assert len(pictures) == 3
    for ours, theirs in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * theirs.std())


BIG = (6, 640, 768)
"""Frames of bytes, pixels of 1.5 Å: larger than a tile of the spectrum."""
PLANE = 4 * 640 * 768
TILE = 4 * 512**2


def known_bytes(
    *, at_a_time: int, resident: bool, first: int, last: tuple[int, float], pictures: float, group: int
) -> dict[str, float]:
    """Most that each stage takes.

    Parameters
    ----------
    at_a_time, resident : how the frames come.
    first : running sums of the first pass.
    last : running sums of the last pass, and planes of pictures that are there already.
    pictures : planes in the end: those of the result, and the sum that is not binned.
    group : frames in a picture of which a spectrum is made; 0 where it is that of the sum.
    """
    n_frames, ny, nx = BIG
    references = 2 * PLANE  # factor and summand
    counts = ny * nx * (n_frames if resident else 2 * at_a_time)  # from the third stage on
    sources = 5 / 32 * PLANE  # of a frame: where each block of 4 x 8 pixels comes from
    of_a_frame = PLANE + 2 * sources  # corrected; those of the next group are made beside the last
    summing = 2 * PLANE + of_a_frame * at_a_time  # the plain sum, how many frames there are of each pixel
    filtering = 3 * (PLANE + 8 * ny)  # the transform of one running sum, the sum of all, the picture
    tiles = 2 * (3 * TILE) + 2 * TILE  # two in a row, their transforms, their powers; the window, the mean
    spectrum: float = tiles
    if group:  # one more picture and the power of those before; meanwhile the next one is made
        spectrum = PLANE + TILE + max(tiles, 3 * PLANE + of_a_frame * min(at_a_time, group))
    return {
        "references": references + 2.25 * PLANE,
        "detector": references + 128 * 512 * (n_frames * (1 + 4 + 4) + 2 * 4),
        "reduce": references + counts + at_a_time * PLANE + n_frames * PLANE / 3**2,
        "correct": references + counts + max(first, sum(last)) * PLANE + max(summing, filtering),
        "power_spectrum": references + counts + pictures * PLANE + spectrum,
    }


@pytest.fixture(scope="module")
def big() -> Given:
    """A gain that is not positive somewhere."""
    rng = np.random.default_rng(9)
    gain = rng.normal(1, 0.05, BIG[1:]).astype(np.float32)
    gain[3, 4] = 0
    return Given(
        frames=rng.poisson(2, BIG).astype(np.uint8), gain=gain, dark=None, outliers=outliers_at([[3, 4]])
    )


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (
            EVERYTHING,
            {"at_a_time": 1, "resident": False, "first": 7, "last": (6, 4), "pictures": 7, "group": 3},
        ),
        (
            EVERYTHING | {"bin_factor": 2},
            {"at_a_time": 4, "resident": False, "first": 7, "last": (6, 2.5), "pictures": 2.75, "group": 3},
        ),
        (
            {"dose_weighting": False, "even_odd": False},
            {"at_a_time": 6, "resident": True, "first": 1, "last": (0, 0), "pictures": 1, "group": 0},
        ),
    ],
    ids=["everything", "binned", "one sum"],
)
def test_memory(big: Given, asked: dict[str, Any], known: dict[str, Any]) -> None:
    """Each stage takes what it is known to hold, no more and not much less; in the end nothing is left."""
    peaks: dict[str, int] = {}
    acquisition = replace(ACQUISITION, pixel_size_angstrom=1.5)
    with device_on_the_host():
        before, running = MEMORY.used, ["begin"]

        def measured(stage: str) -> None:
            peaks[running[-1]] = MEMORY.peak - before
            running.append(stage)
            MEMORY.peak = MEMORY.used

        frames = on_a_device(big, at_a_time=known["at_a_time"], resident=known["resident"])
        corrected(big, frames, acquisition=acquisition, on_stage=measured, **asked)
        measured("end")
        del frames
        assert MEMORY.used == before
    for stage, n_bytes in known_bytes(**known).items():
        assert 0.9 * n_bytes < peaks[stage] < 1.01 * n_bytes, stage


def test_the_plan_makes_no_other_pictures() -> None:
    """However many frames come at a time, and whether they stay: motion and pictures are the same to the last bit."""
    movie = given(with_pattern=True)
    plans: list[dict[str, Any]] = [
        {},
        {"at_a_time": 2, "resident": True},
        {"at_a_time": 4, "resident": False},
    ]
    with device_on_the_host():
        found = [corrected(movie, on_a_device(movie, **plan)) for plan in plans]
    for other in found[1:]:
        for name in ("sum_unweighted", "sum_dose_weighted", "sum_even", "sum_odd", "power_spectrum"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name))
        np.testing.assert_array_equal(other.motion.shifts_px, found[0].motion.shifts_px)
        assert other.detector == found[0].detector
