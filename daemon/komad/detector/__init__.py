"""What the camera did to the picture: dark, gain, outlier pixels, its own pattern, frames without beam."""

from komad.detector.beam import leave_out_unlit
from komad.detector.calibration import Calibration, calibrate, without_pattern
from komad.detector.correlation import frame_correlations
from komad.detector.facts import stack_facts
from komad.detector.gamma import gamma_of
from komad.detector.koma import RunningTotal, measure_pattern
from komad.detector.outliers import find_outliers
from komad.detector.warnings import detector_warnings
from komad.detector.window import choose_window

__all__ = [
    "Calibration",
    "RunningTotal",
    "calibrate",
    "choose_window",
    "detector_warnings",
    "find_outliers",
    "frame_correlations",
    "gamma_of",
    "leave_out_unlit",
    "measure_pattern",
    "stack_facts",
    "without_pattern",
]
