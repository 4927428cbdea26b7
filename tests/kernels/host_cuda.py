"""The CUDA sources compiled for the host: every kernel is called for one item after the other."""

from __future__ import annotations

import ctypes
import re
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

SHIM = """
#include <algorithm>
#include <cmath>
#ifdef __SSE__
#include <xmmintrin.h>
// CuPy has its kernels compiled with -ftz=true: numbers below 1.2e-38 are zero.
struct Flushing {
    const unsigned before = _mm_getcsr();
    Flushing() { _mm_setcsr(before | 0x8040); }
    ~Flushing() { _mm_setcsr(before); }
};
#else
struct Flushing { Flushing() {} };
#endif
#define __global__
#define __device__
#define __align__ alignas
#define __fadd_rn(a, b) ((a) + (b))
#define __fmul_rn(a, b) ((a) * (b))
#define __fdiv_rn(a, b) ((a) / (b))
using std::max;
using std::min;
static thread_local long long komad_item;
#define ITEM komad_item
"""
KERNEL = re.compile(r"^KERNEL (\w+)\((.*?)\)\s*\{", re.MULTILINE | re.DOTALL)
C_TYPES = {"int32": ctypes.c_int, "int64": ctypes.c_longlong, "float32": ctypes.c_float}


def library(code: str, macros: tuple[str, ...]) -> ctypes.CDLL:
    """Compile a source as it is given to CUDA, with `-DNAME=value` macros."""
    return _compiled(code, tuple(sorted(macros)))


def call(compiled: ctypes.CDLL, kernel: str, *arguments: Any) -> None:
    """Run a kernel for all items; arrays are those of the host."""
    function = getattr(compiled, f"host_{kernel}")
    function.restype = None
    function(*map(_as_c, arguments))


def _as_c(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    return C_TYPES[argument.dtype.name](argument)  # a plain number has no type that a kernel could be given


@cache
def _compiled(text: str, macros: tuple[str, ...]) -> ctypes.CDLL:
    """One loop around each kernel, compiled with warnings as errors."""
    loops = []
    for name, parameters in KERNEL.findall(text):
        names = ", ".join(re.split(r"[ *]", parameter.strip())[-1] for parameter in parameters.split(","))
        loop = f"for (komad_item = 0; komad_item < n_items; ++komad_item) {name}({names});"
        loops.append(f'extern "C" void host_{name}({parameters}) {{ Flushing flushing; {loop} }}')
    folder = Path(mkdtemp(prefix="komad-cuda-"))
    code, built = folder / "kernels.cpp", folder / "kernels.so"
    code.write_text("\n".join([SHIM, text, *loops]), encoding="utf-8")
    # Unfused, as the device is told to where the last bit counts.
    flags = ["-O2", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, *macros, "-o", str(built), str(code)], check=True)
    loaded = ctypes.CDLL(str(built))
    for path in (code, built, folder):
        path.unlink() if path.is_file() else path.rmdir()
    return loaded
