"""The running total and the pattern on a device, against those of the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from komad.detector import Calibration, RunningTotal, calibrate, measure_pattern, without_pattern
from komad.model import StackSum
from tests.detector.stacks import SHAPE, column_pattern, pixel_pattern, stack_of
from tests.detector.test_koma import DOSE, random_outliers
from tests.device import device_on_the_host

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture
def cupy() -> Iterator[Any]:
    """The device's arrays, on the host."""
    with device_on_the_host() as module:
        yield module


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """A gain and a dark."""
    rng = np.random.default_rng(0)
    gain, dark = (rng.normal(*how, SHAPE).astype(np.float32) for how in ((1, 0.05), (0.1, 0.01)))
    return calibrate(SHAPE, gain=gain, dark=dark)


@pytest.fixture(scope="module")
def stacks(calibration: Calibration) -> list[StackSum]:
    """Movies of a detector with a pattern of pixels and columns, and outliers."""
    response = DOSE * pixel_pattern(0.03) * column_pattern(0.02)
    return [
        stack_of(response, seed, calibration=calibration, outliers=random_outliers(seed)) for seed in range(6)
    ]


def total_of(stacks: list[StackSum], calibration: Calibration, like: Any = None) -> RunningTotal:
    """Their sum; the first one came and went."""
    total = RunningTotal(SHAPE, like=like)
    for stack in stacks:
        total.add(stack, calibration)
    total.subtract(stacks[0], calibration)
    return total


@pytest.mark.parametrize("calibrated_there", [True, False])
def test_a_pattern(
    cupy: Any, calibration: Calibration, stacks: list[StackSum], calibrated_there: bool
) -> None:
    """The same whole numbers to the last bit, the same pattern to 1e-5, which stays on the device."""
    given = calibration
    if calibrated_there:
        given = replace(
            calibration, gain=cupy.asarray(calibration.gain), offset=cupy.asarray(calibration.offset)
        )
    like = cupy.zeros(0)
    ours, theirs = total_of(stacks[:5], given, like), total_of(stacks[:5], calibration)
    assert isinstance(ours.total, cupy.ndarray)
    assert ours.n_stacks == theirs.n_stacks == 4
    np.testing.assert_array_equal(ours.total.get(), theirs.total)

    found, expected = (
        measure_pattern(total, stacks[5], c) for total, c in ((ours, given), (theirs, calibration))
    )
    assert found is not None
    assert expected is not None
    relative: Any = found.relative
    assert isinstance(relative, cupy.ndarray)
    assert expected.relative.std() > 0.02
    np.testing.assert_allclose(relative.get(), expected.relative, rtol=0, atol=1e-5)
    for name in ("spread", "shared_spread", "correlation", "mean_e_per_px_frame"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4)
    assert found.scale == pytest.approx(expected.scale, rel=1e-4)


@pytest.mark.parametrize("method", ["subtract", "divide"])
def test_the_pattern_goes_into_the_references(
    cupy: Any, calibration: Calibration, stacks: list[StackSum], method: Any
) -> None:
    """References and pattern of the device give those of the CPU with the pattern taken off."""
    pattern = measure_pattern(total_of(stacks[:5], calibration), stacks[5], calibration)
    assert pattern is not None
    there = replace(calibration, gain=cupy.asarray(calibration.gain), offset=cupy.asarray(calibration.offset))
    ours = without_pattern(there, replace(pattern, relative=cupy.asarray(pattern.relative)), method)
    theirs = without_pattern(calibration, pattern, method)
    for name in ("gain", "offset"):
        np.testing.assert_allclose(getattr(ours, name).get(), getattr(theirs, name), rtol=1e-6, atol=1e-7)
