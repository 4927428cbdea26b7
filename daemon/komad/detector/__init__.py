"""What the camera did to the picture: dark, gain, outlier pixels."""

from komad.detector.calibration import Calibration, calibrate
from komad.detector.outliers import find_outliers

__all__ = ["Calibration", "calibrate", "find_outliers"]
