"""The database of a worker on a disk that is full or gives errors: what is asked of it is asked again."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, cast

import structlog

from komad.errors import BusyError, DiskFullError, StoreDiskError
from komad.store import Store

logger = structlog.get_logger(__name__)

PAUSE_S = 1.0
"""Between two tries."""


def patient(store: Store, hurry: threading.Event) -> Store:
    """`store`, whose methods are called again until the disk takes what they write; once `hurry` is set, only once.

    A call that failed has changed nothing: SQLite undoes the transaction. So what a worker has computed is not lost,
    and no movie is blamed, for a disk that is full for an hour.
    """
    return cast("Store", _Patient(store, hurry))


class _Patient:
    def __init__(self, store: Store, hurry: threading.Event) -> None:
        self._store = store
        self._hurry = hurry

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        return functools.partial(self._insist, value) if callable(value) else value

    def _insist(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        waited = False
        while True:
            try:
                result = method(*arguments, **options)
            except (DiskFullError, StoreDiskError, BusyError) as error:
                if self._hurry.is_set():
                    raise
                if not waited:
                    logger.warning("the database waits for its disk", code=error.code, error=str(error))
                waited = True
                self._hurry.wait(PAUSE_S)
            else:
                if waited:
                    logger.info("the database is written again")
                return result
