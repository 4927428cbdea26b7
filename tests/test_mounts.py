"""Which file system a folder lies on."""

from pathlib import Path

import pytest

from komad.mounts import mount_of, network_of, read_mounts

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:31 / /data rw - nfs4 server:/data rw
31 22 0:32 / /data/local rw shared:1 - xfs /dev/sdb rw
32 22 0:33 / /micro\040scope rw - cifs //krios/x rw
33 22 0:34 / /home rw - fuse.sshfs me@host: rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/state", ("/data", "nfs4")),
        ("/data/local/state", ("/data/local", "xfs")),
        ("/data2", ("/", "ext4")),
        ("/micro scope/state", ("/micro scope", "cifs")),
    ],
)
def test_mount_of(path: str, expected: tuple[str, str]) -> None:
    """The mount with the longest path that holds the directory counts, escapes included."""
    assert mount_of(Path(path), MOUNTS) == expected


@pytest.mark.parametrize(
    ("directory", "kind"), [("/data/x", "nfs4"), ("/home/me", "fuse.sshfs"), ("/tmp", None)]
)
def test_network_of(directory: str, kind: str | None) -> None:
    """Folders that other hosts write to are told from local ones."""
    network = network_of(Path(directory), MOUNTS)
    assert (network and network[1]) == kind


def test_this_machine(tmp_path: Path) -> None:
    """The kernel's own list is understood: every test folder lies on some file system."""
    mount, kind = mount_of(tmp_path.resolve(), read_mounts())
    assert tmp_path.resolve().is_relative_to(mount)
    assert kind
