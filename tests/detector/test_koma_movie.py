"""KOMA on whole movies: what the pipeline takes off and tells of it, and what motion gains."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from komad.config import Processing
from komad.detector import Calibration, RunningTotal, calibrate, measure_pattern
from komad.model import Acquisition, MicrographResult, Pattern, StackSum
from komad.pipeline import aligned_stack, correct_movie, sum_stack
from komad.simulate import MovieSpec, SimulatedMovie, simulate_movie
from komad.simulate.ageing import Ageing, ageing_camera
from komad.simulate.detector import Detector, illumination
from tests.bench.field import field_error_px, true_field

SPEC = MovieSpec(
    ny=768,
    nx=768,
    n_frames=12,
    dose_per_frame=3.0,
    pixel_size_angstrom=1.25,
    gain_error=0.03,
    hot_per_megapixel=400.0,
    seed=3,
)
PROCESSING = Processing()


@dataclass(frozen=True, kw_only=True)
class Session:
    """The last movie of a session on a camera with a stale gain, and what its 24 neighbours tell."""

    movie: SimulatedMovie
    stack: StackSum
    pattern: Pattern


def neighbour(camera: Detector, seed: int) -> StackSum:
    """A movie of ice, of which only the sum is wanted: one long frame."""
    expected = camera.expected(illumination(SPEC) * np.float32(SPEC.n_frames * SPEC.dose_e_per_px_frame))
    frame = np.random.default_rng(seed).poisson(expected)[None].astype(np.uint16)
    return sum_stack(frame, gain=camera.gain_reference, dark=None, defects=None, processing=PROCESSING)


@pytest.fixture(scope="module")
def session() -> Session:
    """Columns drift, hot pixels come."""
    cameras = list(islice(ageing_camera(SPEC, Ageing(column_spread=0.02)), 25))
    gain = calibrate(SPEC.shape, gain=cameras[0].gain_reference, dark=None)
    total = RunningTotal(SPEC.shape)
    for seed, camera in enumerate(cameras[:-1]):
        total.add(neighbour(camera, seed), gain)
    movie = simulate_movie(SPEC, detector=cameras[-1])
    stack = sum_stack(movie.frames, gain=movie.gain, dark=None, defects=None, processing=PROCESSING)
    pattern = measure_pattern(total, stack, gain)
    assert pattern is not None
    return Session(movie=movie, stack=stack, pattern=pattern)


def corrected(session: Session, **asked: object) -> MicrographResult:
    """The micrographs."""
    given = {"gain": session.movie.gain, "outliers": session.stack.outliers} | asked
    return correct_movie(
        session.movie.frames,
        dark=None,
        acquisition=Acquisition(
            pixel_size_angstrom=SPEC.pixel_size_angstrom,
            voltage_kv=SPEC.voltage_kv,
            dose_per_frame=SPEC.dose_per_frame,
        ),
        processing=PROCESSING,
        even_odd=False,
        power_spectrum_wanted=False,
        **given,  # type: ignore[arg-type]
    )


def field_error(result: MicrographResult, session: Session) -> float:
    """RMS error of the displacement field, px."""
    at = (np.linspace(-0.5, n - 0.5, 17) for n in SPEC.shape)
    measured = -np.moveaxis(result.motion.shifts_on_grid_px(*at), -1, 1)
    return field_error_px(measured, true_field(session.movie.truth))


def test_the_report_tells_each_step(session: Session) -> None:
    """Correlated noise falls three-fold with outliers, further with KOMA; without a pattern the last two are equal."""
    with_koma, without = corrected(session, pattern=session.pattern), corrected(session)
    on, off = with_koma.detector, without.detector
    assert on.correlation_raw > 3 * on.correlation_outliers > 3 * 1.4 * on.correlation_koma
    assert off.correlation_koma == off.correlation_outliers == on.correlation_outliers
    assert off.n_hot == session.stack.outliers.n_hot > 0
    assert with_koma.sum_unweighted.mean() == pytest.approx(without.sum_unweighted.mean(), rel=1e-3)


def test_motion_with_a_stale_gain_is_as_good_as_with_a_right_one(session: Session) -> None:
    """A gain 3 % wrong and columns that drift: within 10 % of the field error with the camera's true response."""
    response = session.movie.detector.response
    right = np.where(response > 0, 1 / np.maximum(response, 1e-3), 0).astype(np.float32)
    best = field_error(corrected(session, gain=right), session)
    for method in ("subtract", "divide"):
        with_koma = corrected(session, pattern=session.pattern, koma_method=method)
        assert field_error(with_koma, session) < 1.1 * best


def test_the_aligned_stack_has_it_off_too(session: Session) -> None:
    """The frames of the aligned stack add up to the sum, with KOMA as without."""
    result = corrected(session, pattern=session.pattern)
    frames = list(
        aligned_stack(
            session.movie.frames,
            gain=session.movie.gain,
            dark=None,
            outliers=session.stack.outliers,
            motion=result.motion,
            processing=PROCESSING,
            group=1,
            pattern=session.pattern,
        )
    )
    inner = np.s_[64:-64, 64:-64]
    np.testing.assert_allclose(np.sum(frames, axis=0)[inner], result.sum_unweighted[inner], atol=1e-2)


def test_a_first_movie_is_its_own_best_guess(session: Session) -> None:
    """With a single neighbour the pattern is weak, and correlated noise no stronger than without it."""
    gain: Calibration = calibrate(SPEC.shape, gain=session.movie.gain, dark=None)
    total = RunningTotal(SPEC.shape)
    total.add(neighbour(session.movie.detector, 99), gain)
    pattern = measure_pattern(total, session.stack, gain)
    assert pattern is not None
    report = corrected(session, pattern=pattern).detector
    assert report.correlation_koma < report.correlation_outliers
