"""How much of a GPU's memory a movie takes, and how its frames are brought there: arithmetic, no device.

What each stage of `pipeline.correct_movie` holds at its fullest; a plane is a picture of 32-bit floats as large as a
frame. tests/test_memory.py holds it against what movies take.
"""

from __future__ import annotations

from dataclasses import dataclass

from komad.arrays import GPU_PORTION_BYTES
from komad.config import Output, Processing
from komad.errors import DeviceMemoryError
from komad.micrograph.weights import RANK, RANK_WITH_MOTION

GROUP_BYTES = 2**29
"""Of planes that are worked on together: more frames at a time make nothing faster."""
N_BUFFERS = 2
"""Groups of counts on the device when a movie does not stay there: one arrives while another is read."""
CALIBRATING = 3.25
"""Planes while factor and summand are made, beside them; the gain and dark themselves were there before."""
SAMPLED_PIXELS = 2**16
"""Of each frame, where the noise that frames have in common is measured; 8 bytes each, and those of the count."""
OF_A_FRAME = 1 + 10 / 32
"""Planes of a frame that is corrected: itself, and where each block of 4 x 8 pixels comes from, twice."""
SUMMING = 2
"""Planes beside the running sums: the plain sum, and how many frames cover each pixel."""
FILTERING = 4
"""Planes beside the running sums: the transform of one, the sum of all, its copy for the inverse, the picture."""
MOTION = 7
"""Stacks of small frames: they, moved ones, sums of them in groups, transforms of these in patches that overlap."""
SPECTRUM_TILES = 8
"""Tiles of the power spectrum, at least 512 x 512, that are there at one time."""
PLANS = 4
"""Planes of work space in cuFFT's plans, two for each direction."""
PLAN_BYTES = 2**30
"""More than this only where a plane for each direction is more: an estimate, what cuFFT takes it says when it plans."""
SLACK = 1.1
"""For all that is small, and for gaps between what is allocated."""
ADVICE = (
    "raise workers.gpu_memory_fraction, end other programs on the GPU, or let fewer workers share it: see "
    "workers.devices"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What the memory depends on."""

    n_frames: int
    shape: tuple[int, int]
    """(ny, nx)."""
    itemsize: int
    """Bytes per count."""
    binning: int
    """Pixels per small pixel."""
    rank: int
    """Running sums of one weighted sum."""
    even_odd: bool
    """One running sum more."""
    n_before: int
    """Finished pictures that are there while the last sums are made."""
    n_pictures: int
    """Finished pictures in the end."""
    has_pattern: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a movie is brought to the device."""

    at_a_time: int
    """Frames that are worked on together."""
    resident: bool
    """Whether the counts stay; else they come anew for every pass."""
    bytes: int
    """Most that is taken at any time, beside what was there before."""


def demand_of(
    n_frames: int,
    shape: tuple[int, int],
    itemsize: int,
    *,
    binning: int,
    processing: Processing,
    output: Output,
    has_pattern: bool,
) -> Demand:
    """What the settings of a movie ask for."""
    weighted = processing.dose_weighting
    halves = weighted and output.even_odd_weighted
    in_range = weighted and processing.sum_range is not None
    full = 1 if processing.bin_factor == 1 else 2
    return Demand(
        n_frames=n_frames,
        shape=shape,
        itemsize=itemsize,
        binning=binning,
        rank=(RANK_WITH_MOTION if processing.in_frame_motion else RANK) if weighted else 1,
        even_odd=output.even_odd,
        n_before=1 + output.even_odd + weighted + halves if halves or in_range else 0,
        n_pictures=full + 2 * output.even_odd + weighted + 2 * halves + in_range,
        has_pattern=has_pattern,
    )


def plan(demand: Demand, budget_bytes: int) -> Plan:
    """The plan with the fewest transfers that fits: the whole movie on the device, else as many frames as go in.

    Raises
    ------
    DeviceMemoryError
        Not even single frames fit; says how much is needed.
    """
    ny, nx = demand.shape
    most = max(1, min(demand.n_frames, GROUP_BYTES // (4 * ny * nx)))
    ways = [(most >> halvings, stays) for stays in (True, False) for halvings in range(most.bit_length())]
    for at_a_time, resident in ways:
        needed = needed_bytes(demand, at_a_time, resident=resident)
        if needed <= budget_bytes:
            return Plan(at_a_time=at_a_time, resident=resident, bytes=needed)
    raise DeviceMemoryError(
        f"{demand.n_frames} frames of {nx} x {ny} pixels need {needed / 1e9:.2f} GB of the GPU even one at a time, "
        f"and {max(budget_bytes, 0) / 1e9:.2f} GB are left for this worker; {ADVICE}"
    )


def halved(demand: Demand, before: Plan) -> Plan:
    """A plan for when `before` took more than there was: half as many frames at a time, none of which stays."""
    at_a_time = max(1, before.at_a_time // 2)
    return Plan(at_a_time=at_a_time, resident=False, bytes=needed_bytes(demand, at_a_time, resident=False))


def needed_bytes(demand: Demand, at_a_time: int, *, resident: bool) -> int:
    """Most that a correct job takes at any time, its references aside."""
    ny, nx = demand.shape
    plane = 4 * ny * nx
    counts = demand.itemsize * ny * nx * (demand.n_frames if resident else N_BUFFERS * at_a_time)
    small = 4 * demand.n_frames * (ny // demand.binning) * (nx // demand.binning)
    portion = min(GPU_PORTION_BYTES, MOTION * small)
    sums = demand.rank + max(demand.even_odd, demand.n_before)
    summing = SUMMING + OF_A_FRAME * at_a_time
    tiles = SPECTRUM_TILES * max(2**20, plane // 8)
    # cuFFT's work space stays with its plans.
    plans = max(PLANS // 2 * plane, min(PLAN_BYTES, PLANS * plane + portion))
    stages = (
        CALIBRATING * plane,
        SAMPLED_PIXELS * (demand.n_frames + 1) * (demand.itemsize + 8),
        counts + at_a_time * plane + 2 * small,  # reduce
        counts + MOTION * small + portion + plans,
        counts + (sums + max(summing, FILTERING)) * plane + plans,
        counts + (demand.n_pictures + 2) * plane + max(tiles, (1 + summing) * plane) + plans,  # spectrum
    )
    return int(SLACK * ((2 + 2 * demand.has_pattern) * plane + max(stages)))
