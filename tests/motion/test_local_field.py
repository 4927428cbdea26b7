"""The field's terms and their splines, and fits of fields that are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from komad.model.motion import SplineField, spline_basis
from komad.motion import local_field
from komad.motion.local_field import (
    MAX_ORDER,
    TERM_ORDERS,
    LocalFit,
    field_basis,
    fit_field,
    spline_coefficients,
)
from komad.motion.path_prior import path_basis
from komad.motion.weights import Weighting
from tests.motion.synthetic import Synthetic, draw, grid

FloatArray = npt.NDArray[np.float64]

FIELD = (300, 400)


def test_terms_are_orthonormal_over_the_field() -> None:
    """Unit mean square, so that coefficients are RMS shifts; all but the first have mean zero."""
    y, x = np.meshgrid(np.arange(120), np.arange(160), indexing="ij")
    terms = field_basis(y, x, (120, 160)).reshape(-1, len(TERM_ORDERS))
    np.testing.assert_allclose(terms.T @ terms / len(terms), np.eye(len(TERM_ORDERS)), atol=0.01)
    np.testing.assert_array_equal(terms[:, 0], 1)


def test_terms_of_an_order_are_polynomials_of_that_order() -> None:
    """The first order is linear in y or in x; at the outer edges its terms are -+ root 3."""
    assert [np.count_nonzero(order == TERM_ORDERS) for order in range(MAX_ORDER + 1)] == [1, 2, 3, 4, 5, 6]
    corner = field_basis([-0.5, 119.5], [-0.5, 159.5], (120, 160))[:, TERM_ORDERS == 1]
    np.testing.assert_allclose(corner, np.sqrt(3) * np.array([[-1, -1], [1, 1]]))
    lines = field_basis(np.arange(120), np.full(120, 40), (120, 160))
    for term, order in enumerate(TERM_ORDERS):
        np.testing.assert_allclose(np.diff(lines[:, term], n=order + 1), 0, atol=1e-9)


@pytest.mark.parametrize("term", range(len(TERM_ORDERS)))
def test_splines_hold_the_terms(term: int) -> None:
    """Up to order 3 exactly, from edge to edge; of higher orders within a few percent of their largest value."""
    paths = np.zeros((len(TERM_ORDERS), 2, 2))
    paths[term] = [[1.0, -2.0], [0.5, 3.0]]
    field = SplineField(
        shape=FIELD,
        knots=np.array([1.0, 5.0]),
        moments=np.array([1.0, 5.0]),
        coefficients_px=spline_coefficients(paths),
    )
    y, x = np.linspace(-0.5, FIELD[0] - 0.5, 17), np.linspace(-0.5, FIELD[1] - 0.5, 17)
    values = field_basis(*np.meshgrid(y, x, indexing="ij"), FIELD)[..., term]
    expected = values[None, :, :, None] * paths[term][:, None, None, :]
    error = np.abs(field.on_grid(y, x) - expected).max()
    exact = TERM_ORDERS[term] <= 3
    assert error < (1e-6 if exact else 0.05 * np.abs(expected).max())


def test_the_splines_have_mean_zero() -> None:
    """What the field adds to the mean over the frame belongs to the whole frame: less than a hundredth is left."""
    paths = np.random.default_rng(0).normal(size=(len(TERM_ORDERS), 3, 2))
    paths[0] = 0
    at = np.arange(200)
    splines = spline_basis(at, 200, spline_coefficients(paths).shape[1]).mean(axis=0)
    mean = np.einsum("i,j,kijd->kd", splines, splines, spline_coefficients(paths))
    assert np.abs(mean).max() < 0.01


RINGS = grid(64, n_rings=16, low=0.04)
SIGNAL = 3 * np.exp(-14 * RINGS.frequency)
KNOTS = np.cumsum(np.linspace(1.0, 2.5, 12))
AT = np.linspace(60, 240, 4), np.linspace(60, 340, 5)
PLACES = np.stack(np.meshgrid(*AT, indexing="ij"), axis=-1).reshape(-1, 2)
BASIS = field_basis(PLACES[:, 0], PLACES[:, 1], FIELD)
STILL = np.zeros((len(TERM_ORDERS), len(KNOTS), 2))


def true_paths(size: float, *, highest: int = 3, seed: int = 1) -> FloatArray:
    """Relaxing paths; RMS shift about `size` at first order, less of higher ones."""
    rng = np.random.default_rng(seed)
    paths = np.zeros_like(STILL)
    relaxed = 1 - np.exp(-KNOTS / 5)
    relaxed -= relaxed.mean()
    for term, order in enumerate(TERM_ORDERS):
        if 0 < order <= highest:
            paths[term] = size * rng.normal(size=2) * relaxed[:, None] / relaxed.std() / order**1.5
    return paths


def patches(paths: FloatArray, *, strength: FloatArray | None = None, seed: int = 1) -> Synthetic:
    """Patches that need the shifts of these paths."""
    return draw(
        RINGS,
        signal=SIGNAL,
        q=np.ones((len(KNOTS), 16)),
        shifts=np.einsum("pm,mkd->pkd", BASIS, paths),
        strength=np.ones(len(PLACES)) if strength is None else strength,
        seed=seed,
    )


def fit(
    made: Synthetic, *, applied: FloatArray = STILL, before: LocalFit | None = None, kind: str = "optimal"
) -> LocalFit:
    """With the constants of the program."""
    return fit_field(
        made.spectra,
        BASIS,
        KNOTS,
        applied=applied,
        weighting=Weighting(kind=kind, b_factor_angstrom2=150.0, small_pixel=4.0),  # type: ignore[arg-type]
        before=before,
        max_rounds=6,
        tolerance=0.01,
    )


def field_error(found: FloatArray, true: FloatArray) -> float:
    """RMS per axis over the whole field and all knots."""
    return float(np.sqrt(np.square(found - true).sum(axis=0).mean()))


@pytest.mark.parametrize("size", [0.3, 1.0])
def test_a_field_is_found_in_value_and_sign(size: float) -> None:
    """To a fifth of its size, over the whole field up to the corners; the error is about the expected one."""
    true = true_paths(size)
    found = fit(patches(true))
    assert found.max_order == MAX_ORDER
    assert found.gain > 5
    error = field_error(found.paths, true)
    assert error < 0.2 * field_error(0 * true, true)
    assert 0.4 * found.error < error < 2.0 * found.error
    np.testing.assert_array_equal(found.paths[0], 0)


@pytest.mark.parametrize("seed", range(3))
def test_no_field_is_found_where_there_is_none(seed: int) -> None:
    """Patches that do not move: either no local field, or a negligible one."""
    found = fit(patches(STILL, seed=seed))
    assert field_error(found.paths, STILL) < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_noise_has_no_field(seed: int) -> None:
    """Patches without signal."""
    found = fit(patches(STILL, strength=np.zeros(len(PLACES)), seed=seed))
    assert found.max_order == 0
    assert not found.paths.any()


def test_empty_patches_do_not_pull() -> None:
    """A third of the patches has no signal: there the field goes on as the others say."""
    true = true_paths(1.0, highest=1)
    full = fit(patches(true))
    empty = fit(patches(true, strength=(np.arange(len(PLACES)) % 3 > 0).astype(float)))
    size = field_error(STILL, true)
    assert field_error(empty.paths, true) < max(1.6 * field_error(full.paths, true), 0.15 * size)


def test_a_patch_that_goes_its_own_way_does_not_drag_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dirt with three times the signal moves the other way: the field is what the other patches say."""
    true = true_paths(0.5, highest=1, seed=0)
    dirt = np.einsum("pm,mkd->pkd", BASIS, true)
    dirt[12] += 1.5 * np.linspace([-1.0, 1.0], [1.0, -1.0], len(KNOTS))
    strength = np.ones(len(PLACES))
    strength[12] = 3.0
    made = draw(RINGS, signal=SIGNAL, q=np.ones((len(KNOTS), 16)), shifts=dirt, strength=strength, seed=0)
    size = field_error(STILL, true)
    assert field_error(fit(made).paths, true) < 0.4 * size
    monkeypatch.setattr(local_field, "MISFIT_LIMIT", 1e9)
    assert field_error(fit(made).paths, true) > size


def test_frames_that_were_moved_already_give_the_whole_field() -> None:
    """What was applied counts: the result is the field from the start, and no new choice of order is made."""
    true = true_paths(1.0)
    applied = 0.9 * true
    before = LocalFit(
        paths=applied, whole=np.zeros((len(KNOTS), 2)), max_order=MAX_ORDER, gain=12.0, error=0.1
    )
    found = fit(patches(true - applied), applied=applied, before=before)
    assert field_error(found.paths, true) < 0.15 * field_error(STILL, true)
    assert (found.max_order, found.gain) == (MAX_ORDER, 12.0)


@pytest.mark.parametrize("kind", ["b_factor", "phase_only"])
def test_other_weights_find_the_field_too(kind: str) -> None:
    """A B-factor instead of the spectra."""
    true = true_paths(1.0)
    assert field_error(fit(patches(true), kind=kind).paths, true) < 0.3 * field_error(STILL, true)


def test_path_basis_spans_what_is_fitted() -> None:
    """Paths of the fit are made of the prior's: mean zero over the knots."""
    found = fit(patches(true_paths(0.5)))
    basis = path_basis(KNOTS)
    rest = found.paths - np.einsum("ka,aj,mjd->mkd", basis, np.linalg.pinv(basis), found.paths)
    np.testing.assert_allclose(rest, 0, atol=1e-9)
