"""Fourier ring correlation of a dose-weighted sum with the specimen itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RectBivariateSpline

from komad import kernels
from komad.config import Processing
from komad.detector import calibrate
from komad.micrograph import correct_frames
from komad.optics.exposure import dose_weights, factorise, signal_left
from komad.optics.frequency import rfft_radius
from komad.pipeline import sum_stack
from komad.simulate import MotionTruth, MovieSpec
from komad.simulate.scene import Scene
from tests.bench.field import edge_to_edge, since_first, true_field

FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]

N_BANDS = 12
"""From zero to Nyquist, evenly spaced."""
MARGIN = 1 / 16
"""Of the field at each side: left out, and as much again fades in."""
SMALLEST_FREQUENCY = 1 / 64
"""Cycles per pixel. Below is the illumination."""
WEIGHTED_AT = 0.2
"""1/Å. The frames count as the dose weights have them here, for where the picture lies."""


def noise_free(scene: Scene, field: FloatArray) -> Picture:
    """The intact specimen where a sum lies that was corrected by `field` (n_frames, 2, 17, 17).

    It is drawn where the first frame has it, less the mean error of the field there. A displacement that is wrong by
    the same in all frames moves or bends the picture and blurs nothing, and nobody can measure it: so any constant
    offset and any static distortion is followed, and only errors that differ between frames lower the correlation.
    The mean is over frames as the dose weights at WEIGHTED_AT count them.
    """
    spec, truth = scene.spec, scene.truth
    left = signal_left(np.array([WEIGHTED_AT]), _dose(spec), voltage_kv=spec.voltage_kv)[:, 0]
    error = np.average(field - true_field(truth), axis=0, weights=np.square(left))
    bend = [RectBivariateSpline(*map(edge_to_edge, spec.shape), along) for along in error]

    def displacement(y: FloatArray, x: FloatArray) -> FloatArray:
        moved = truth.displacement_px(0, y, x)
        return moved - np.stack([along.ev(y + moved[..., 0], x + moved[..., 1]) for along in bend], axis=-1)

    return scene.undamaged(displacement)


def _dose(spec: MovieSpec) -> FloatArray:
    """(n_frames,) e/Å² at the end of each frame."""
    return spec.pre_exposure + spec.dose_per_frame * np.arange(1, spec.n_frames + 1)


def oracle_sum(frames: npt.NDArray[np.uint8], gain: Picture, spec: MovieSpec, truth: MotionTruth) -> Picture:
    """Dose-weighted sum by komad's own pass with the true field."""
    stack = sum_stack(frames, gain=gain, dark=None, defects=None, processing=Processing())
    calibration = calibrate(spec.shape, gain=gain, dark=None)
    frequency = np.linspace(0, np.sqrt(0.5), 1024)
    left = signal_left(frequency / spec.pixel_size_angstrom, _dose(spec), voltage_kv=spec.voltage_kv)
    sums = correct_frames(
        frames,
        calibration.gain,
        calibration.offset,
        kernels.plan_outliers(stack.outliers, spec.shape),
        shifts_px=-since_first(truth, *kernels.node_positions(spec.shape)).astype(np.float32),
        used=np.ones(spec.n_frames, bool),
        weights=factorise(dose_weights(left), frequency),
        even_odd=False,
        bin_factor=1.0,
    )
    assert sums.dose_weighted is not None
    return sums.dose_weighted


def ring_correlation(picture: Picture, specimen: Picture) -> FloatArray:
    """(12,) correlation in bands of spatial frequency, over the middle of the field, slopes taken out."""
    spectra = [np.fft.rfft2(_middle(image)) for image in (picture, specimen)]
    radius = rfft_radius(_middle_shape(picture.shape))
    band = np.where(radius < SMALLEST_FREQUENCY, N_BANDS, (radius * 2 * N_BANDS).astype(int)).ravel()

    def sums(values: npt.NDArray[np.complex128]) -> FloatArray:
        return np.bincount(band, values.real.ravel(), minlength=N_BANDS)[:N_BANDS]

    a, b = spectra
    power = sums(a * a.conj()) * sums(b * b.conj())
    return np.divide(sums(a * b.conj()), np.sqrt(power), out=np.full(N_BANDS, np.nan), where=power > 0)


def _middle_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    ny, nx = (n - 2 * round(MARGIN * n) for n in shape)
    return ny, nx


def _middle(picture: Picture) -> FloatArray:
    ny, nx = _middle_shape(picture.shape)
    top, left = (round(MARGIN * n) for n in picture.shape)
    middle = picture[top : top + ny, left : left + nx].astype(np.float64)
    v, u = np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :]
    middle -= middle.mean()
    middle -= v * (middle * v).mean() / np.square(v).mean() + u * (middle * u).mean() / np.square(u).mean()
    return middle * _taper(ny, top)[:, None] * _taper(nx, left)


def _taper(length: int, fade: int) -> FloatArray:
    """(length,) from 0 to 1 over `fade` pixels at each end."""
    distance = np.minimum(np.arange(length) + 0.5, length - 0.5 - np.arange(length))
    return np.square(np.sin(np.pi / 2 * np.clip(distance / fade, 0, 1)))
