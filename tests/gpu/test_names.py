"""What the host plays of CuPy is what CuPy has; no device is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import device as played

ATTRIBUTES = {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "strides", "T", "real", "imag"}
OWN = {"_told", "host", "__slots__", "__weakref__", "__getattr__"}
"""Of those that are played alone."""


@pytest.fixture(scope="module")
def cupy() -> Any:
    """The real one."""
    return pytest.importorskip("cupy", reason="no CuPy", exc_type=ImportError)


@pytest.mark.parametrize("name", sorted(played.FUNCTIONS))
def test_functions(cupy: Any, name: str) -> None:
    """CuPy has every function and type that may be used."""
    assert hasattr(cupy, name)


@pytest.mark.parametrize("name", sorted({*played.METHODS, *ATTRIBUTES, *vars(played.DeviceArray)} - OWN))
def test_methods(cupy: Any, name: str) -> None:
    """Its arrays have every method and attribute."""
    assert hasattr(cupy.ndarray, name)


def missing(real: Any, fake: dict[str, Any], path: str) -> list[str]:
    """What of `fake` is not in `real`."""
    names = []
    for name, value in fake.items():
        if name.startswith("__"):
            continue
        if not hasattr(real, name):
            names.append(f"{path}.{name}")
        elif isinstance(value, SimpleNamespace):
            names += missing(getattr(real, name), vars(value), f"{path}.{name}")
    return names


def test_modules(cupy: Any) -> None:
    """Streams, memory, transforms and the other parts are where they are looked for."""
    import cupyx

    module, extension = played._fake()
    assert not missing(cupy, vars(module), "cupy")
    assert not missing(cupyx, vars(extension), "cupyx")
    assert not missing(cupy.cuda.MemoryPool, vars(module.get_default_memory_pool()), "MemoryPool")
    assert not missing(cupy.cuda.Stream.null, vars(played._Stream), "Stream")
    assert not missing(cupy.cuda.Event, vars(played._Event), "Event")
    assert not missing(cupy.cuda.Device, vars(played._Device), "Device")
