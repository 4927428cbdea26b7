"""What can go wrong, and whether a retry can help.

Every error carries a stable `code` (shown by `komad status`, stored with the job, safe to match in scripts) and a
message that names the place, says what is wrong and what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Failure(StrEnum):
    """Who or what is to blame when a job ends in an error; what follows is in `komad.model.job.after_failure`."""

    MOVIE = "movie"
    """The movie, or what it is bound to: it fails at once."""
    PASSING = "passing"
    """Trouble that may pass: tried again after pauses that grow."""
    PLACE = "place"
    """A disk or a folder as a whole: the job is held until it is back, and no try is counted."""
    DEVICE = "device"
    """The compute device: the job goes back without blame, the device is set aside."""
    UNEXPECTED = "unexpected"
    """The movie or the device: another device tells."""
    INTERRUPTED = "interrupted"
    """Something from outside: the job goes back without blame."""


class KomadError(Exception):
    """Base of all errors that komad raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable identifier, lower case with underscores."""
    failure: ClassVar[Failure] = Failure.MOVIE
    """Who is to blame."""
    retry: ClassVar[bool] = False
    """Whether the same job may succeed later without a change by a person: set by `failure`."""

    def __init_subclass__(cls) -> None:
        cls.retry = cls.failure is not Failure.MOVIE


class ConfigError(KomadError):
    """The configuration is wrong; the daemon does not start."""

    code = "config"


class AlreadyRunningError(KomadError):
    """Another komad holds the state directory."""

    code = "already_running"


class StoreError(KomadError):
    """The database cannot be used."""

    code = "store"


class StoreDiskError(StoreError):
    """The disk of the database gives errors; it works again when that is cured."""

    failure = Failure.PLACE


class DamagedError(StoreError):
    """The database is damaged, or older than the results: `komad rebuild` makes it anew from them."""

    code = "store_damaged"


class MovieError(KomadError):
    """The movie file cannot be used as it is."""

    code = "movie_unreadable"


class MovieTruncatedError(MovieError):
    """The movie ends before its header says it should: still being written, or cut off."""

    code = "movie_truncated"
    failure = Failure.PASSING


class MovieShortError(MovieTruncatedError):
    """All that is there is whole, and the movie announces more: still being written, or the exposure was stopped."""


class MovieChangedError(MovieError):
    """The movie is not the file any more that was found."""

    code = "movie_changed"


class MovieMissingError(MovieError):
    """The movie file is gone, or its file system is."""

    code = "movie_missing"
    failure = Failure.PASSING


class ReferenceFileError(KomadError):
    """A gain, dark or defect file is missing, unreadable or of the wrong size."""

    code = "reference"


class BusyError(StoreError):
    """Another program keeps the database locked; it works again as soon as that lets go."""

    failure = Failure.PASSING


class ParameterError(KomadError):
    """An acquisition parameter is unknown or out of range."""

    code = "parameter"


class ArchiveError(KomadError):
    """The archive did not verify after writing, or cannot be read."""

    code = "archive"
    failure = Failure.PASSING


class DiskFullError(KomadError):
    """No space is left where results are written: jobs wait (held), none fails."""

    code = "disk_full"
    failure = Failure.PLACE


class OutputError(KomadError):
    """A result file cannot be written (permission, read-only disk, lost mount)."""

    code = "output"
    failure = Failure.PASSING


class FolderLostError(MovieMissingError):
    """A whole watched folder is gone: its jobs wait (held) until it is back, none fails."""

    code = "folder_lost"
    failure = Failure.PLACE


class OutputLostError(OutputError):
    """Nothing can be written where results go: jobs wait (held) until that is cured, none fails."""

    code = "output_lost"
    failure = Failure.PLACE


class MotionError(KomadError):
    """Motion correction has no usable result."""

    code = "motion"


class DeviceError(KomadError):
    """The compute device failed its probe, or is lost; the job is not to blame."""

    code = "device"
    failure = Failure.DEVICE


class DeviceMemoryError(KomadError):
    """A movie does not fit into the memory that the worker may take of its GPU; it may fit elsewhere, or later."""

    code = "device_memory"
    failure = Failure.PASSING


class WorkerLostError(KomadError):
    """The worker process died or stopped beating while it held the job."""

    code = "worker_lost"
    failure = Failure.UNEXPECTED


class InterruptedWorkError(KomadError):
    """komad itself ended, by a signal or with the whole computer, while a worker held the job."""

    code = "interrupted"
    failure = Failure.INTERRUPTED


class HostMemoryError(KomadError):
    """The memory of the host was too small at this moment."""

    code = "memory"
    failure = Failure.PASSING


class TransitionError(KomadError):
    """A job was asked to change in a way its state does not allow."""

    code = "job_transition"


class InternalError(KomadError):
    """A fault of the program itself; the traceback is in the log."""

    code = "internal"
    failure = Failure.UNEXPECTED


class StarError(KomadError):
    """A STAR file cannot be read, or values cannot be written into one."""

    code = "star"
