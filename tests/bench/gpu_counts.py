"""What a movie asks of a GPU, stage by stage: launches, transfers and waits, counted where the host plays the device.

Counts, not times: `python -m tests.bench.gpu_counts`. What it prints stands in docs/benchmarks.md.
"""

from __future__ import annotations

from collections import Counter

from komad.arrays import DeviceFrames
from komad.arrays.gpu import PinnedUploader
from komad.memory import plan
from komad.pipeline import correct_movie
from tests.bench.gpu import ACQUISITION, OUTPUT, PROCESSING, SIZES, Given, _movie
from tests.device import COUNTS, device_on_the_host

BUDGET_BYTES = 10**11
COLUMNS = ("kernels", "operations", "transfers to", "bytes to", "transfers from", "bytes from", "waits")


def counted(movie: Given) -> dict[str, Counter[str]]:
    """What each stage asked for; the pictures that go to the host come last."""
    found: dict[str, Counter[str]] = {}
    before: Counter[str] = Counter()
    name = ""

    def on_stage(following: str) -> None:
        nonlocal before, name
        now = Counter(COUNTS)
        found[name] = now - before
        before, name = now, following

    with device_on_the_host() as cupy:
        planned = plan(movie.demand, BUDGET_BYTES)
        gain = cupy.asarray(movie.gain)
        frames = DeviceFrames(
            movie.frames, PinnedUploader(), at_a_time=planned.at_a_time, resident=planned.resident
        )
        before = Counter(COUNTS)
        result = correct_movie(
            frames,
            gain=gain,
            dark=None,
            outliers=movie.outliers,
            acquisition=ACQUISITION,
            processing=PROCESSING,
            even_odd=OUTPUT.even_odd,
            power_spectrum_wanted=OUTPUT.power_spectrum,
            on_stage=on_stage,
        )
        on_stage("")
    del found[""]
    print(f"{result.motion.kind} motion, {result.motion.n_iterations} rounds of whole frames")
    return found


def main() -> None:
    """Print the table."""
    found = counted(_movie(SIZES[0]))
    print("| stage | " + " | ".join(COLUMNS) + " |")
    for name, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        print(f"| {name} | " + " | ".join(f"{counts[column]:,}" for column in COLUMNS) + " |")


if __name__ == "__main__":
    main()
