"""komad: the preprocessing daemon beside a cryo-electron microscope.

Other programs import from here what `__all__` names; docs/pipelines.md shows it. It is loaded when it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from komad.api import (
        EerRendering,
        FinishedMovie,
        KomadError,
        MovieError,
        OpenMovie,
        OutputError,
        open_movie,
        read_mrcz,
        session,
    )

# The only linear algebra here is of small matrices, for which threads of BLAS cost more than they bring, and much more
# while other threads compute. It is read when NumPy is imported first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
__all__ = [
    "EerRendering",
    "FinishedMovie",
    "KomadError",
    "MovieError",
    "OpenMovie",
    "OutputError",
    "open_movie",
    "read_mrcz",
    "session",
]


if not TYPE_CHECKING:  # who checks types knows the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'komad' has no attribute {name!r}")
        return getattr(import_module("komad.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
