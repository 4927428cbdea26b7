"""One GPU: a movie from counts in the host's memory to sums there, stage by stage, and a session of files."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import structlog

from komad import kernels
from komad.arrays import DeviceFrames, gpu, namespace, parallel_map, to_host
from komad.config import Output, Processing, Settings, WatchFolder, Workers
from komad.errors import DeviceError
from komad.formats.images import write_mrc
from komad.formats.mrcz import write_mrcz
from komad.ingest import describe
from komad.memory import Demand, demand_of
from komad.micrograph.weights import RANK
from komad.model import (
    Acquisition,
    Candidate,
    JobKind,
    MicrographResult,
    OutlierPixels,
    outliers_at,
    series_of,
)
from komad.pipeline import alignment_binning, correct_movie
from komad.simulate.write import write_movie
from komad.store import Store
from komad.store.listing import list_jobs
from komad.work.assembly_line import AssemblyLine
from komad.work.device import CPU, CudaDevice, Device
from komad.work.devices import Choice, WorkerDevice
from komad.work.supervisor import Supervisor

Size = tuple[int, int, int]
"""nx, ny, frames."""
Frames = npt.NDArray[np.uint8]

SIZES: tuple[Size, ...] = ((4096, 4096, 40), (5760, 4092, 40), (11520, 8184, 40))
MEMORY_FRACTION = 0.9
E_PER_PX = 1.0
BLOBS = 8
"""Pixels across what the simulated specimen is made of."""
DRIFT_PX = 12
OUTLIERS = 1e-4
"""Of all pixels."""
ACQUISITION = Acquisition(pixel_size_angstrom=0.83, voltage_kv=300, dose_per_frame=1.2)
PROCESSING, OUTPUT = Processing(), Output(float16=True)
REPEATS = 3
COPIED_BYTES = 2**30
LARGEST_DIFFERENCE = 1e-3
"""Of a picture's spread: beyond, the GPU does not compute what the CPU does."""
FORMATS = ("mrc", "tif", "mrcz")
PER_FORMAT = 8
LIMIT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Given:
    """A movie in the host's memory."""

    frames: Frames
    gain: npt.NDArray[np.float32]
    outliers: OutlierPixels

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.gain.shape[0], self.gain.shape[1]

    @property
    def demand(self) -> Demand:
        """On the memory."""
        return demand_of(
            len(self.frames),
            self.shape,
            self.frames.itemsize,
            binning=alignment_binning(self.shape, ACQUISITION, PROCESSING),
            processing=PROCESSING,
            output=OUTPUT,
            has_pattern=False,
        )


def main(
    place: Path,
    sizes: Sequence[Size] = SIZES,
    *,
    n_movies: int = PER_FORMAT,
    n_workers: Sequence[int] = (1, 2, 4),
) -> None:
    """Print everything; ends with a status that is not zero without a GPU, or when it gives other pictures."""
    try:
        device = CudaDevice("cuda:0", MEMORY_FRACTION)
        device.probe()
    except DeviceError as error:
        raise SystemExit(f"no GPU was measured: {error}") from error
    cupy = importlib.import_module("cupy")
    _print_machine(cupy)
    copied = _copy_rate(device, cupy)
    print(f"a copy within the device moves {copied / 1e9:.0f} GB/s\n")
    for size in sizes:
        movie = _movie(size)
        _measure(device, cupy, movie, copied)
    worst = _difference(device, _movie(sizes[0]))
    print(f"\nlargest difference from the CPU's pictures: {worst:.1e} of their spread")
    if not worst < LARGEST_DIFFERENCE:
        raise SystemExit("the GPU gives other pictures than the CPU")
    for workers in n_workers:
        for kind in FORMATS:
            _session(place / f"session_{workers}_{kind}", device, _movie(sizes[0]), kind, n_movies, workers)


def _print_machine(cupy: Any) -> None:
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    versions = [cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()]
    runs, built = (f"{version // 1000}.{version % 1000 // 10}" for version in versions)
    driver = "unknown"
    if tool := shutil.which("nvidia-smi"):
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")[0]
    memory_gb = cupy.cuda.Device(0).mem_info[1] / 1e9
    print(
        f"{properties['name'].decode()}, {memory_gb:.0f} GB, compute capability {properties['major']}."
        f"{properties['minor']}; driver {driver} for CUDA {runs}; CuPy {cupy.__version__} with CUDA {built}, "
        f"NumPy {np.__version__}; {os.cpu_count()} cores"
    )


def _movie(size: Size) -> Given:
    """Counts of something that drifts, seen through a gain; enough for timing and for motion to be found."""
    nx, ny, n_frames = size
    rng = np.random.default_rng(nx)
    blobs = rng.normal(1, 0.3, (-(-ny // BLOBS), -(-nx // BLOBS))).clip(0.2, 2).astype(np.float32)
    specimen = np.repeat(np.repeat(blobs, BLOBS, axis=0), BLOBS, axis=1)[:ny, :nx] * E_PER_PX
    gain = rng.normal(1, 0.05, (ny, nx)).clip(0.7, 1.3).astype(np.float32)
    frames = np.empty((n_frames, ny, nx), np.uint8)

    def expose(index: int, seed: int) -> None:
        way = round(DRIFT_PX * (1 - np.exp(-index / 4)))
        seen = np.roll(specimen, (way, -way), axis=(0, 1)) / gain
        frames[index] = np.minimum(np.random.default_rng(seed).poisson(seen), 255)

    list(parallel_map(frames, expose, range(n_frames), rng.integers(2**31, size=n_frames).tolist()))
    yx = np.unique(rng.integers(0, (ny, nx), (int(OUTLIERS * ny * nx), 2)), axis=0)
    return Given(frames=frames, gain=gain, outliers=outliers_at(yx))


def _corrected(device: Device, movie: Given) -> MicrographResult:
    """The correct job without its files."""

    def work(frames: Any, gain: Any, dark: Any) -> MicrographResult:
        return correct_movie(
            frames,
            gain=gain,
            dark=dark,
            outliers=movie.outliers,
            acquisition=ACQUISITION,
            processing=PROCESSING,
            even_odd=OUTPUT.even_odd,
            power_spectrum_wanted=OUTPUT.power_spectrum,
        )

    return device.correct(work, movie.frames, movie.gain, None, movie.demand)


def _measure(device: CudaDevice, cupy: Any, movie: Given, copied: float) -> None:
    """Print what a movie takes: seconds of each stage, memory, bytes per second of transfers and kernels."""
    n_frames, ny, nx = movie.frames.shape
    print(f"{nx} x {ny} x {n_frames}, {movie.frames.nbytes / 1e9:.2f} GB of counts")
    _corrected(device, movie)  # compiles
    gpu.free_unused()
    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes()
    planned = device._plan(movie.demand)
    best: tuple[float, MicrographResult] | None = None
    for _ in range(REPEATS):
        start = perf_counter()
        result = _corrected(device, movie)
        seconds = perf_counter() - start
        best = min(best or (seconds, result), (seconds, result), key=lambda it: it[0])
    assert best is not None
    stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in best[1].timings_s.items())
    print(f"  counts in memory to sums in memory {best[0]:.3f} s: {stages}")
    print(f"  motion: {best[1].motion.kind}, {best[1].motion.reason}")
    taken = pool.total_bytes() - before
    stay = "all frames stay" if planned.resident else "frames come as they are needed"
    print(
        f"  memory {taken / 1e9:.2f} GB, planned {planned.bytes / 1e9:.2f} GB: {stay}, "
        f"{planned.at_a_time} at a time"
    )
    for name, n_bytes, seconds in _kernels(device, cupy, movie):
        rate = n_bytes / seconds
        print(
            f"  {name:16} {1e3 * seconds:8.2f} ms  {rate / 1e9:7.1f} GB/s  {100 * rate / copied:4.0f} % of a copy"
        )


def _kernels(device: Device, cupy: Any, movie: Given) -> list[tuple[str, int, float]]:
    """Name, bytes that must be moved at least, and seconds on the device, of transfers and of the two large passes."""
    ny, nx = movie.shape
    factor = movie.demand.binning
    replaced = kernels.plan_outliers(movie.outliers, movie.shape)
    nodes = [len(axis) for axis in kernels.node_positions(movie.shape)]
    rng = np.random.default_rng(4)
    n_frames, n_sums = len(movie.frames), RANK + OUTPUT.even_odd
    shifts = rng.uniform(-5, 5, (n_frames, 1, 1, 2)) + rng.uniform(-0.5, 0.5, (n_frames, *nodes, 2))
    coefficients = rng.normal(0, 1, (n_frames, n_sums)).astype(np.float32)
    references = 2 * movie.gain.nbytes

    def work(frames: Any, gain: Any, _: Any) -> list[tuple[str, int, float]]:
        offset = namespace(gain).zeros(gain.shape, np.float32)
        uploader = gpu.PinnedUploader()

        def bring() -> None:
            again = DeviceFrames(movie.frames, uploader, at_a_time=frames.at_a_time, resident=False)
            for first in range(0, n_frames, frames.at_a_time):
                again.on_device(first, min(first + frames.at_a_time, n_frames))

        def reduce() -> Any:
            return kernels.reduce(frames, gain, offset, replaced, factor=factor)

        def correct() -> Any:
            return kernels.correct(
                frames,
                gain,
                offset,
                replaced,
                shifts=shifts.astype(np.float32),
                coefficients=coefficients,
            )

        small = 4 * n_frames * (ny // factor) * (nx // factor)
        return [
            ("host to device", movie.frames.nbytes, _seconds(cupy, bring)),
            ("device to host", movie.gain.nbytes, _seconds(cupy, lambda: to_host(gain))),
            ("reduce", movie.frames.nbytes + references + small, _seconds(cupy, reduce)),
            (
                "correct",
                movie.frames.nbytes + references + n_sums * movie.gain.nbytes,
                _seconds(cupy, correct),
            ),
        ]

    return device.correct(work, movie.frames, movie.gain, None, movie.demand)


def _seconds(cupy: Any, work: Callable[[], Any]) -> float:
    """Between two events on the device, the best of some, once it is warm."""
    found = []
    for _ in range(1 + REPEATS):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return max(min(found[1:]), 1e-9)


def _copy_rate(device: Device, cupy: Any) -> float:
    """Bytes read and written per second by a copy within the device: what kernels are held against."""
    n_bytes = min(COPIED_BYTES, cupy.cuda.Device(0).mem_info[1] // 64)

    def work() -> float:
        source = cupy.zeros(n_bytes // 4, np.float32)
        return 2 * n_bytes / _seconds(cupy, source.copy)

    return device.call(work)


def _difference(device: Device, movie: Given) -> float:
    """Largest RMS difference of a picture from the CPU's, over the spread of that."""
    ours, theirs = _corrected(device, movie), _corrected(CPU, movie)
    names = ("sum_unweighted", "sum_dose_weighted", "sum_even", "sum_odd", "power_spectrum")
    pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
    return max(float(np.sqrt(np.square(one - other).mean()) / other.std()) for one, other in pairs)


def _session(place: Path, device: Device, movie: Given, kind: str, n_movies: int, n_workers: int) -> None:
    """Print how many movies a second go from files in the page cache to results, archives among them."""
    shutil.rmtree(place, ignore_errors=True)
    camera, state = place / "camera", place / "state"
    camera.mkdir(parents=True)
    state.mkdir()
    folder = WatchFolder.model_validate(
        {
            "directory": camera,
            "acquisition": {"pixel_size_angstrom": 0.83, "voltage_kv": 300, "dose_per_frame": 1.2},
            "references": {"gain": camera / "gain.mrc"},
        }
    )
    settings = Settings(
        state_directory=state,
        watch=(folder,),
        output=OUTPUT.model_copy(update={"directory": place / "output", "min_free_gb": 0}),
        workers=Workers(devices=("cuda:0",)),
    )
    write_mrc(camera / "gain.mrc", movie.gain, pixel_size_angstrom=0.83)
    _write_as(camera / f"movie.{kind}", movie.frames, kind)
    with Store(state).open() as store:
        for number in range(n_workers + n_movies):
            path = camera / f"movie_{number:03d}.{kind}"
            shutil.copy(camera / f"movie.{kind}", path)
            status = path.stat()
            candidate = Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)
            described = describe(candidate, folder, PROCESSING, reference_directory=None)
            store.add_movie(
                replace(described, koma=settings.koma.model_dump(), series=series_of(described, camera))
            )
        n_measured, wall, cpu = _work_off(store, settings, device, n_workers)
    states = [job.state for job in list_jobs(state)]
    print(
        f"{n_workers} worker(s), {n_measured} movies {kind:4} {movie.frames.nbytes / 1e9:.2f} GB each, with archive: "
        f"{n_measured / wall:.2f} movies/s, {cpu / wall:.1f} of {os.cpu_count()} cores busy, "
        f"{states.count('done')} of {len(states)} jobs done",
        flush=True,
    )
    shutil.rmtree(place)
    if states.count("done") != len(states):
        raise SystemExit("not every job was done")


def _write_as(path: Path, frames: Frames, kind: str) -> None:
    if kind == "mrcz":
        write_mrcz(path, frames, pixel_size_angstrom=0.83, voltage_kv=300.0, cs_mm=2.7, metadata={})
    else:
        write_movie(path, frames, "tiff-lzw" if kind == "tif" else "mrc", pixel_size_angstrom=0.83)


def _work_off(store: Store, settings: Settings, device: Device, n_workers: int) -> tuple[int, float, float]:
    """Do all jobs; gives movies, wall and CPU seconds after the first ones, with which the workers warm up."""
    warm: list[tuple[int, float, float]] = []

    def is_done() -> bool:
        store.release_koma_held()
        jobs = list_jobs(settings.state_directory)
        done = sum(job.state == "done" and job.kind == JobKind.CORRECT for job in jobs)
        if done >= n_workers and not warm:
            warm.append((done, perf_counter(), _cpu_seconds()))
        return all(job.state in {"done", "failed"} for job in jobs)

    def now() -> tuple[int, float, float]:
        first, start, before = warm[0]
        n_movies = len(list_jobs(settings.state_directory)) // 2
        return n_movies - first, perf_counter() - start, _cpu_seconds() - before

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    if n_workers == 1:
        line = AssemblyLine(settings, store, "bench", device)
        line.start()
        _wait(is_done, lambda: line.status() is None)
        used = now()
        line.stop()
        _wait(lambda: line.status() is not None, lambda: True)
    else:
        gpu.free_unused()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        share = WorkerDevice(device="cuda:0", memory_fraction=MEMORY_FRACTION / n_workers, visible=visible)
        supervisor = Supervisor(store, settings, choice=Choice(devices=(share,) * n_workers, reason="bench"))
        supervisor.start()

        def look_after(*, starting: bool = True) -> bool:
            supervisor.tick(starting=starting)
            return True

        try:
            _wait(is_done, look_after)
            used = now()
            supervisor.drain()
            _wait(lambda: supervisor.n_alive == 0, lambda: look_after(starting=False))
        finally:
            supervisor.kill()
    structlog.reset_defaults()
    return used


def _cpu_seconds() -> float:
    """Of this process and the workers that it started."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return float(sum(it.user + it.system for it in times))


def _wait(condition: Callable[[], bool], is_well: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if not is_well() or time.monotonic() > deadline:
            raise SystemExit("the session did not end")
        time.sleep(0.05)
