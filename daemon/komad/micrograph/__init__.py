"""What comes out: the sums and the power spectrum."""

from komad.micrograph.correct import Sums, correct_frames
from komad.micrograph.groups import group_sums
from komad.micrograph.nodes import shifts_at_nodes_px
from komad.micrograph.spectrum import power_spectrum
from komad.micrograph.weights import weights_of_sums

__all__ = [
    "Sums",
    "correct_frames",
    "group_sums",
    "power_spectrum",
    "shifts_at_nodes_px",
    "weights_of_sums",
]
