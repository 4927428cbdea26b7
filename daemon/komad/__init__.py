"""komad: the preprocessing daemon beside a cryo-electron microscope."""

import os

# The only linear algebra here is of small matrices, for which threads of BLAS cost more than they bring, and much more
# while other threads compute. It is read when NumPy is imported first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
