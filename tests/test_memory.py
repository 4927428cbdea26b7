"""The plan of a GPU's memory: what movies take stays below it, and not far."""

from __future__ import annotations

import gc
import itertools
import shutil
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from komad import memory
from komad.arrays import DeviceFrames
from komad.arrays.gpu import PinnedUploader
from komad.config import Output, Processing
from komad.errors import DeviceMemoryError
from komad.memory import Demand, demand_of, halved, needed_bytes, plan
from komad.model import Acquisition, Pattern, outliers_at
from komad.pipeline import alignment_binning, correct_movie
from tests.device import MEMORY, OutOfMemoryError, device_on_the_host
from tests.toy import toy_movie

GB = 10**9


def usual(n_frames: int = 40, shape: tuple[int, int] = (4096, 4096), **changes: Any) -> Demand:
    """Frames of bytes at 0.83 Å, as the settings have it by themselves."""
    demand = demand_of(
        n_frames, shape, 1, binning=6, processing=Processing(), output=Output(), has_pattern=True
    )
    return replace(demand, **changes)


def test_the_whole_movie_stays_where_there_is_room() -> None:
    """With less memory fewer frames at a time, then none that stays, then one at a time; always within the budget."""
    ways = []
    for budget in range(8 * GB, 0, -GB // 20):
        try:
            found = plan(usual(), budget)
        except DeviceMemoryError:
            break
        assert found.bytes <= budget
        assert found.bytes == needed_bytes(usual(), found.at_a_time, resident=found.resident)
        ways.append((found.resident, found.at_a_time))
    assert ways[0] == (True, memory.GROUP_BYTES // (4 * 4096**2))
    assert ways[-1] == (False, 1)
    assert all(before >= after for before, after in pairwise(ways))
    assert len(set(ways)) > 4


@pytest.mark.parametrize(
    ("n_frames", "shape", "most_gb"),
    [(40, (4096, 4096), 4), (40, (4092, 5760), 5), (40, (8184, 11520), 13), (400, (4096, 4096), 15)],
)
def test_usual_movies_on_usual_gpus(n_frames: int, shape: tuple[int, int], most_gb: int) -> None:
    """What a movie of each camera takes when it stays on the device, and that it can be done on an 8 GB GPU."""
    assert plan(usual(n_frames, shape), 80 * GB).resident
    assert most_gb / 1.6 < plan(usual(n_frames, shape), 80 * GB).bytes / GB < most_gb
    assert plan(usual(n_frames, shape), 8 * GB).bytes < 8 * GB


def test_too_small_a_gpu() -> None:
    """The message tells the movie, what it needs, what there is and what to do."""
    with pytest.raises(DeviceMemoryError) as failed:
        plan(usual(), GB)
    words = str(failed.value)
    assert words.startswith("40 frames of 4096 x 4096 pixels need 1.")
    assert "1.00 GB are left for this worker" in words
    assert "workers.gpu_memory_fraction" in words


def test_half_of_a_plan() -> None:
    """Half as many frames, at least one, and none stays: it takes less."""
    whole = plan(usual(), 80 * GB)
    half = halved(usual(), whole)
    assert (half.at_a_time, half.resident) == (whole.at_a_time // 2, False)
    assert half.bytes < whole.bytes
    assert halved(usual(), replace(whole, at_a_time=1)).at_a_time == 1


EVERYTHING = {"even_odd_weighted": True, "power_spectrum_groups": True}
CASES: dict[str, tuple[tuple[int, int, int], dict[str, Any], dict[str, Any]]] = {
    "usual": ((8, 512, 512), {}, {}),
    "wide": ((5, 384, 800), {"sum_range": (0, 4)}, EVERYTHING),
    "binned": ((6, 512, 512), {"bin_factor": 2, "in_frame_motion": True}, EVERYTHING),
    "many frames": ((40, 256, 256), {"group_frames": (1, 1)}, {}),
    "one sum": ((12, 512, 640), {"dose_weighting": False}, {"even_odd": False}),
}


IN_CI = {("usual", True), ("binned", False)}
"""The others take as long again, and are for `make soak`."""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("case", "resident"),
    [
        pytest.param(*it, marks=() if it in IN_CI else pytest.mark.soak)
        for it in itertools.product(CASES, [True, False])
    ],
)
def test_what_movies_take(case: str, resident: bool) -> None:
    """Less than planned and more than a third of it (cuFFT's work space is planned, too), and no less will do."""
    size, settings, asked = CASES[case]
    output, processing = Output(**asked), Processing(**settings)
    frames = toy_movie(n_frames=size[0], length=max(size[1:]), contrast=0.3).frames[:, : size[1], : size[2]]
    shape = (size[1], size[2])
    acquisition = Acquisition(pixel_size_angstrom=1.5, voltage_kv=300, dose_per_frame=1.2)
    gain, relative = (np.random.default_rng(n).normal(1 - n, 0.05, shape).astype(np.float32) for n in (0, 1))
    demand = demand_of(
        *(size[0], shape, 1),
        binning=alignment_binning(shape, acquisition, processing),
        processing=processing,
        output=output,
        has_pattern=True,
    )
    at_a_time = 3 if resident else 1
    planned = needed_bytes(demand, at_a_time, resident=resident)

    def taken(limit: int) -> int:
        gc.collect()
        with device_on_the_host() as cupy:
            there = cupy.asarray(gain)
            pattern = Pattern(
                relative=cupy.asarray(relative), n_stacks=9, spread=0.05, mean_e_per_px_frame=1.2
            )
            before = MEMORY.used
            MEMORY.limit = before + limit
            correct_movie(
                DeviceFrames(frames, PinnedUploader(), at_a_time=at_a_time, resident=resident),
                gain=there,
                dark=None,
                pattern=pattern,
                outliers=outliers_at([[5, 7]]),
                acquisition=acquisition,
                processing=processing,
                even_odd=output.even_odd,
                even_odd_weighted=output.even_odd_weighted,
                power_spectrum_wanted=True,
                power_spectrum_groups=output.power_spectrum_groups,
            )
            return MEMORY.peak - before

    most = taken(planned)
    assert planned / 3 < most < planned
    with pytest.raises(OutOfMemoryError):
        taken(most - 1)
