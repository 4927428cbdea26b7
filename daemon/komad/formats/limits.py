"""How much a file may announce: what is more is refused before memory is taken for it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from komad.errors import MovieError

MOST_FRAMES = 100_000
"""More than any movie of these formats has: what says more is a mistake, and would fill the memory."""
MOST_EXPANSION = 1 << 16
"""Bytes that one compressed byte can stand for. The best that is read is zstd, with 128 KiB in a block of 4 bytes;
pictures without beam come near to it, so there is no lower bound that would spare them."""
MEMORY_SHARE = 0.75
"""Of the machine's memory that the frames of one movie may take; the rest is for what is made of them."""


@lru_cache(1)
def machine_memory_bytes() -> int:
    """Memory of this machine, or what the control group of this process (systemd's MemoryMax) leaves of it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("0::/")[2].strip()
        folder = Path("/sys/fs/cgroup", group)
        for each in (folder, *folder.parents):
            limit = each / "memory.max"
            if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
                limits.append(int(text))
    except (OSError, ValueError):  # no control groups: the machine's own memory it is
        pass
    return min(limits)


def refuse_too_large(path: Path, n_bytes: int) -> None:
    """Raise MovieError when pixels of so many bytes cannot be held in memory."""
    most = MEMORY_SHARE * machine_memory_bytes()
    if n_bytes > most:
        raise MovieError(
            f"{path} announces {n_bytes / 1e9:.2f} GB of pixels, and this machine has room for {most / 1e9:.2f} GB: "
            "its header is damaged, or it needs more memory"
        )


def refuse_impossible(place: str, n_bytes: int, packed_bytes: int) -> None:
    """Raise MovieError when no codec makes `n_bytes` of `packed_bytes`. `place` begins the message."""
    if n_bytes > MOST_EXPANSION * packed_bytes:
        raise MovieError(
            f"{place} is damaged: {packed_bytes} bytes are said to hold {n_bytes} bytes of pixels, which no codec "
            "makes of them"
        )
