"""What a worker computes on: the cores of the CPU, or one GPU. Who uses it need not know which."""

from __future__ import annotations

import gc
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import structlog

from komad import memory
from komad.arrays import Array, DeviceFrames, gpu, rfft2, to_host
from komad.errors import DeviceError, DeviceMemoryError, KomadError
from komad.memory import Demand

logger = structlog.get_logger(__name__)

SIZE = 256
WAVE_YX = (5, 17)
"""Cycles over the picture."""
N_KEPT = 8
"""Gain, dark, and the calibration of two series."""

Result = TypeVar("Result")
OnFrames = Callable[[Any, Any, Any], Result]
"""Computes from frames, gain and dark."""


class Device(ABC):
    """Opened once by each worker process, and used by one thread."""

    name: str
    """`cpu`, or `cuda:` with a number."""

    def probe(self) -> None:
        """Transform a plane wave and compare with what must come out.

        A bad movie must not be taken for a bad device, nor the other way round.

        Raises
        ------
        DeviceError
            The device is lost, or gives a wrong answer.
        """
        y, x = np.mgrid[:SIZE, :SIZE]
        wave = np.cos(2 * np.pi * (WAVE_YX[0] * y + WAVE_YX[1] * x) / SIZE).astype(np.float32)
        expected = np.zeros((SIZE, SIZE // 2 + 1), np.complex64)
        expected[WAVE_YX] = SIZE**2 / 2
        try:
            spectrum = self.call(lambda: to_host(rfft2(self.bring(wave))))
        except Exception as error:
            raise DeviceError(f"{self.name} cannot compute: {error}") from error
        wrong = float(np.abs(spectrum - expected).max())
        if not wrong < 1e-4 * SIZE**2:
            raise DeviceError(f"{self.name} computes wrongly: a small Fourier transform is off by {wrong:g}")

    @abstractmethod
    def bring(self, array: Array) -> Array:
        """An array of the host where this device computes; within `call` or `correct`."""

    @abstractmethod
    def kept(self, array: Array) -> Array:
        """Like `bring`, for an array that never changes: it stays there for as long as it lives and there is room."""

    @abstractmethod
    def call(self, work: Callable[[], Result], *, make_room: Callable[[], None] | None = None) -> Result:
        """Do some work on the device; when its memory is too small, make room and begin once more.

        Raises
        ------
        DeviceMemoryError
            It was too small again.
        DeviceError
            The device is lost: the process has to be started anew.
        """

    @abstractmethod
    def correct(
        self, work: OnFrames[Result], frames: Array, gain: Array | None, dark: Array | None, demand: Demand
    ) -> Result:
        """Give `work` the frames (n_frames, ny, nx) of a movie and its references; its result is one of the host.

        Raises as `call`; when the memory is too small the movie is done again with half as many frames at a time.
        """


class HostDevice(Device):
    """The cores of the CPU."""

    name = "cpu"

    def bring(self, array: Array) -> Array:
        """The array itself."""
        return array

    def kept(self, array: Array) -> Array:
        """The array itself."""
        return array

    def call(self, work: Callable[[], Result], *, make_room: Callable[[], None] | None = None) -> Result:  # noqa: ARG002
        """See `Device.call`."""
        return work()

    def correct(
        self,
        work: OnFrames[Result],
        frames: Array,
        gain: Array | None,
        dark: Array | None,
        demand: Demand,  # noqa: ARG002
    ) -> Result:
        """See `Device.correct`."""
        return work(frames, gain, dark)


CPU = HostDevice()


class CudaDevice(Device):
    """One GPU, the only one that the process sees."""

    def __init__(self, name: str, memory_fraction: float) -> None:
        self.name = name
        self._gpu = gpu.open_gpu(memory_fraction)
        self._computing = gpu.computing()
        self._uploader = gpu.PinnedUploader()
        self._kept: OrderedDict[int, tuple[weakref.ref[Array], Array]] = OrderedDict()

    def bring(self, array: Array) -> Array:
        """A copy on the GPU."""
        return self._uploader.asarray(array)

    def kept(self, array: Array) -> Array:
        """See `Device.kept`; an array is known by which object it is, not by its values."""
        key = id(array)
        if key not in self._kept:
            # Gone with the host's array, whose number may then be given to another one.
            gone = weakref.ref(array, lambda _: self._kept.pop(key, None))
            self._kept[key] = gone, self.bring(array)
        self._kept.move_to_end(key)
        there = self._kept[key][1]
        while len(self._kept) > N_KEPT:
            self._kept.popitem(last=False)
        return there

    def call(self, work: Callable[[], Result], *, make_room: Callable[[], None] | None = None) -> Result:
        """See `Device.call`."""
        return self._try(work, work, make_room)

    def correct(
        self, work: OnFrames[Result], frames: Array, gain: Array | None, dark: Array | None, demand: Demand
    ) -> Result:
        """See `Device.correct`."""

        def as_planned(*, half: bool) -> Result:
            references = [None if it is None else self.kept(it) for it in (gain, dark)]
            plan = self._plan(demand)
            if half:
                plan = memory.halved(demand, plan)
            there = DeviceFrames(frames, self._uploader, at_a_time=plan.at_a_time, resident=plan.resident)
            return work(there, *references)

        return self._try(lambda: as_planned(half=False), lambda: as_planned(half=True))

    def _plan(self, demand: Demand) -> memory.Plan:
        """The plan for the room that there is; when it is short, what is kept for other movies goes."""
        try:
            return memory.plan(demand, gpu.available_bytes(self._gpu))
        except DeviceMemoryError:
            self._make_room()
            return memory.plan(demand, gpu.available_bytes(self._gpu))

    def _make_room(self) -> None:
        self._kept.clear()
        gpu.free_unused()

    def _try(
        self,
        work: Callable[[], Result],
        again: Callable[[], Result],
        make_room: Callable[[], None] | None = None,
    ) -> Result:
        """Do `work`; when the memory is too small, `again`."""
        why = ""
        for attempt in (work, again):
            try:
                with self._computing:
                    return attempt()
            except KomadError:
                raise
            except Exception as error:
                if gpu.is_broken(error):
                    raise DeviceError(f"{self.name} is lost: {error}") from error
                if not gpu.is_out_of_memory(error):
                    raise
                why = str(error)
            # Only here, where the error is gone, are the arrays gone that it held.
            logger.warning("the memory of the GPU is too small", device=self.name, error=why)
            gc.collect()
            if make_room is not None:
                make_room()
            self._make_room()
        raise DeviceMemoryError(f"{self.name} has too little memory for this movie ({why}); {memory.ADVICE}")


def open_device(name: str, memory_fraction: float) -> Device:
    """Make a device ready: `cpu`, or the GPU that this process sees (`cuda:N`), of whose memory it takes a share.

    Raises
    ------
    DeviceError
        There is none that can be used; says what to do.
    """
    return CPU if name == "cpu" else CudaDevice(name, memory_fraction)
