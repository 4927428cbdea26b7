"""komad: the preprocessing daemon beside a cryo-electron microscope."""

__version__ = "0.1.0"
