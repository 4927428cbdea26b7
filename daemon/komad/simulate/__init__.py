"""Movies with exact ground truth, and a fake microscope that writes them as a camera would."""

from komad.simulate.movie import SimulatedMovie, simulate_movie
from komad.simulate.spec import MovieSpec
from komad.simulate.truth import MotionTruth, read_truth, write_truth
from komad.simulate.write import write_movie

__all__ = [
    "MotionTruth",
    "MovieSpec",
    "SimulatedMovie",
    "read_truth",
    "simulate_movie",
    "write_movie",
    "write_truth",
]
