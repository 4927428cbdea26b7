"""Tells systemd how the daemon is: sd_notify(3), a datagram to the socket that systemd names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


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
