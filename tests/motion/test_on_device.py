"""Motion measured on a device, which the host plays: the same as on the CPU, with few transfers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from komad import kernels
from komad.config import Processing
from komad.model import MotionModel
from komad.motion import estimate_motion
from komad.motion.global_shifts import _highest, _peaks, _window, refine
from komad.motion.local_field import TERM_ORDERS, _score_paths, field_basis
from komad.motion.pattern import Sums, fit_ratio
from komad.motion.spectra import Spectra, make_rings
from komad.motion.weights import Weighting
from tests.device import DeviceArray, device_on_the_host
from tests.motion.movies import Movie, crystal, measure, simulate
from tests.motion.synthetic import draw, falling_q, grid

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture
def cupy() -> Iterator[Any]:
    """The device's arrays, on the host."""
    with device_on_the_host() as module:
        yield module


class Waits:
    """How often the host waited for the device."""

    n = 0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Counts what brings numbers to the host."""
    count = Waits()

    def counted(name: str) -> None:
        original = getattr(DeviceArray, name)

        def run(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
            count.n += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(DeviceArray, name, run)

    for name in ("get", "__float__", "__int__", "__bool__"):
        counted(name)
    return count


@pytest.fixture(scope="module")
def movie() -> Movie:
    """Local motion, and a path that whole frames show."""
    return simulate(corners_angstrom=15.0, seed=1, length=768)


def assert_same(there: MotionModel, here: MotionModel) -> None:
    """Shifts and field to 0.01 px, and the same decisions."""
    assert (there.kind, there.n_iterations, there.reason) == (here.kind, here.n_iterations, here.reason)
    assert isinstance(there.shifts_px, np.ndarray)
    np.testing.assert_allclose(there.shifts_px, here.shifts_px, atol=0.01)
    assert there.shift_error_px == pytest.approx(here.shift_error_px, rel=1e-3)
    assert there.fixed_pattern == pytest.approx(here.fixed_pattern, rel=1e-3, abs=1e-6)
    assert (there.local is None) == (here.local is None)
    if there.local is not None and here.local is not None:
        at = np.linspace(-0.5, 767.5, 9)
        np.testing.assert_allclose(there.local.on_grid(at, at), here.local.on_grid(at, at), atol=0.01)
        assert np.abs(here.local.on_grid(at, at)).max() > 1


@pytest.mark.parametrize("weight", ["optimal", "b_factor", "phase_only"])
def test_a_local_field(cupy: Any, movie: Movie, weight: str) -> None:
    """Whole frames and field are those of the CPU, whatever the weight."""
    here = measure(movie, alignment_weight=weight)
    assert here.kind == "local"
    there = measure(replace(movie, small=cupy.asarray(movie.small)), alignment_weight=weight)
    assert_same(there, here)


def test_groups_of_frames(cupy: Any, movie: Movie) -> None:
    """Frames that are added before they are aligned."""
    here = measure(movie, group_frames=(2, 3))
    assert_same(measure(replace(movie, small=cupy.asarray(movie.small)), group_frames=(2, 3)), here)


def test_a_dark_part(cupy: Any, movie: Movie) -> None:
    """What the beam does not light is faded out."""
    distance = np.hypot(*np.indices(movie.small.shape[1:]))
    dark = replace(movie, small=movie.small * np.clip((distance - 100) / 30, 0, 1).astype(np.float32))
    assert_same(measure(replace(dark, small=cupy.asarray(dark.small))), measure(dark))


def test_a_fixed_pattern(cupy: Any) -> None:
    """A gain that is off by 3 % of each pixel: the pattern has the same power."""
    movie = simulate(seed=1, length=768, gain_error=0.03, local_motion=0.0)
    here = measure(movie)
    assert here.fixed_pattern > 0.02
    assert_same(measure(replace(movie, small=cupy.asarray(movie.small))), here)


@pytest.mark.parametrize(("contrast", "seed"), [(2.0, 1), (0.3, 2)])
def test_a_crystal(cupy: Any, contrast: float, seed: int) -> None:
    """Frames that fit at every unit cell stay together, as on the CPU."""
    frames, displacement = crystal(contrast, seed)

    def measured(small: Any) -> MotionModel:
        return estimate_motion(
            small,
            used=np.ones(len(small), bool),
            shape=(160, 160),
            binning=1,
            pixel_size_angstrom=4.0,
            exposure=1.2 * np.arange(1, len(small) + 1),
            voltage_kv=300,
            processing=Processing(local_motion=False),
        )

    there = measured(cupy.asarray(frames))
    assert_same(there, measured(frames))
    error = there.shifts_px + displacement
    assert np.abs(error - error.mean(axis=0)).max() < 0.5


def test_waits_of_a_movie_are_few(cupy: Any, movie: Movie, waits: Waits) -> None:
    """A few for each round and stage, however many frames and patches there are."""
    measure(replace(movie, small=cupy.asarray(movie.small)))
    assert 0 < waits.n < 110


def on_device(cupy: Any, spectra: Spectra) -> Spectra:
    """The same on the device."""
    index = cupy.asarray(spectra.rings.index)
    plan = kernels.ring_plan(index, len(spectra.rings.count))
    rings = replace(spectra.rings, index=index, plan=plan)
    return replace(spectra, values=cupy.asarray(spectra.values), rings=rings)


def test_waits_of_a_round_of_whole_frames(cupy: Any, waits: Waits) -> None:
    """Two for powers, two for the gradients of specimen and pattern, once the powers have settled."""
    rings, shifts = grid(64), np.linspace([2, -1], [-2, 1], 12)
    made = draw(rings, signal=1.0, q=falling_q(12, rings), shifts=shifts, pattern=0.5)
    there = on_device(cupy, made.spectra)

    def waits_of(rounds: int) -> int:
        before = waits.n
        found = refine(
            there,
            cupy.asarray(made.plain),
            0.8 * shifts,
            moments=np.arange(12) * 1.2,
            weighting=Weighting(kind="optimal", b_factor_angstrom2=500.0, small_pixel=4.0),
            trusted=True,
            max_rounds=rounds,
            tolerance=0,
        )
        assert found.pattern > 0
        return waits.n - before

    assert waits_of(9) - waits_of(4) == 5 * 4


def test_waits_of_a_round_of_patches(cupy: Any, waits: Waits) -> None:
    """One for the powers of all patches, one for all gradients."""
    rings, n_knots = grid(32), 6
    y, x = (axis.ravel() for axis in np.meshgrid([20.0, 50.0, 80.0], [20.0, 50.0, 80.0], indexing="ij"))
    made = draw(rings, signal=2.0, q=np.ones((n_knots, 16)), strength=np.ones(9))
    there, still = on_device(cupy, made.spectra), np.zeros((len(TERM_ORDERS), n_knots, 2))

    def waits_of(rounds: int) -> int:
        before = waits.n
        _score_paths(
            there,
            field_basis(y, x, (100, 100)),
            TERM_ORDERS,
            np.arange(n_knots) * 3.0,
            applied=still,
            start=still,
            weighting=Weighting(kind="optimal", b_factor_angstrom2=500.0, small_pixel=4.0),
            max_rounds=rounds,
            tolerance=0,
        )
        return waits.n - before

    assert waits_of(4) - waits_of(1) == 3 * 2


def test_peaks_of_all_frames_come_at_once(cupy: Any, waits: Waits) -> None:
    """One wait for the highest peaks of a stack, and one for all peaks; values as on the CPU."""
    rings = make_rings((64, 64), n_rings=16, low=0.03)
    made = draw(rings, signal=np.exp(-20 * rings.frequency), q=falling_q(7, rings), strength=np.ones(1))
    spectra, window = made.spectra, _window((64, 64), 20.0)
    cross = (spectra.values[0] * spectra.values[0, ::-1].conj()).astype(np.complex64)
    highest, peaks = (
        _highest(spectra, window, cross.copy(), origin=False),
        _peaks(spectra, window, cross.copy()),
    )
    there = on_device(cupy, spectra), cupy.asarray(window), cupy.asarray(cross)
    np.testing.assert_allclose(_highest(*there, origin=False), highest, atol=1e-3)
    assert waits.n == 1
    found = _peaks(*there)
    assert waits.n == 2
    for ours, theirs in zip(found, peaks, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert max(len(of_frame) for of_frame in peaks) > 1


def test_powers_of_the_pattern_are_tried_at_once(cupy: Any, waits: Waits) -> None:
    """One wait for all powers; the likeliest is that of the CPU."""
    rings = grid(64)
    made = draw(rings, signal=0.5, q=falling_q(9, rings), pattern=0.5)
    pictures: list[npt.NDArray[Any]] = [made.spectra.values[0].sum(axis=0), made.plain]
    pictures.append(rings.picture(made.spectra.q).sum(axis=0).astype(np.complex64))
    here = fit_ratio(
        Sums(**dict(zip(("aligned", "plain", "overlap"), pictures, strict=True))), made.found, made.spectra
    )
    a, u, c = map(cupy.asarray, pictures)
    there = fit_ratio(Sums(aligned=a, plain=u, overlap=c), made.found, on_device(cupy, made.spectra))
    assert waits.n == 1
    assert there == pytest.approx(here, rel=1e-6)
    assert here > 0
