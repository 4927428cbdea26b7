"""`komad run`: the daemon."""

from __future__ import annotations

import os

from komad.cli.locate import ConfigOption, config_path


def run(config: ConfigOption = None) -> None:
    """Watch the configured folders and process every movie that appears, until stopped.

    Stops on SIGTERM or Ctrl-C after the jobs at hand; a second signal stops at once. Nothing is lost either way. SIGHUP
    (systemctl reload komad) reads the configuration again; what needs a restart is named in the log.

    Example: komad run --config /etc/komad/komad.toml
    """
    from komad.config import load_settings

    path = config_path(config)
    settings = load_settings(path)
    # Before anything of numba is imported; the workers inherit it. The service's user may have no other place.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(settings.state_directory / "numba-cache"))

    from komad import app

    app.run(settings, reread=lambda: load_settings(path))
