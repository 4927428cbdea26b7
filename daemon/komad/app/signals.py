"""What signals ask the daemon for."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType


class Signals:
    """What signals ask for: to stop, or to read the configuration again."""

    def __init__(self) -> None:
        self.n_stops = 0
        self.reload = False
        self.wake = threading.Event()

    def listen(self) -> None:
        """Take the signals; SIGHUP means a reload, but on a terminal that it was closed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        on_terminal = sys.stdin is not None and sys.stdin.isatty()
        signal.signal(signal.SIGHUP, self._on_stop if on_terminal else self._on_reload)

    def _on_stop(self, *_: int | FrameType | None) -> None:
        self.n_stops += 1
        self.wake.set()

    def _on_reload(self, *_: int | FrameType | None) -> None:
        self.reload = True
        self.wake.set()
