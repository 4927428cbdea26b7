"""Archives that are the camera's own file, byte for byte, where nothing else holds all that it does."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import xxhash

from komad.errors import ArchiveError, MovieError
from komad.formats.atomic import atomic_file
from komad.formats.movies import check_complete
from komad.formats.mrcz import FileChecksum, checksum_mrcz
from komad.formats.source import SourceFile
from komad.formats.source import explained as explained_source

COPY_SUFFIX = ".eer"
"""Of archives that are copies; those of all other movies end with `.mrcz`."""
ARCHIVE_SUFFIXES = (".mrcz", COPY_SUFFIX)
NOT_HERE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
"""What the kernel says where it cannot copy from one file system to the other by itself."""
CHUNK_BYTES = 1 << 30


def write_copy(path: Path, source: Path, *, sha256: str) -> FileChecksum:
    """Copy a movie, read the copy back from its disk and compare, before it appears under its name.

    Where the file system can, both share their blocks, or the server copies by itself.

    Parameters
    ----------
    path
        The archive; replaced when it is there.
    source
        The movie.
    sha256
        Of the movie, in hex.

    Raises
    ------
    ArchiveError
        The copy is not the movie, or is no complete movie.
    MovieMissingError, MovieError
        The movie cannot be read.
    DiskFullError, OutputError
        The copy cannot be written.
    """
    with atomic_file(path) as temporary:
        _copy(source, temporary)
        digest, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
        try:
            with SourceFile(temporary) as copy:
                copy.forget_cached()
                for block in copy.blocks():
                    digest.update(block)
                    xxh3.update(block)
            check_complete(temporary)
        except MovieError as error:
            raise ArchiveError(f"the archive {path} cannot be read back after copying: {error}") from error
        if digest.hexdigest() != sha256:
            raise ArchiveError(f"the archive {path} does not read back as {source} was read")
        return FileChecksum(n_bytes=copy.size_bytes, xxh3=xxh3.hexdigest())


def checksum_archive(path: Path) -> FileChecksum:
    """Read an archive of any kind from the disk, and look whether it is whole; gives the checksum of the whole file.

    Raises
    ------
    MovieError
        It is gone, no archive, or damaged; the message names the place.
    """
    if path.suffix != COPY_SUFFIX:
        return checksum_mrcz(path)
    with SourceFile(path) as source:
        source.forget_cached()
        found = FileChecksum(n_bytes=source.size_bytes, xxh3=source.xxh3())
    check_complete(path)
    return found


def _copy(source: Path, target: Path) -> None:
    with explained_source(source):
        reading = source.open("rb", buffering=0)
    with reading, target.open("wb", buffering=0) as writing:
        try:
            while os.copy_file_range(reading.fileno(), writing.fileno(), CHUNK_BYTES):
                pass
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            reading.seek(0)
            writing.seek(0)
            shutil.copyfileobj(reading, writing, 4 << 20)
