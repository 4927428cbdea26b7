"""The hot loops with numba. Each compiled loop works on a band and releases the interpreter lock."""

from komad.kernels.cpu.alignment import aligned_sum, alignment_gradient
from komad.kernels.cpu.counts import reduce, sum_frames
from komad.kernels.cpu.deviation import (
    block_levels,
    deviating_pixels,
    deviation_histogram,
    flashing_pixels,
)
from komad.kernels.cpu.fused import correct
from komad.kernels.cpu.koma import add_fixed_point, block_moments, line_means, pixel_moments, shared_pattern
from komad.kernels.cpu.spectra import add_filtered, ring_plan, ring_sums

__all__ = [
    "add_filtered",
    "add_fixed_point",
    "aligned_sum",
    "alignment_gradient",
    "block_levels",
    "block_moments",
    "correct",
    "deviating_pixels",
    "deviation_histogram",
    "flashing_pixels",
    "line_means",
    "pixel_moments",
    "reduce",
    "ring_plan",
    "ring_sums",
    "shared_pattern",
    "sum_frames",
]
