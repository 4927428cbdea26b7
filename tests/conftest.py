"""What holds for all tests."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep the compiled loops of all processes of all tests in one place, also for the next run.

    This comes before anything of komad is imported, and processes that tests start inherit it.
    """
    assert config.cache is not None
    os.environ["NUMBA_CACHE_DIR"] = str(config.cache.mkdir("numba-cache"))
