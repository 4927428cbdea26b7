"""Signs of life of a worker: bytes in a pipe, so that neither a locked database nor a full disk looks like silence."""

from __future__ import annotations

import os
from contextlib import suppress

VARIABLE = "KOMAD_BEAT_FD"
"""Where a worker finds its end of the pipe."""


class Listener:
    """The supervisor's end; `child_end` is to be inherited by the worker."""

    def __init__(self) -> None:
        self._mine, self.child_end = os.pipe()
        os.set_blocking(self._mine, False)
        self._n_beats = 0

    def started(self) -> None:
        """Close the worker's end: the worker has its own."""
        os.close(self.child_end)

    def n_beats(self) -> int | None:
        """Beats heard so far; None before the first."""
        with suppress(BlockingIOError):
            while heard := os.read(self._mine, 4096):
                self._n_beats += len(heard)
        return self._n_beats or None

    def close(self) -> None:
        """Hear no more."""
        os.close(self._mine)


class Beater:
    """The worker's end; beats into the void when nobody started it with one."""

    def __init__(self) -> None:
        given = os.environ.get(VARIABLE)
        self._mine = None if given is None else int(given)
        if self._mine is not None:
            os.set_blocking(self._mine, False)
            os.set_inheritable(self._mine, False)

    def beat(self) -> None:
        """Show a sign of life; never waits."""
        if self._mine is not None:
            with suppress(OSError):  # full: nobody has listened for a day; broken: nobody ever will
                os.write(self._mine, b".")
