"""What the camera did to the picture: dark, gain, outlier pixels, frames without beam."""

from komad.detector.beam import leave_out_unlit
from komad.detector.calibration import Calibration, calibrate
from komad.detector.facts import stack_facts
from komad.detector.outliers import find_outliers
from komad.detector.warnings import detector_warnings

__all__ = ["Calibration", "calibrate", "detector_warnings", "find_outliers", "leave_out_unlit", "stack_facts"]
