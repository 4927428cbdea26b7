"""Files that are complete or absent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from komad.errors import DiskFullError, KomadError, OutputError, OutputLostError
from komad.formats import atomic


def test_content_appears_under_its_name(tmp_path: Path) -> None:
    """Bytes and text arrive; nothing else is left in the folder."""
    atomic.write_bytes(tmp_path / "a.bin", b"\0\1")
    atomic.write_text(tmp_path / "a.txt", "Å\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "a.txt").read_bytes() == "Å\n".encode()
    assert len(list(tmp_path.iterdir())) == 2


def test_old_content_stays_until_the_end(tmp_path: Path) -> None:
    """While the new file is written, the name shows the old one; the temporary one is hidden beside it."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic.atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(atomic.TEMPORARY_PREFIX)
        assert temporary.suffix == ".txt"
        assert list(tmp_path.glob("*.txt")) == [path, temporary] or list(tmp_path.glob("[!.]*")) == [path]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), KomadError("stop")])
def test_any_error_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """An error in the block passes through unchanged, and only the old file is there."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, atomic.atomic_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    """Results can be read by others as far as the umask lets them (temporary files often cannot)."""
    old = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (28, DiskFullError),
        (122, DiskFullError),
        (5, OutputLostError),
        (30, OutputLostError),
        (21, OutputError),
    ],
)
@pytest.mark.parametrize("step", ["os.open", "os.fsync", "pathlib.Path.replace"])
def test_every_step_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int, error: type[KomadError]
) -> None:
    """No space and no quota hold the job; other errors name the file; the old file stays and no other."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(error, match=r"cannot write .*a\.txt: ") as caught:  # noqa: PT012
        patch.setattr(step, fail)
        atomic.write_bytes(path, b"new")
    assert type(caught.value) is error
    assert caught.value.retry
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(OutputError, match=r"cannot write .*gone/a\.txt: No such file or directory"):
        atomic.write_bytes(tmp_path / "gone" / "a.txt", b"")


def test_name_taken_by_a_folder(tmp_path: Path) -> None:
    """A folder in the place of the file is an error, and stays."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError):
        atomic.write_bytes(tmp_path / "a", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_file_system_without_sync_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems cannot sync a folder: the file counts as written."""
    sync = os.fsync

    def picky(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", picky)
    atomic.write_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_really_full_disk(full_disk: Path) -> None:
    """On a disk with 64 KiB the file that does not fit is refused, the one that fits stays whole."""
    atomic.write_bytes(full_disk / "a", b"x" * 40_000)
    with pytest.raises(DiskFullError, match=f"free space in {full_disk}"):
        atomic.write_bytes(full_disk / "a", b"y" * 40_000)
    assert [entry.name for entry in full_disk.iterdir()] == ["a"]
    assert (full_disk / "a").read_bytes() == b"x" * 40_000
    (full_disk / "a").unlink()
    atomic.write_bytes(full_disk / "a", b"y" * 40_000)


WRITER = """
import sys, time
from pathlib import Path
from komad.formats.atomic import atomic_file
with atomic_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_leftovers_of_a_killed_writer(tmp_path: Path) -> None:
    """A temporary file stays while its writer lives and goes when it was killed; other files are not touched."""
    (tmp_path / "a.mrc").write_text("old")
    (tmp_path / ".hidden").write_text("mine")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a.mrc")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        assert atomic.remove_leftovers(tmp_path) == 0
        assert len(list(tmp_path.iterdir())) == 3
        writer.send_signal(signal.SIGKILL)
    assert atomic.remove_leftovers(tmp_path) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "a.mrc"]
    assert (tmp_path / "a.mrc").read_text() == "old"


def test_leftovers_of_a_missing_folder(tmp_path: Path) -> None:
    """Where there is no folder there is nothing to remove."""
    assert atomic.remove_leftovers(tmp_path / "gone") == 0


def mode(path: Path) -> int:
    """Permissions with the bits for setuid, setgid and sticky."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what was shared, and write as a umask of 022 has it."""
    monkeypatch.setattr(atomic, "_shared", {})
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("shared")
def test_permissions_are_there_before_the_name(tmp_path: Path) -> None:
    """A file has its permissions before it has its name; folders that are made on the way get theirs; others do not."""
    results = tmp_path / "session" / "results"
    atomic.share(results, atomic.Sharing(file_mode=0o640, directory_mode=0o2770))
    atomic.make_directory(results)
    assert (mode(tmp_path / "session"), mode(results)) == (0o2770, 0o2770)
    with atomic.atomic_file(results / "a.txt") as temporary:
        assert mode(temporary) == 0o640
    assert mode(results / "a.txt") == 0o640
    atomic.write_text(tmp_path / "b.txt", "")
    assert mode(tmp_path / "b.txt") == 0o644


@pytest.mark.usefixtures("shared")
def test_a_setgid_folder_passes_its_bit_on(tmp_path: Path) -> None:
    """A new folder keeps the setgid bit that it inherits; a folder that is there stays as it is."""
    tmp_path.chmod(0o2755)
    atomic.share(tmp_path / "results", atomic.Sharing(directory_mode=0o750))
    atomic.make_directory(tmp_path / "results")
    assert mode(tmp_path / "results") == 0o2750
    (tmp_path / "results").chmod(0o700)
    atomic.make_directory(tmp_path / "results")
    assert mode(tmp_path / "results") == 0o700


@pytest.mark.usefixtures("shared")
@pytest.mark.skipif(os.geteuid() != 0, reason="files are given away")
def test_group(tmp_path: Path) -> None:
    """Files and new folders are of the group, the owner stays."""
    atomic.share(tmp_path / "results", atomic.Sharing(gid=12345))
    atomic.make_directory(tmp_path / "results")
    atomic.write_text(tmp_path / "results" / "a.txt", "")
    for path in (tmp_path / "results", tmp_path / "results" / "a.txt"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), 12345)
