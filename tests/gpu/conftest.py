"""The real device in the place of the one that the host plays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def real_device() -> Iterator[Any]:
    """Gives cupy, as `device_on_the_host` gives what stands for it."""
    import cupy

    yield cupy


@pytest.fixture(scope="module", autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skips where there is none; in the module whose tests are `PLAYED`, it is what they are given."""
    played = getattr(request.module, "PLAYED", None)
    if played is None:
        yield
        return
    cupy = pytest.importorskip("cupy", reason="no CuPy", exc_type=ImportError)
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        count = 0
    if not count:
        pytest.skip("no GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(played, "device_on_the_host", real_device)
        yield
