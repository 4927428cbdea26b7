"""Takes tests over from modules in which the host plays the device."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

COUNTED = frozenset({"waits", "MEMORY"})
"""What the real device does not count: a test that asks for it stays where it is."""


def taken_from(module: ModuleType) -> dict[str, Any]:
    """The tests and fixtures of a module, by name; without its marks, which say what the host needs to play."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("__") and name != "pytestmark" and not _counts(name, value)
    }


def _counts(name: str, value: Any) -> bool:
    if not name.startswith("test_"):
        return False
    return bool(COUNTED & {*inspect.signature(value).parameters, *value.__code__.co_names})
