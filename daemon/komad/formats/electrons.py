"""Lists of electrons, as on the pages of an EER movie, added to a frame of counts with every index checked.

imagecodecs 2026.3.6 decodes them too, a quarter as fast at the camera's pixels and a twelfth at halves of them, takes a
list that breaks off for a whole one, and reads those of compression 65000 otherwise than RELION (decision 0008).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from komad.compiler import compiled

WORD_BITS = 64
SPARE_WORDS = 2
"""Behind the last list: two words are read at a time."""
BAND_BYTES = 1 << 17
"""Of the frame that is filled from all lists before the next: what stays in a core's cache. A frame of 8192 x 8192 is
filled four times as fast as list by list."""

ENDS_EARLY, GOES_ON = 1, 2
"""What is wrong with a list: it ends before the last pixel; a run passes the last pixel."""


@compiled(inline=True)
def _bits_at(words: npt.NDArray[np.uint64], at: int) -> np.uint64:
    """Give the 64 bits from bit `at` on."""
    word, shift = at >> 6, np.uint64(at & 63)
    return (words[word] >> shift) | ((words[word + 1] << np.uint64(1)) << (np.uint64(63) - shift))


@compiled()
def _add_band(
    words: npt.NDArray[np.uint64],
    at: int,
    end: int,
    pixel: int,
    band_end: int,
    nx: int,
    widths: tuple[int, int, int, int],
    zoom: int,
    flat: npt.NDArray[np.uint8 | np.uint16],
) -> tuple[int, int]:
    """Add the electrons of a list from bit `at` and from `pixel` on that lie before pixel `band_end`.

    Gives bit and pixel to go on with: those before the first run that does not end before `band_end`, or where the list
    breaks off.
    """
    run_bits, x_bits, y_bits, empty_run_bits = widths
    full = (1 << run_bits) - 1
    code_bits = run_bits + x_bits + y_bits
    x_mask, x_middle, x_shift = (1 << x_bits) - 1, 1 << x_bits >> 1, x_bits - zoom
    y_mask, y_middle, y_shift = (1 << y_bits) - 1, 1 << y_bits >> 1, y_bits - zoom
    width = nx << zoom
    y = pixel // nx
    row_end = (y + 1) * nx
    while at + run_bits <= end and pixel < band_end:
        bits, left = _bits_at(words, at), WORD_BITS
        while left >= code_bits:
            run = np.int64(bits & np.uint64(full))  # signed: with unsigned ones sums become floats
            if run == full:
                pixel += full
                bits >>= np.uint64(empty_run_bits)
                at += empty_run_bits
                left -= empty_run_bits
                if pixel >= band_end:
                    return at, pixel
                continue
            if pixel + run >= band_end:
                return at, pixel
            pixel += int(run)
            place = pixel
            if zoom:
                while pixel >= row_end:
                    y += 1
                    row_end += nx
                code = np.int64(bits >> np.uint64(run_bits))
                x_in = ((code & x_mask) ^ x_middle) >> x_shift
                y_in = (((code >> x_bits) & y_mask) ^ y_middle) >> y_shift
                place = ((y << zoom) + int(y_in)) * width + ((pixel - row_end + nx) << zoom) + int(x_in)
            flat[np.uint64(place)] += 1
            pixel += 1
            bits >>= np.uint64(code_bits)
            at += code_bits
            left -= code_bits
    return at, pixel


@compiled()
def add_electrons(
    words: npt.NDArray[np.uint64],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    widths: tuple[int, int, int, int],
    zoom: int,
    out: npt.NDArray[np.uint8 | np.uint16],
) -> tuple[int, int]:
    """Add the electrons of some raw frames to `out`, which is changed in place.

    An electron is a run length (empty pixels since the last one, row after row), then its place within the pixel, x
    before y, counted from the pixel's middle; a run of all ones stands for so many empty pixels alone. Lowest bits
    come first. A list ends with the run that reaches the last pixel.

    Parameters
    ----------
    words
        Bits of all lists, and SPARE_WORDS more words.
    starts, ends
        (n_raw_frames,) first bit of each list, and the one behind its last.
    widths
        Bits of a run, of x and y of a place (24 at most together), and those that a run without an electron takes.
    zoom
        Binary logarithm of the upsampling, not above the bits of x or y.
    out
        (ny << zoom, nx << zoom), contiguous. No pixel can gain more than one count from each raw frame.

    Returns
    -------
    Index of a raw frame that is damaged and what is wrong with it, or (-1, 0); `out` is of no use then.
    """
    run_bits = widths[0]
    full = (1 << run_bits) - 1
    ny, nx = out.shape[0] >> zoom, out.shape[1] >> zoom
    n_pixels, flat = ny * nx, out.reshape(-1)
    rows = max(1, BAND_BYTES // (max(1, out.shape[1] << zoom) * out.itemsize))
    position, next_pixel = starts.copy(), np.zeros(starts.size, np.int64)
    for top in range(0, ny, rows):
        band_end = min(top + rows, ny) * nx
        for i in range(starts.size):
            position[i], next_pixel[i] = _add_band(
                words, position[i], ends[i], next_pixel[i], band_end, nx, widths, zoom, flat
            )
    for i in range(starts.size):
        at, pixel = position[i], next_pixel[i]
        if pixel < n_pixels:  # the last run is still to come
            if at + run_bits > ends[i]:
                return i, ENDS_EARLY
            pixel += np.int64(_bits_at(words, at) & np.uint64(full))
        if pixel > n_pixels:
            return i, GOES_ON
        if at > ends[i]:
            return i, ENDS_EARLY
    return -1, 0
