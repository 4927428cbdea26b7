"""The database: movies, jobs, workers, results. The only importer of sqlalchemy.

The names load when they are asked for: `komad.store.overview` and `listing` answer without SQLAlchemy, whose import
takes most of the time that `komad status` may.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from komad.store.changes import WAITING_FOR_ARCHIVE
    from komad.store.koma import KnownNeighbours
    from komad.store.movies import Missing
    from komad.store.optics_groups import Taken
    from komad.store.rows import FinishedMovie, GainCheckRow, HeldBy, PausedBy, StackSumRow, WorkerRow
    from komad.store.store import Store

__all__ = [
    "WAITING_FOR_ARCHIVE",
    "FinishedMovie",
    "GainCheckRow",
    "HeldBy",
    "KnownNeighbours",
    "Missing",
    "PausedBy",
    "StackSumRow",
    "Store",
    "Taken",
    "WorkerRow",
]

_MODULES = {
    "WAITING_FOR_ARCHIVE": "changes",
    "KnownNeighbours": "koma",
    "Missing": "movies",
    "Store": "store",
    "Taken": "optics_groups",
}
"""Where a name comes from; all others are in `rows`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'rows')}"), name)
