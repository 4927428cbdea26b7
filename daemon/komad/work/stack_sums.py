"""Stack sums as bytes and as files: total, frame means, outliers and facts of one movie, compressed and checksummed."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import asdict, fields
from pathlib import Path

import blosc
import numpy as np

from komad.formats.atomic import make_directory, write_bytes
from komad.model import Movie, OutlierPixels, StackFacts, StackSum
from komad.store import StackSumRow

SIGNATURE = b"komad stack sum 1\n"
"""How a file begins; another number is another content."""
NUMBER = struct.Struct("<I")


def save(directory: Path, movie: Movie, stack_sum: StackSum) -> StackSumRow:
    """Write a movie's stack sum into `directory`; gives the row that tells of it.

    Raises
    ------
    DiskFullError, OutputError
        The file cannot be written.
    """
    make_directory(directory)
    name = f"{movie.movie_id}.sum"
    packed = pack(stack_sum)
    write_bytes(directory / name, packed)
    return row_of(name, stack_sum, n_bytes=len(packed))


def row_of(name: str, stack_sum: StackSum, *, n_bytes: int) -> StackSumRow:
    """Give the row that tells of a stack sum in the file `name`."""
    ny, nx = stack_sum.total.shape
    return StackSumRow(
        file=name,
        n_frames=len(stack_sum.frame_means),
        ny=ny,
        nx=nx,
        dtype=stack_sum.total.dtype.name,
        mean=float(stack_sum.frame_means.sum()),
        n_outliers=len(stack_sum.outliers.throughout_yx),
        frame_means=_frame_means(stack_sum),
        facts=stack_sum.facts,
        n_bytes=n_bytes,
    )


def load(path: Path, row: StackSumRow | None = None) -> StackSum | None:
    """Read a stack sum; None when the file is gone or damaged (it can be made again).

    And when it is that of another movie than `row` tells of: a folder that was copied back may have files swapped.
    """
    try:
        stack_sum = unpack(path.read_bytes())
    except OSError:
        return None
    is_another = stack_sum is not None and row is not None and _frame_means(stack_sum) != row.frame_means
    return None if is_another else stack_sum


def load_kept(directory: Path, row: StackSumRow | None) -> StackSum | None:
    """Read the stack sum that a movie's row tells of; None when there is none, or its file is not kept any more."""
    return load(directory / row.file, row) if row is not None and row.file else None


def pack(stack_sum: StackSum) -> bytes:
    """Compress: about a third of the size for counts, in some hundredths of a second at 4096 x 4096.

    SIGNATURE; CRC-32 of the rest; length of a NumPy `.npz` of what is small; this `.npz`; the total as one blosc chunk.
    """
    outliers, total = stack_sum.outliers, np.ascontiguousarray(stack_sum.total)
    small = io.BytesIO()
    np.savez(
        small,
        shape=np.array(total.shape),
        dtype=np.array(total.dtype.name),
        frame_means=stack_sum.frame_means,
        facts=np.array(list(asdict(stack_sum.facts).values())),
        n_found=np.array([outliers.n_hot, outliers.n_dead, outliers.n_defects]),
        yx=outliers.yx,
        keep=outliers.keep,
        frame=outliers.frame,
        largest=np.array([] if stack_sum.largest_count is None else [stack_sum.largest_count]),
    )
    chunk = blosc.compress_ptr(
        total.ctypes.data, total.size, total.itemsize, clevel=1, shuffle=blosc.BITSHUFFLE, cname="zstd"
    )
    arrays = small.getvalue()
    body = b"".join((NUMBER.pack(len(arrays)), arrays, chunk))
    return b"".join((SIGNATURE, NUMBER.pack(zlib.crc32(body)), body))


def unpack(data: bytes) -> StackSum | None:
    """Turn `pack` round; None when the bytes are damaged, or not of this version."""
    start = len(SIGNATURE) + NUMBER.size
    body = memoryview(data)[start:]
    if data[:start] != SIGNATURE + NUMBER.pack(zlib.crc32(body)):
        return None
    end = NUMBER.size + NUMBER.unpack_from(body)[0]
    with np.load(io.BytesIO(body[NUMBER.size : end])) as arrays:
        names = [each.name for each in fields(StackFacts)]
        n_hot, n_dead, n_defects = arrays["n_found"].tolist()
        total = np.empty(arrays["shape"], np.dtype(str(arrays["dtype"])))
        blosc.decompress_ptr(bytes(body[end:]), total.ctypes.data)
        return StackSum(
            total=total,
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
            # Files of an older komad have none.
            largest_count=next(iter(arrays["largest"].tolist()), None) if "largest" in arrays else None,
        )


def _frame_means(stack_sum: StackSum) -> bytes:
    """As the row has them; no two movies have the same."""
    return stack_sum.frame_means.astype("<f8").tobytes()
