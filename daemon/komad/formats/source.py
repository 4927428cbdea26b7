"""A file from the camera, read at any place by many threads, and the pool that decodes it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from komad.arrays import POOL_NAME, thread_count, thread_pool
from komad.errors import MovieError, MovieMissingError

GONE = frozenset(
    {
        errno.ENOENT,
        errno.ESTALE,
        errno.EIO,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
    }
)
"""What a lost file or a lost network mount says; a retry can help."""
BLOCK_BYTES = 4 << 20
"""Of a file that is read for its checksum."""
END_BYTES = 1 << 20
"""Of its start and of its end that count for a fingerprint."""

T = TypeVar("T")
Item = TypeVar("Item")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into movie errors that name the file."""
    try:
        yield
    except OSError as error:
        if error.errno in GONE:
            raise MovieMissingError(
                f"{path} cannot be read: {error.strerror}; the file is gone or its file system is not there"
            ) from error
        raise MovieError(f"{path} cannot be read: {error.strerror or error}") from error


class SourceFile:
    """A regular file open for reading at any offset, from any thread (no shared position, no memory map).

    Raises
    ------
    MovieMissingError
        The file or its file system is gone.
    MovieError
        It cannot be opened, or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            # Not blocking: a named pipe in the folder must not stop the thread that looks at it.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise MovieError(f"{path} is {kind}; name a movie or image file")
        self.size_bytes = status.st_size
        """At the time of opening; what is written behind it later is not read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; no thread may still read."""
        os.close(self._descriptor)

    def status(self) -> os.stat_result:
        """What the open file is now, whatever has become of its name."""
        with explained(self.path):
            return os.fstat(self._descriptor)

    def forget_cached(self) -> None:
        """Have what is read from now on come from the disk and not from memory; it is made durable before."""
        with explained(self.path):
            try:
                os.fsync(self._descriptor)  # pages that wait to be written stay in memory
            except OSError as error:
                if error.errno not in {
                    errno.EINVAL,
                    errno.EROFS,
                    errno.ENOTSUP,
                }:  # nothing waits on such disks
                    raise
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """All bytes from `start` to `end` (or the end of the file), some megabytes at a time."""
        end = self.size_bytes if end is None else end
        while start < end and (block := self.read(start, min(BLOCK_BYTES, end - start))):
            yield block
            start += len(block)

    def fingerprint(self) -> str:
        """SHA-256 in hex over size, first and last mebibyte: tells a file from another one that has its name."""
        digest = hashlib.sha256(str(self.size_bytes).encode())
        digest.update(self.read(0, END_BYTES))
        digest.update(self.read(max(0, self.size_bytes - END_BYTES), END_BYTES))
        return digest.hexdigest()

    def xxh3(self) -> str:
        """XXH3 of the whole file, 128 bits in hex: what `xxhsum -H128` prints."""
        digest = xxhash.xxh3_128()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def read_into(self, array: npt.NDArray[Any], offset: int) -> int:
        """Fill a C-contiguous array from the bytes at `offset`; the count is smaller at the end of the file only."""
        view = array.reshape(-1).view(np.uint8).data
        done = 0
        with explained(self.path):
            while (
                done < len(view) and offset < self.size_bytes
            ):  # a damaged header can name offsets that no file has
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        return done

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Bytes at `offset`; fewer at the end of the file only."""
        parts = []
        n_bytes = min(n_bytes, self.size_bytes - offset)  # memory is taken for all that is asked for
        with explained(self.path):
            while n_bytes > 0:
                part = os.pread(self._descriptor, n_bytes, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                n_bytes -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def map_in_order(task: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Give `task(0)`, `task(1)`, ... in this order, computed on the process's thread pool, as `each_in_order`."""
    return each_in_order(task, range(count), ahead=2 * thread_count())


def each_in_order(
    task: Callable[[Item], T], items: Iterable[Item], *, ahead: int
) -> Generator[T, None, None]:
    """Give `task(item)` for each item in their order, computed on the process's thread pool.

    Only `ahead` tasks run ahead of the consumer, so memory stays bounded; items are taken by the consumer's thread.
    Wrap it in `contextlib.closing`: when the consumer stops early or a task fails, no task is running any more after
    the generator is closed. Any thread may take the next result, also one of that pool.
    """
    pending: deque[tuple[Item, Future[T]]] = deque()

    def result() -> T:
        item, future = pending.popleft()
        # A thread of the pool would wait for itself: what no other has begun it computes.
        is_of_pool = threading.current_thread().name.startswith(POOL_NAME)
        return task(item) if is_of_pool and future.cancel() else future.result()

    try:
        for item in items:
            pending.append((item, thread_pool().submit(task, item)))
            if len(pending) >= ahead:
                yield result()
        while pending:
            yield result()
    finally:
        wait([future for _, future in pending if not future.cancel()])
