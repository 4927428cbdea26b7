"""What can go wrong, and whether a retry can help.

Every error carries a stable `code` (shown by `komad status`, stored with the job, safe to match in scripts) and a
message that names the place, says what is wrong and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class KomadError(Exception):
    """Base of all errors that komad raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable identifier, lower case with underscores."""
    retry: ClassVar[bool] = False
    """Whether the same job may succeed later without a change by a person."""


class ConfigError(KomadError):
    """The configuration is wrong; the daemon does not start."""

    code = "config"


class AlreadyRunningError(KomadError):
    """Another komad holds the state directory."""

    code = "already_running"


class StoreError(KomadError):
    """The database cannot be used."""

    code = "store"


class MovieError(KomadError):
    """The movie file cannot be used as it is."""

    code = "movie_unreadable"


class MovieTruncatedError(MovieError):
    """The movie ends before its header says it should: still being written, or cut off."""

    code = "movie_truncated"
    retry = True


class MovieChangedError(MovieError):
    """The movie is not the file any more that was found."""

    code = "movie_changed"


class MovieMissingError(MovieError):
    """The movie file is gone, or its file system is."""

    code = "movie_missing"
    retry = True


class ReferenceFileError(KomadError):
    """A gain, dark or defect file is missing, unreadable or of the wrong size."""

    code = "reference"


class ParameterError(KomadError):
    """An acquisition parameter is unknown or out of range."""

    code = "parameter"


class ArchiveError(KomadError):
    """The archive did not verify after writing, or cannot be read."""

    code = "archive"
    retry = True


class DiskFullError(KomadError):
    """No space is left where results are written: jobs wait (held), none fails."""

    code = "disk_full"
    retry = True


class OutputError(KomadError):
    """A result file cannot be written (permission, read-only disk, lost mount)."""

    code = "output"
    retry = True


class FolderLostError(MovieMissingError):
    """A whole watched folder is gone: its jobs wait (held) until it is back, none fails."""

    code = "folder_lost"


class OutputLostError(OutputError):
    """Nothing can be written where results go: jobs wait (held) until that is cured, none fails."""

    code = "output_lost"


class MotionError(KomadError):
    """Motion correction has no usable result."""

    code = "motion"


class DeviceError(KomadError):
    """The compute device failed its probe, or is lost; the job is not to blame."""

    code = "device"
    retry = True


class DeviceMemoryError(KomadError):
    """A movie does not fit into the memory that the worker may take of its GPU; it may fit elsewhere, or later."""

    code = "device_memory"
    retry = True


class WorkerLostError(KomadError):
    """The worker process died or stopped beating while it held the job."""

    code = "worker_lost"
    retry = True


class TransitionError(KomadError):
    """A job was asked to change in a way its state does not allow."""

    code = "job_transition"


class InternalError(KomadError):
    """A fault of the program itself; the traceback is in the log."""

    code = "internal"


class StarError(KomadError):
    """A STAR file cannot be read, or values cannot be written into one."""

    code = "star"
