"""How a loop is compiled, and spread over threads by bands of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from komad.arrays import thread_pool
from komad.compiler import compiled

FloatArray = npt.NDArray[np.float32]

# Contraction and reordering let LLVM vectorise the sums; NaN and infinity keep their meaning.
jit = compiled(fastmath=("contract", "reassoc", "nsz", "arcp"))

# Strict arithmetic, where the same numbers must come out to the last bit. Of a loop that is part of several others
# there are several copies, and which one runs depends on what was compiled before.
exact = compiled()

BAND_ROWS = 64


def over_bands(work: Callable[[int, int], Any], n: int, step: int) -> list[Any]:
    """Run `work(start, stop)` over [0, n) on the thread pool; the results in order."""
    return list(thread_pool().map(lambda start: work(start, min(start + step, n)), range(0, n, step)))
