"""What a worker computes on: the same calls for the CPU and for a GPU that the host plays, and what goes wrong."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from komad.arrays import DeviceFrames, namespace, rfft2, some_frames, to_host
from komad.errors import DeviceError, DeviceMemoryError, MotionError
from komad.memory import Demand
from komad.work.device import CPU, CudaDevice, Device, open_device
from tests.device import COUNTS, MEMORY, CUDADriverError, CUDARuntimeError, DeviceArray, device_on_the_host

SHAPE = (64, 96)
FRAMES = np.random.default_rng(1).poisson(3, (5, *SHAPE)).astype(np.uint8)
GAIN = np.random.default_rng(2).normal(1, 0.1, SHAPE).astype(np.float32)
DEMAND = Demand(
    n_frames=5,
    shape=SHAPE,
    itemsize=1,
    binning=2,
    rank=6,
    even_odd=True,
    n_before=0,
    n_pictures=3,
    has_pattern=False,
)
INVALID_VALUE, NO_MEMORY, ILLEGAL_ADDRESS = 1, 2, 700


@pytest.fixture
def gpu() -> Iterator[CudaDevice]:
    """A GPU of 8 GiB, half of which may be taken."""
    gc.collect()  # what other tests left there
    with device_on_the_host():
        device = open_device("cuda:0", 0.5)
        assert isinstance(device, CudaDevice)
        yield device


def corrected_sum(frames: Any, gain: Any, dark: Any) -> Any:
    """The sum of the frames times the gain, as many at a time as there should be; on the host."""
    step = getattr(frames, "at_a_time", len(frames))
    total = namespace(frames).zeros(frames.shape[1:], np.float32)
    for first in range(0, len(frames), step):
        total += some_frames(frames, first, min(first + step, len(frames))).sum(axis=0, dtype=np.float32)
    return to_host(total * gain if dark is None else (total - len(frames) * dark) * gain)


def test_one_call_for_both(gpu: CudaDevice) -> None:
    """Work that follows its arrays gives the same on the CPU and on a GPU, and its result is the host's."""
    dark = np.full(SHAPE, 0.5, np.float32)
    for device in (CPU, gpu):
        for references in ((GAIN, None), (GAIN, dark)):
            found = device.correct(corrected_sum, FRAMES, *references, DEMAND)
            assert type(found) is np.ndarray
            np.testing.assert_allclose(found, corrected_sum(FRAMES, *references), rtol=1e-6)


def test_probe(gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound GPU passes; one that computes wrongly, has no memory at all, or is lost does not."""
    gpu.probe()
    with monkeypatch.context() as patched, capture_logs():
        patched.setattr(MEMORY, "limit", 1)
        with pytest.raises(DeviceError, match="cuda:0 cannot compute: cuda:0 has too little memory"):
            gpu.probe()
    for make, words in (
        (lambda wave: rfft2(wave) * 1.01, "cuda:0 computes wrongly"),
        (lambda _: failing(CUDARuntimeError(ILLEGAL_ADDRESS))(), "cuda:0 is lost: CUDA error 700"),
    ):
        monkeypatch.setattr("komad.work.device.rfft2", make)
        with pytest.raises(DeviceError, match=words):
            gpu.probe()


def test_references_stay(gpu: CudaDevice) -> None:
    """The same host array is brought once for all movies; another one, though equal, is not taken for it."""
    seen: list[Any] = []

    def look(frames: Any, gain: Any, dark: Any) -> None:
        seen.append(gain)

    other = GAIN.copy()
    for gain in (GAIN, GAIN, other):
        gpu.correct(look, FRAMES, gain, None, DEMAND)
    assert seen[0] is seen[1]
    assert seen[2] is not seen[0]
    np.testing.assert_array_equal(seen[2].get(), other)


def test_references_go_with_those_of_the_host(gpu: CudaDevice) -> None:
    """An array of the device is freed when the host forgets the one that it was made of, or after eight others."""
    before = MEMORY.used
    first, later = GAIN.copy(), [GAIN.copy() for _ in range(9)]
    gpu.kept(first)
    assert MEMORY.used == before + GAIN.nbytes
    del first
    gc.collect()
    assert MEMORY.used == before
    for array in later:
        gpu.kept(array)
    assert MEMORY.used == before + 8 * GAIN.nbytes


def test_references_make_room(gpu: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for other movies goes when a movie does not fit beside it."""
    others = [np.zeros((1000, 1000), np.float32) for _ in range(3)]
    for other in others:
        gpu.kept(other)
    asked: list[int] = []

    def available(_: object) -> int:
        asked.append(MEMORY.used)
        return 10**7 if MEMORY.used > 10**7 else 10**9

    monkeypatch.setattr("komad.arrays.gpu.available_bytes", available)
    big = replace(DEMAND, shape=(600, 600))
    assert gpu.correct(lambda frames, *_: frames.at_a_time, FRAMES, GAIN, None, big) == 5
    assert asked[0] - asked[1] == 3 * 4_000_000


def half(budget: int) -> Callable[[Any, Any, Any], Any]:
    """Work that fails where all frames are on the device at a time; notes how they come."""
    ways: list[tuple[int, int]] = []

    def work(frames: DeviceFrames, gain: Any, dark: Any) -> Any:
        used = MEMORY.used
        frames.on_device(0, frames.at_a_time)
        ways.append((frames.at_a_time, MEMORY.used - used))
        held = gain.copy()
        if frames.at_a_time > budget:
            namespace(held).empty(2**33, np.uint8)
        return ways

    return work


def test_out_of_memory_once(gpu: CudaDevice) -> None:
    """A movie that takes more than was planned is done again, half as many frames at a time, from empty memory."""
    before = MEMORY.used
    with capture_logs() as lines:
        ways = gpu.correct(half(2), FRAMES, GAIN, None, DEMAND)
    assert ways == [(5, FRAMES.nbytes), (2, 2 * FRAMES[0].nbytes)]
    assert [line["event"] for line in lines] == ["the memory of the GPU is too small"]
    gc.collect()
    assert MEMORY.used - before == GAIN.nbytes


def test_out_of_memory_twice(gpu: CudaDevice) -> None:
    """Then the job fails, can be tried again, and says what to do; nothing stays on the device."""
    before = MEMORY.used
    with capture_logs(), pytest.raises(DeviceMemoryError) as failed:
        gpu.correct(half(1), FRAMES, GAIN, None, DEMAND)
    for words in ("cuda:0 has too little memory", "gpu_memory_fraction", "other programs", "fewer workers"):
        assert words in str(failed.value)
    assert failed.value.retry
    del failed
    gc.collect()
    assert MEMORY.used == before


def test_no_room_at_all(gpu: CudaDevice) -> None:
    """A movie that does not fit in any way is not begun."""
    huge = replace(DEMAND, n_frames=40, shape=(30000, 30000), binning=6)
    with pytest.raises(DeviceMemoryError, match=r"40 frames of 30000 x 30000 pixels need \d+\.\d\d GB"):
        gpu.correct(lambda *_: pytest.fail("begun"), FRAMES, GAIN, None, huge)


def failing(error: Exception) -> Callable[[], None]:
    """Work that fails."""

    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize("kind", [CUDARuntimeError, CUDADriverError])
def test_device_that_is_lost(gpu: CudaDevice, kind: Any) -> None:
    """An error after which CUDA does nothing more ends the worker; short memory and a wrong argument do not."""
    tries: list[int] = []
    with capture_logs(), pytest.raises(DeviceMemoryError):
        gpu.call(failing(kind(NO_MEMORY)), make_room=lambda: tries.append(1))
    assert len(tries) == 2
    assert COUNTS["page-locked memory given back"] == 2
    with pytest.raises(kind, match="CUDA error 1"):
        gpu.call(failing(kind(INVALID_VALUE)))
    with pytest.raises(DeviceError, match="cuda:0 is lost: CUDA error 700"):
        gpu.call(failing(kind(ILLEGAL_ADDRESS)))


@pytest.mark.parametrize("device", [CPU, "cuda:0"])
def test_other_errors_are_the_movies(device: Device | str) -> None:
    """What is wrong with a movie, or with the program, is not the device's fault, and not tried again."""
    with device_on_the_host():
        opened = open_device(device, 0.5) if isinstance(device, str) else device
        for error in (MotionError("no picture"), ZeroDivisionError()):
            with pytest.raises(type(error)):
                opened.call(failing(error))


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CuPy the error says how to get it, and how to do without."""
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(DeviceError, match=re.escape("komad[cuda12]")):
        open_device("cuda:0", 0.5)
    assert open_device("cpu", 0.5) is CPU


def test_no_page_locked_memory() -> None:
    """Without it the device cannot be used: that is said before work begins."""
    with device_on_the_host() as cupy:
        cupy.cuda.alloc_pinned_memory = lambda _: failing(CUDARuntimeError(NO_MEMORY))()
        with pytest.raises(DeviceError, match=r"no page-locked memory .* CUDA error 2"):
            open_device("cuda:0", 0.5)


def test_what_is_brought_is_a_copy(gpu: CudaDevice) -> None:
    """On the CPU it is the array itself."""
    assert isinstance(gpu.bring(GAIN), DeviceArray)
    assert CPU.bring(GAIN) is CPU.kept(GAIN) is GAIN
