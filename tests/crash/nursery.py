"""Worker processes that need not import anything: forked from one that is warm, in the supervisor's name.

    with Nursery(scratch) as nursery:
        monkeypatch.setattr(supervisor, "subprocess", nursery)

The supervisor then calls `nursery.Popen` for `subprocess.Popen`. The warm process has no thread and no database open.
Its children are handed over to this process, which may wait for them as for its own.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
OUT_OF_THE_WAY = 200
"""File descriptors from here on are nobody's."""


class Nursery:
    """Stands for the module `subprocess` in the supervisor."""

    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, scratch: Path, numba_cache: Path) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery", str(theirs.fileno()), str(scratch)],
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                "NUMBA_CACHE_DIR": str(numba_cache),
                "KOMAD_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
        )
        theirs.close()
        assert ours.recv(1) == b"+", "the nursery did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(10)

    def Popen(  # noqa: N802 - as in `subprocess`
        self,
        command: Sequence[str],
        *,
        stdin: int,
        text: bool,
        env: dict[str, str],
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Fork a worker; `command` ends in the worker's arguments."""
        assert (stdin, text) == (subprocess.PIPE, True)
        read, write = os.pipe()
        handed = array.array("i", [read, *pass_fds])
        request = json.dumps([command[-3:], env, list(pass_fds)]).encode()
        head = len(request).to_bytes(4, "little")
        _be_subreaper(True)
        self._socket.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)])
        self._socket.sendall(request)
        pid = int.from_bytes(_receive(self._socket, 4), "little")
        _be_subreaper(False)
        os.close(read)
        return Child(pid, write)


class Child:
    """What the supervisor uses of `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: int) -> None:
        self.pid = pid
        self.stdin = os.fdopen(stdin, "w")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired([], timeout)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _be_subreaper(yes: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


# The warm process.


def _serve(connection: socket.socket) -> None:
    """Fork a worker for each request, until the other side closes."""
    with suppress(EOFError):
        while True:
            size, descriptors = _receive_with_descriptors(connection)
            arguments, environment, places = json.loads(_receive(connection, size))
            read, write = os.pipe()
            between = os.fork()
            if between == 0:
                child = os.fork()
                if child:
                    os.write(write, child.to_bytes(4, "little"))
                    os._exit(0)  # hands the child over to the supervisor's process
                out_of_the_way = [fcntl.fcntl(it, fcntl.F_DUPFD, OUT_OF_THE_WAY) for it in descriptors]
                for descriptor in (read, write, connection.detach(), *descriptors):
                    os.close(descriptor)
                for descriptor, place in zip(out_of_the_way, (0, *places), strict=True):
                    os.dup2(descriptor, place)
                    os.close(descriptor)
                _work(arguments, environment)
            os.waitpid(between, 0)
            connection.sendall(os.read(read, 4))
            for descriptor in (read, write, *descriptors):
                os.close(descriptor)


def _receive_with_descriptors(connection: socket.socket) -> tuple[int, list[int]]:
    data, descriptors, *_ = socket.recv_fds(connection, 4, 8)
    if not data:
        raise EOFError
    return int.from_bytes(data, "little"), descriptors


def _work(arguments: list[str], environment: dict[str, str]) -> None:
    """Be a worker as `python -m komad.work.worker` is."""
    from komad.work import worker
    from tests.crash import points

    status = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        while os.getppid() != int(environment["KOMAD_SUPERVISOR_PID"]):
            time.sleep(0.001)  # until the one between has gone
        points.install()
        status = worker.main(arguments)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _warm(scratch: Path) -> None:
    """Do a movie once, so that all is imported and compiled."""
    from komad.arrays import thread_pool
    from komad.config import Archive, Output, Processing, WatchFolder
    from komad.ingest import describe
    from komad.model import Candidate
    from komad.work import assembly_line, worker  # noqa: F401
    from komad.work.archive import archive_movie, read_archive, read_source
    from komad.work.correct import make_micrographs, write_results
    from tests.work.conftest import write_movie

    path = write_movie(scratch / "warm.mrc")
    status = path.stat()
    folder = WatchFolder.model_validate(
        {
            "directory": scratch,
            "acquisition": {"pixel_size_angstrom": 1.5, "voltage_kv": 300, "dose_per_frame": 1.0},
        }
    )
    movie = describe(
        Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0),
        folder,
        Processing(),
        reference_directory=None,
    )
    output = Output(directory=scratch / "output", min_free_gb=0)

    frames = read_source(movie)
    archived = archive_movie(movie, frames, archive=Archive(), directory=output.directory)
    assert archived.path is not None
    outliers = archived.stack_sum.outliers
    result = make_micrographs(movie, read_archive(archived.path), outliers=outliers, output=output)
    write_results(result, movie, outliers=outliers, archive_path=archived.path, output=output)
    thread_pool().shutdown()
    thread_pool.cache_clear()


def main(arguments: list[str]) -> None:
    """Warm up and serve."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    connection = socket.socket(fileno=int(arguments[0]))
    connection.set_inheritable(False)
    scratch = Path(arguments[1])
    scratch.mkdir(parents=True)
    _warm(scratch)
    deadline = time.monotonic() + 5
    # A thread that was joined may still be on its way out of the kernel.
    while len(threads := os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:  # noqa: PTH208
        time.sleep(0.01)
    assert len(threads) == 1, threads
    connection.sendall(b"+")
    _serve(connection)


if __name__ == "__main__":
    main(sys.argv[1:])
