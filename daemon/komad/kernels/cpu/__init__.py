"""The hot loops with numba. Each compiled loop works on a band and releases the interpreter lock."""

from komad.kernels.cpu.counts import reduce, sum_frames
from komad.kernels.cpu.fused import correct
from komad.kernels.cpu.spectra import add_filtered, shift_gradient, shifted_sum

__all__ = ["add_filtered", "correct", "reduce", "shift_gradient", "shifted_sum", "sum_frames"]
