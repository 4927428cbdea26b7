"""What the tests of whole installations need."""

from tests.work.conftest import numba_cache

__all__ = ["numba_cache"]
