"""Files appear -> `Candidate`. Events are hints; the sweep is the truth."""

from komad.watch.watcher import FolderStatus, Watcher

__all__ = ["FolderStatus", "Watcher"]
