"""The hot loops with numba. Each compiled loop works on a band and releases the interpreter lock."""

from komad.kernels.cpu.alignment import aligned_sum, alignment_gradient
from komad.kernels.cpu.counts import reduce, sum_frames
from komad.kernels.cpu.fused import correct
from komad.kernels.cpu.spectra import add_filtered

__all__ = [
    "add_filtered",
    "aligned_sum",
    "alignment_gradient",
    "correct",
    "reduce",
    "sum_frames",
]
