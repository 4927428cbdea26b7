"""Compiles the CUDA sources beside this file and launches their kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from komad.arrays import namespace

SOURCES = Path(__file__).parent
BLOCK = 256
"""Threads per block: enough to hide the latency of memory on every device, few enough for the registers of each."""

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
    xp = namespace(*arguments)
    function = _module(xp, source, tuple(sorted(defines.items())), xp.cuda.Device().id).get_function(kernel)
    function((-(-n_items // BLOCK),), (BLOCK,), (np.int64(n_items), *arguments))


@cache
def _module(xp: Any, source: str, defines: tuple[tuple[str, object], ...], device: int) -> Any:  # noqa: ARG001 - part of the key
    options = ("--std=c++17", f"-I{SOURCES}", *(f"-D{name}={value}" for name, value in defines))
    return xp.RawModule(code=(SOURCES / source).read_text(encoding="utf-8"), options=options)
