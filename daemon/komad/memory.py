"""How much of a GPU's memory a movie takes, and how its frames are brought there: arithmetic, no device.

All that a correct job holds at one time, stage by stage, as multiples of three sizes: one plane (a picture of 32-bit
floats as large as a frame), the counts, and the small frames. tests/test_memory.py holds it against what is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from komad.config import Output, Processing
from komad.errors import DeviceMemoryError
from komad.micrograph.weights import RANK, RANK_WITH_MOTION

GROUP_BYTES = 2**29
"""Of planes that are worked on together: more frames at a time make nothing faster."""
N_BUFFERS = 2
"""Groups of counts on the device when a movie does not stay there: one arrives while another is read."""
CALIBRATION_PLANES = 4
"""Factor and summand, and what their making takes; the gain and dark themselves are there before."""
PATTERN_PLANES = 2
"""Factor and summand with the pattern."""
SUMMING_PLANES = 2
"""Beside the running sums: the plain sum, and how many frames cover each pixel."""
FILTER_PLANES = 8
"""Beside the running sums: a spectrum, its cropped copy, their sum, the picture, and cuFFT's work space."""
MOTION_SMALL = 8
"""Small frames, without what the beam does not light, moved, grouped; their spectra, those of patches that overlap."""
SLACK = 1.1
"""For all that is small, and for gaps between what is allocated."""


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
    n_pictures: int
    """Finished pictures that are there while the last sums are made."""
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
    rank = (RANK_WITH_MOTION if processing.in_frame_motion else RANK) if weighted else 1
    halves = 2 * output.even_odd_weighted if weighted else 0
    return Demand(
        n_frames=n_frames,
        shape=shape,
        itemsize=itemsize,
        binning=binning,
        rank=rank,
        even_odd=output.even_odd,
        n_pictures=1 + output.even_odd + weighted + halves,
        has_pattern=has_pattern,
    )


def plan(demand: Demand, budget_bytes: int) -> Plan:
    """The plan with the fewest transfers that fits: the whole movie on the device, else as many frames as go in.

    Raises
    ------
    DeviceMemoryError
        Not even single frames fit; says how much is needed.
    """
    most = max(1, min(demand.n_frames, GROUP_BYTES // _plane(demand)))
    tried = [(most, True)] + [(most >> halvings, False) for halvings in range(most.bit_length())]
    for at_a_time, resident in tried:
        needed = needed_bytes(demand, at_a_time, resident=resident)
        if needed <= budget_bytes:
            return Plan(at_a_time=at_a_time, resident=resident, bytes=needed)
    ny, nx = demand.shape
    raise DeviceMemoryError(
        f"{demand.n_frames} frames of {nx} x {ny} pixels need {needed / 1e9:.2f} GB of the GPU even one at a time, "
        f"and {max(budget_bytes, 0) / 1e9:.2f} GB are left for this worker; {ADVICE}"
    )


ADVICE = (
    "raise workers.gpu_memory_fraction, end other programs on the GPU, or let fewer workers share it: see "
    "workers.devices"
)


def halved(demand: Demand, before: Plan) -> Plan:
    """A plan for when `before` took more than there was: half as many frames at a time, none of which stays."""
    at_a_time = max(1, before.at_a_time // 2)
    return Plan(at_a_time=at_a_time, resident=False, bytes=needed_bytes(demand, at_a_time, resident=False))


def needed_bytes(demand: Demand, at_a_time: int, *, resident: bool) -> int:
    """Most that a correct job takes at any time, its references aside."""
    plane = _plane(demand)
    ny, nx = demand.shape
    n_counts = demand.n_frames if resident else N_BUFFERS * at_a_time
    small = 4 * demand.n_frames * (ny // demand.binning) * (nx // demand.binning)
    always = CALIBRATION_PLANES + PATTERN_PLANES * demand.has_pattern
    beside_sums = max(SUMMING_PLANES + at_a_time, FILTER_PLANES)
    stages = (
        at_a_time * plane + small,  # reduce
        MOTION_SMALL * small,
        (demand.rank + demand.even_odd + beside_sums) * plane,
        (demand.n_pictures + demand.rank + beside_sums) * plane,  # weighted halves, dose range
    )
    return int(SLACK * (n_counts * ny * nx * demand.itemsize + always * plane + max(stages)))


def _plane(demand: Demand) -> int:
    return 4 * demand.shape[0] * demand.shape[1]
