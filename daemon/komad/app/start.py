"""The start: waits until all folders are there that komad writes to."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import structlog

from komad import service
from komad.app.signals import Signals
from komad.config import Settings
from komad.errors import DiskFullError, InternalError, KomadError, OutputError
from komad.output.places import HeldElsewhereError, hold, prove_writable

logger = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Between two looks at signals."""
RETRY_INTERVAL_S = 5.0
"""Between two looks at folders that are not there yet when komad starts."""
PATIENCE_S = 10.0
"""A folder that takes longer to be written to does not answer."""
EXTENSION_INTERVAL_S = 10.0
HELD_LIMIT_S = 120.0
"""A server may take so long to notice that the komad of another computer is gone."""


class Start:
    """Waits until all folders are there that komad writes to: a network mount may come later than we do.

    They are tried in a thread, because whoever touches a lost mount may never come back.
    """

    def __init__(self, settings: Settings, held: ExitStack) -> None:
        self._settings = settings
        self._held = held
        self._began = time.monotonic()
        self._doing = ""

    def wait(self, signals: Signals) -> bool:
        """Wait; False when a signal came first. Raises what waiting cannot cure."""
        said, extended_at, try_at = "", 0.0, 0.0
        trial: _Trial | None = None
        while not signals.n_stops:
            now = time.monotonic()
            if trial is None and now >= try_at:
                trial = _Trial(self._try)
            if trial is not None and trial.done.wait(LOOK_S):
                if not trial.outcome():
                    return True
                reason, trial, try_at = trial.outcome(), None, now + RETRY_INTERVAL_S
            elif trial is not None and now - trial.began > PATIENCE_S:
                reason = f"{self._doing} does not answer"
            else:
                reason = said
            if reason != said:
                logger.warning("waiting to start", reason=reason)
                service.notify(f"STATUS=waiting to start: {reason}")
                said = reason
            if now >= extended_at:
                service.take_longer()
                extended_at = now + EXTENSION_INTERVAL_S
            if trial is None:
                signals.wake.wait(LOOK_S)
        return False

    def _try(self) -> str:
        """Write to each folder and hold the output; gives what is still missing, or ''."""
        for path in _reference_files(self._settings):
            self._doing = str(path.parent)
            if _may_come(path):
                return f"{path} is not there, and its folder is empty, as when it is not mounted"
        output = self._settings.output.directory
        for directory in dict.fromkeys(
            (self._settings.state_directory, self._settings.archive_directory, output)
        ):
            self._doing = str(directory)
            try:
                prove_writable(directory)
            except DiskFullError:
                pass  # it is there; jobs wait until there is room
            except OutputError as error:
                if _is_final(error):
                    raise
                return str(error)
        try:
            self._held.enter_context(hold(output, state_directory=self._settings.state_directory))
        except HeldElsewhereError as error:
            if time.monotonic() - self._began > HELD_LIMIT_S:
                raise
            return str(error)
        except OutputError as error:
            return str(error)
        return ""


class _Trial:
    """Something that may hang, done in a thread."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._work = work
        self._result: str | KomadError = ""
        self.began = time.monotonic()
        self.done = threading.Event()
        threading.Thread(target=self._run, name="komad-trial", daemon=True).start()

    def outcome(self) -> str:
        """What it gave, or raises what it raised."""
        if isinstance(self._result, KomadError):
            raise self._result
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except KomadError as error:
            self._result = error
        except Exception as error:
            logger.exception("unexpected error")
            self._result = InternalError(f"{type(error).__name__}: {error}")
        finally:
            self.done.set()


def _is_final(error: OutputError) -> bool:
    """Whether it stays as it is until a person does something: a file in the place of a folder, a name too long."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return False
    if cause.errno == errno.EEXIST:  # a link that leads nowhere may lead to a mount
        return Path(cause.filename).exists()
    return cause.errno in {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EPERM}


def _reference_files(settings: Settings) -> Iterator[Path]:
    for folder in settings.watch:
        files = folder.references
        yield from (path for path in (files.gain, files.dark, files.defects) if path is not None)


def _may_come(path: Path) -> bool:
    """Whether a file is missing because its disk is not mounted yet: the nearest folder that is there is empty."""
    try:
        if path.exists():
            return False
        nearest = next(place for place in path.parents if place.exists())
        with os.scandir(nearest) as entries:
            return next(entries, None) is None
    except PermissionError:
        return False
    except OSError:
        return True
