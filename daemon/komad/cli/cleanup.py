"""`komad cleanup`: which movies would be removed, and why others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli.locate import ConfigOption, config_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from komad.config import Settings
    from komad.work.cleanup import Verdict


def cleanup(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and why each other movie stays.")
    ] = False,
) -> None:
    """Remove the camera's files whose archives are proven, as `[cleanup]` of the configuration says.

    `komad run` does it by itself; this is for the rest of a session that is over. Each movie and its archive are read
    from their disks and compared before the movie is removed.

    Example: komad cleanup --dry-run
    """
    from komad.config import load_settings
    from komad.work.cleanup import Cleaner

    settings = load_settings(config_path(config))
    if dry_run:
        _tell(Cleaner(settings).look(), _in_vain(settings), settings)
    else:
        _clean(settings)


def _in_vain(settings: Settings) -> Mapping[str, str]:
    """Movies that the daemon compared and kept, and why."""
    from datetime import UTC, datetime

    from komad.store.overview import read_overview

    state = read_overview(settings.state_directory, now=datetime.now(UTC)).cleanup
    return {} if state is None else state.kept


def _tell(verdicts: Sequence[Verdict], in_vain: Mapping[str, str], settings: Settings) -> None:
    from komad.status.text import size
    from komad.work.cleanup import Fate

    if settings.cleanup.delete_movies_after_h is None:
        print("movies stay: cleanup.delete_movies_after_h is not set; if it were 0:")
    due = [verdict for verdict in verdicts if verdict.fate is Fate.DUE]
    due = [verdict for verdict in due if verdict.source.stem not in in_vain]
    for verdict in verdicts:
        why = verdict.reason or in_vain.get(verdict.source.stem, "")
        if verdict.fate is not Fate.GONE:
            print(f"{verdict.source.path}: {f'stays: {why}' if why else 'would go'}")
    n_gone = sum(verdict.fate is Fate.GONE for verdict in verdicts)
    print(
        f"{len(due)} movies would go ({size(sum(verdict.source.size_bytes for verdict in due))}) if their archives are "
        f"proven then, {len(verdicts) - len(due) - n_gone} stay, {n_gone} are gone"
    )


def _clean(settings: Settings) -> None:
    from komad import log
    from komad.status.text import size
    from komad.store import Store
    from komad.store.overview import CleanupState
    from komad.work.cleanup import Cleaner, only_one

    log.configure(settings.log)
    last: list[CleanupState] = []

    def on_change(state: CleanupState) -> None:
        last[:] = [state]
        store.put_cleanup(state)

    with Store(settings.state_directory).open(create=False) as store, only_one(settings.state_directory):
        n_removed = Cleaner(settings).clean(on_change)
    for stem, why in last[0].kept.items():
        print(f"{stem} stays: {why}")
    print(f"{n_removed} movies removed; {size(last[0].removed_bytes)} since the first one")
