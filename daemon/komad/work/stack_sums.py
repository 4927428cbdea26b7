"""Stack sums as bytes and as files: total, frame means, outliers and facts of one movie, compressed and checksummed."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import asdict, fields
from pathlib import Path

import blosc
import numpy as np
import numpy.typing as npt

from komad.errors import OutputError
from komad.formats.atomic import write_bytes
from komad.model import Movie, OutlierPixels, StackFacts, StackSum
from komad.store import StackSumRow

SIGNATURE = b"komad stack sum 1\n"
"""How a file begins; another number is another content."""
CHECKSUM = struct.Struct("<I")


def save(directory: Path, movie: Movie, stack_sum: StackSum) -> StackSumRow:
    """Write a movie's stack sum into `directory`; gives the row that tells of it.

    Raises
    ------
    DiskFullError, OutputError
        The file cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {directory}: {error.strerror}") from error
    name = f"{movie.movie_id}.sum"
    packed = pack(stack_sum)
    write_bytes(directory / name, packed)
    ny, nx = stack_sum.total.shape
    return StackSumRow(
        file=name,
        n_frames=len(stack_sum.frame_means),
        ny=ny,
        nx=nx,
        dtype=stack_sum.total.dtype.name,
        mean=float(stack_sum.frame_means.sum()),
        n_outliers=len(stack_sum.outliers),
        frame_means=stack_sum.frame_means.astype("<f8").tobytes(),
        facts=stack_sum.facts,
        n_bytes=len(packed),
    )


def load(path: Path) -> StackSum | None:
    """Read a stack sum; None when the file is gone or damaged (it can be made again)."""
    try:
        return unpack(path.read_bytes())
    except OSError:
        return None


def pack(stack_sum: StackSum) -> bytes:
    """Compress: about a third of the size for counts, in a few hundredths of a second at 4096 x 4096.

    SIGNATURE, CRC-32 of the rest, and a NumPy `.npz` with the total as a blosc chunk in it.
    """
    outliers = stack_sum.outliers
    file = io.BytesIO()
    np.savez(
        file,
        total=_squeezed(stack_sum.total),
        shape=np.array(stack_sum.total.shape),
        dtype=np.array(stack_sum.total.dtype.name),
        frame_means=stack_sum.frame_means,
        facts=np.array(list(asdict(stack_sum.facts).values())),
        n_found=np.array([outliers.n_hot, outliers.n_dead, outliers.n_defects]),
        yx=outliers.yx,
        keep=outliers.keep,
        frame=outliers.frame,
    )
    arrays = file.getbuffer()
    return b"".join((SIGNATURE, CHECKSUM.pack(zlib.crc32(arrays)), arrays))


def unpack(data: bytes) -> StackSum | None:
    """Turn `pack` round; None when the bytes are damaged, or not of this version."""
    body = memoryview(data)[len(SIGNATURE) + CHECKSUM.size :]
    if data[: -len(body)] != SIGNATURE + CHECKSUM.pack(zlib.crc32(body)):
        return None
    with np.load(io.BytesIO(body)) as arrays:
        names = [each.name for each in fields(StackFacts)]
        n_hot, n_dead, n_defects = arrays["n_found"].tolist()
        return StackSum(
            total=_unsqueezed(arrays["total"], arrays["shape"], str(arrays["dtype"])),
            frame_means=arrays["frame_means"],
            outliers=OutlierPixels(
                yx=arrays["yx"],
                keep=arrays["keep"],
                frame=arrays["frame"],
                n_hot=n_hot,
                n_dead=n_dead,
                n_defects=n_defects,
            ),
            facts=StackFacts(**dict(zip(names, arrays["facts"].tolist(), strict=True))),
        )


def _squeezed(total: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    counts = np.ascontiguousarray(total)
    chunk = blosc.compress_ptr(
        counts.ctypes.data, counts.size, counts.itemsize, clevel=1, shuffle=blosc.BITSHUFFLE, cname="zstd"
    )
    return np.frombuffer(chunk, np.uint8)


def _unsqueezed(
    chunk: npt.NDArray[np.uint8], shape: npt.NDArray[np.int64], dtype: str
) -> npt.NDArray[np.uint16]:
    total = np.empty(shape, np.dtype(dtype))
    blosc.decompress_ptr(chunk.tobytes(), total.ctypes.data)
    return total
