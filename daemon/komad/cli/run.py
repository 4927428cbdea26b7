"""`komad run`: the daemon."""

from __future__ import annotations

from komad.cli.locate import ConfigOption, config_path


def run(config: ConfigOption = None) -> None:
    """Watch the configured folders and process every movie that appears, until stopped.

    Stops on SIGTERM or Ctrl-C after the jobs at hand; a second signal stops at once. Nothing is lost either way.

    Example: komad run --config /etc/komad/komad.toml
    """
    from komad import app
    from komad.config import load_settings

    app.run(load_settings(config_path(config)))
