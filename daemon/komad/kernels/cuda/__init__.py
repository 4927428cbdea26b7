"""The hot loops as CUDA kernels, launched through CuPy: the same numbers as `kernels.cpu`, loop for loop.

A function here uses what the arrays that it is given have (`namespace`); only `device.launch` knows of a device. So
the tests run all of this on the host, the same sources compiled by a C++ compiler.
"""

from komad.kernels.cuda.alignment import aligned_sum, alignment_gradient
from komad.kernels.cuda.frames import correct, reduce, sum_frames
from komad.kernels.cuda.koma import add_fixed_point, block_moments, line_means, pixel_moments, shared_pattern
from komad.kernels.cuda.spectra import add_filtered, ring_plan, ring_sums

__all__ = [
    "add_filtered",
    "add_fixed_point",
    "aligned_sum",
    "alignment_gradient",
    "block_moments",
    "correct",
    "line_means",
    "pixel_moments",
    "reduce",
    "ring_plan",
    "ring_sums",
    "shared_pattern",
    "sum_frames",
]
