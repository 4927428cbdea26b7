"""The daemon put together: settings in, running daemon out."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from contextlib import ExitStack

from komad import log
from komad.app.daemon import Daemon
from komad.app.intake import Intake
from komad.app.references import check_references, reference_directory
from komad.app.signals import Signals
from komad.app.start import Start
from komad.app.state import close_to_others, locked
from komad.config import Settings
from komad.errors import ConfigError
from komad.output.session import PROCESSED
from komad.output.sharing import share_results
from komad.store import Store
from komad.store.health import refuse_damage

__all__ = ["Daemon", "Intake", "check_references", "locked", "reference_directory", "run"]


def run(settings: Settings, *, reread: Callable[[], Settings] | None = None) -> int:
    """Run until SIGTERM or SIGINT, then end after the jobs in hand; a second signal ends at once. Gives 0.

    Parameters
    ----------
    settings
        Loaded and checked.
    reread
        Reads the settings again: on SIGHUP.

    Raises
    ------
    ConfigError, ReferenceFileError
        Nothing is watched, results cannot be given to their group, or a reference that the configuration names cannot
        be used.
    AlreadyRunningError
        Another komad works with the state directory, or writes to the output directory.
    DamagedError, StoreError
        The database is damaged, or cannot be used.
    OutputError
        Results can never be written where they shall go.
    DeviceError
        No device works.
    """
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: then the journal shows where we were
    log.configure(settings.log)
    if not settings.watch:
        raise ConfigError("no folder is watched: add a [[watch]] table; `komad config example` prints one")
    share_results(settings)
    signals = Signals()
    signals.listen()
    with locked(settings.state_directory), ExitStack() as held:
        if not Start(settings, held).wait(signals):
            return 0
        refuse_damage(
            settings.state_directory,
            used=(settings.output.directory / PROCESSED).exists()
            or (settings.state_directory / "stack_sums").exists(),
        )
        with Store(settings.state_directory).open() as store:
            close_to_others(settings.state_directory)
            check_references(settings, reference_directory(settings))
            Daemon(settings, store, signals=signals, reread=reread).run()
    return 0
