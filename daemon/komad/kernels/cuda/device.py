"""Compiles the CUDA sources beside this file and launches their kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from komad.arrays import Array, beside, namespace
from komad.kernels.cpu.vector import BLOCK
from komad.kernels.plan import SUB_PIXEL_STEPS, TAPS, TILE, WINDOW
from komad.model import ALL_FRAMES

SOURCES = Path(__file__).parent
THREADS = 256
"""Per block: enough to hide the latency of memory on every device, few enough for the registers of each."""
LANES = 32
"""Threads that share a row: those of a warp, which read together."""
RING_LANES = 256
"""Threads that share a ring of coefficients: a single picture has to keep a device busy."""
ALIGNED = 16
"""Bytes between which arrays begin that are brought together."""
BAND_ROWS = 8
"""Rows that each of them goes through where many are summed up."""
SIZES = {
    "LANES": LANES,
    "RING_LANES": RING_LANES,
    "BAND_ROWS": BAND_ROWS,
    "TAPS": TAPS,
    "STEPS": SUB_PIXEL_STEPS,
    "TILE_Y": TILE[0],
    "TILE_X": TILE[1],
    "BLOCK_Y": BLOCK[0],
    "BLOCK_X": BLOCK[1],
    "WINDOW": WINDOW,
    "ALL_FRAMES": f"({ALL_FRAMES})",
}

C_TYPES = {
    "uint8": "unsigned char",
    "int8": "signed char",
    "uint16": "unsigned short",
    "int16": "short",
    "uint32": "unsigned int",
    "int32": "int",
    "float32": "float",
    "float64": "double",
}


def launch(source: str, kernel: str, n_items: int, *arguments: Any, **defines: object) -> None:
    """Run one thread per item.

    Parameters
    ----------
    source, kernel : file beside this one, and a function in it whose first parameter is the number of items.
    arguments : the others: arrays, contiguous and on the device, and NumPy scalars of the parameter's type.
    defines : macros to compile with; each choice is a module of its own, compiled once per device and kept on disk.
    """
    if not n_items:
        return
    xp = namespace(*arguments)
    run = _kernel(xp, source, kernel, tuple(sorted(defines.items())), xp.cuda.Device().id)
    n_blocks = -(-n_items // THREADS)
    run((n_blocks,), (THREADS,), (np.int64(n_items), *arguments))


def together(like: Array, *arrays: Array) -> list[Array]:
    """Small arrays of the host brought to where `like` is in one transfer: each alone would cost that of a kernel."""
    parts = [np.ascontiguousarray(array) for array in arrays]
    starts = np.cumsum([0, *(-(-part.nbytes // ALIGNED) * ALIGNED for part in parts)])
    places = [slice(start, start + part.nbytes) for start, part in zip(starts, parts, strict=False)]
    packed = np.zeros(starts[-1], np.uint8)
    for part, place in zip(parts, places, strict=True):
        packed[place] = part.reshape(-1).view(np.uint8)
    there = beside(like, packed)
    return [
        there[place].view(part.dtype).reshape(part.shape) for part, place in zip(parts, places, strict=True)
    ]


def text(source: str) -> str:
    """A source in one piece: CuPy knows what it keeps on disk by this text, and sees no change of an included file."""
    sizes = "".join(f"#define {name} {value}\n" for name, value in SIZES.items())
    return sizes + "".join((SOURCES / name).read_text(encoding="utf-8") for name in ("common.cuh", source))


def options(defines: tuple[tuple[str, object], ...]) -> tuple[str, ...]:
    """What the compiler is told."""
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in defines))


@cache
def _kernel(xp: Any, source: str, kernel: str, defines: tuple[tuple[str, object], ...], device: int) -> Any:
    return _module(xp, source, defines, device).get_function(kernel)


@cache
def _module(xp: Any, source: str, defines: tuple[tuple[str, object], ...], device: int) -> Any:  # noqa: ARG001 - part of the key
    return xp.RawModule(code=text(source), options=options(defines))
