"""The database: movies, jobs, workers, results. The only importer of sqlalchemy."""

from komad.store.changes import WAITING_FOR_ARCHIVE
from komad.store.finished import Finished
from komad.store.jobs import Jobs
from komad.store.movies import Missing, Movies
from komad.store.rows import FinishedMovie, HeldBy, HistoryEntry, StackSumRow, WorkerRow
from komad.store.stack_sums import StackSums
from komad.store.workers import Workers

__all__ = [
    "WAITING_FOR_ARCHIVE",
    "FinishedMovie",
    "HeldBy",
    "HistoryEntry",
    "Missing",
    "StackSumRow",
    "Store",
    "WorkerRow",
]


class Store(Movies, Jobs, Workers, StackSums, Finished):
    """All of it behind one door: `with Store(state_directory).open() as store`."""
