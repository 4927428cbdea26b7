"""Tells systemd how the daemon is: sd_notify(3), a datagram to the socket that systemd names."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

EXTENSION_S = 60
"""How much longer a start may take, each time that it says so."""


def is_wanted() -> bool:
    """Whether systemd asked to be told."""
    return "NOTIFY_SOCKET" in os.environ


def notify(message: str) -> None:
    """Send a message such as READY=1; without systemd, or when it does not listen, the message is lost.

    The kernel keeps few messages: one that it has no room for is dropped rather than waited with.
    """
    if not is_wanted():
        return
    # A name that begins with @ is an abstract socket, whose first byte is zero.
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.setblocking(False)
        link.sendto(message.encode(), address)


def take_longer() -> None:
    """Ask for more time to start; to be repeated within `EXTENSION_S`."""
    notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")


def waits_in_kernel(thread: threading.Thread) -> bool:
    """Whether a thread waits uninterruptibly (state D), for a disk or a server: a new start does not cure that."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(
            encoding="utf-8", errors="replace"
        )
        return status.rpartition(")")[2].split()[0] == "D"
    return False
