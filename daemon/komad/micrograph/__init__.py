"""What comes out: the sums and the power spectrum."""

from komad.micrograph.correct import Sums, correct_frames
from komad.micrograph.spectrum import power_spectrum

__all__ = ["Sums", "correct_frames", "power_spectrum"]
