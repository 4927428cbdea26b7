"""What needs a GPU; skipped where CuPy or a device is missing. `python -m pytest tests/gpu` runs it alone.

The tests are those that are played by the host elsewhere: the real CuPy stands in the place of the one that is played.
"""
