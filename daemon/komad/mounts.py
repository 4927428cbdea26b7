"""Which file system a folder lies on, as Linux tells it in /proc/self/mountinfo (proc(5))."""

from __future__ import annotations

import re
from pathlib import Path

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "fuse.beegfs", "fuse.ceph", "fuse.cvmfs2",
        "fuse.davfs2", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs",
        "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2",
        "smb2", "smb3", "smbfs", "sshfs", "wekafs",
    }
)  # fmt: skip
"""Types that other hosts write to as well: locks and shared memory do not hold between them, so that SQLite breaks
there, and what they write is announced to nobody."""


def read_mounts() -> str:
    """Text of /proc/self/mountinfo; '' where it cannot be read."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def network_of(directory: Path, mounts: str) -> tuple[str, str] | None:
    """Mount point and type of the network file system that `directory` lies on; None when it is a local one."""
    mount, kind = mount_of(directory.resolve(), mounts)
    return (mount, kind) if kind in NETWORK_FILE_SYSTEMS else None


def mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """Mount point and file system type of an absolute path; `mounts` is what `read_mounts` gives."""
    best = ("/", "")
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount = re.sub(
            r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]
        )  # a space is \040
        # A later line covers an earlier one at the same place.
        if path.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, rest.split()[0])
    return best
