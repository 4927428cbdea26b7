"""The `komad` command."""

from komad.cli.main import main

__all__ = ["main"]
