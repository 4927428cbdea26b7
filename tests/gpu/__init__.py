"""What needs a GPU; skipped where CuPy or a device is missing. `python -m pytest tests/gpu` runs it alone."""
