"""LZW as in TIFF, decoded with every index checked.

imagecodecs 2026.3.6 decodes LZW too, but writes outside its tables when the data are damaged: one wrong byte in a
camera's file then ends the whole process. Movies are damaged at times, so this one decoder is our own.

Source: TIFF 6.0, section 13 (codes of 9 to 12 bits, highest bit first, the width grows one code early).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.compiler import compiled

CLEAR = 256
END = 257
TABLE_SIZE = 4096


@compiled(inline=True)
def _copy(out: npt.NDArray[np.uint8], start: int, end: int, length: int) -> None:
    """Copy `length` bytes from `start` to `end`, where the first may reach into what is written."""
    if end - start < 8 or end + length + 8 > out.size:
        for i in range(length):
            out[end + i] = out[start + i]
        return
    # Eight at a time is half as fast again; what is copied too much is written over by the next string.
    for i in range(0, length, 8):
        a, b = start + i, end + i
        first = out[a], out[a + 1], out[a + 2], out[a + 3]
        second = out[a + 4], out[a + 5], out[a + 6], out[a + 7]
        out[b], out[b + 1], out[b + 2], out[b + 3] = first
        out[b + 4], out[b + 5], out[b + 6], out[b + 7] = second


@compiled()
def decode(data: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> int:
    """Fill `out` from `data`; gives the number of bytes written, fewer than `out` holds where the data end or break.

    Every string in the table is a stretch of the output that was written before (a string and the character after it),
    so the table keeps where it began and how long it is.
    """
    starts = np.empty(TABLE_SIZE, dtype=np.int64)
    lengths = np.empty(TABLE_SIZE, dtype=np.int64)
    n_codes, width = 258, 9
    bits, n_bits, position = np.uint64(0), 0, 0
    written, last_start, last_length = 0, 0, 0
    while written < out.size:
        while n_bits < width:
            if position == data.size:
                return written
            bits = (bits << np.uint64(8)) | np.uint64(data[position])
            position += 1
            n_bits += 8
        n_bits -= width
        code = int((bits >> np.uint64(n_bits)) & np.uint64((1 << width) - 1))
        if code == CLEAR:
            n_codes, width, last_length = 258, 9, 0
            continue
        if code == END:
            return written
        if last_length:
            if n_codes == TABLE_SIZE:
                return written
            starts[n_codes], lengths[n_codes] = last_start, last_length + 1
            n_codes += 1
            if n_codes + 1 == 1 << width and width < 12:
                width += 1
        last_start = written
        if code < CLEAR:
            out[written] = code
            last_length = 1
        elif code < n_codes and last_length:
            last_length = min(lengths[code], out.size - written)
            _copy(out, starts[code], written, last_length)
        else:
            return written
        written += last_length
    return written
