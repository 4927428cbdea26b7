"""What comes out: the sums and the power spectrum."""

from komad.micrograph.correct import Sums, correct_frames, fourier_crop, output_shape
from komad.micrograph.groups import group_sums, groups_for_spectrum, successive_groups
from komad.micrograph.nodes import shifts_at_nodes_px
from komad.micrograph.spectrum import power_spectrum
from komad.micrograph.weights import weights_of_sums

__all__ = [
    "Sums",
    "correct_frames",
    "fourier_crop",
    "group_sums",
    "groups_for_spectrum",
    "output_shape",
    "power_spectrum",
    "shifts_at_nodes_px",
    "successive_groups",
    "weights_of_sums",
]
