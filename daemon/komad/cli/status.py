"""`komad status`: one screen, or JSON."""

from __future__ import annotations

import json as jsonlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli.locate import ConfigOption, Places, config_path, read_places

if TYPE_CHECKING:
    from komad.status.view import StatusView


def status(
    config: ConfigOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show it again every two seconds.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON for scripts; the keys are stable.")
    ] = False,
) -> None:
    """Show how the session goes: last movie, counts, rates, backlog, workers, disks, detector, errors.

    Example: komad status --watch
    """
    places = read_places(config_path(config))
    if json:
        from komad.status.json import to_json

        print(jsonlib.dumps(to_json(current_view(places)), indent=1))
    elif watch:
        follow(places)
    else:
        from rich.console import Console

        from komad.status.text import render

        Console().print(render(current_view(places)))


def current_view(places: Places) -> StatusView:
    """Read the facts and work out the view of this moment."""
    from komad.status.places import look
    from komad.status.view import build_view
    from komad.store.detector import read_detector
    from komad.store.overview import read_overview

    now = datetime.now(UTC)
    return build_view(
        read_overview(places.state, now=now),
        look(places.roles()),
        detector=read_detector(places.state),
        now=now,
        lease_timeout_s=places.lease_timeout_s,
        min_free_gb=places.min_free_gb,
    )


def follow(places: Places, *, interval_s: float = 2.0) -> None:
    """Show the view again and again until Ctrl-C."""
    from rich.live import Live

    from komad.status.text import render

    with Live(render(current_view(places)), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                live.update(render(current_view(places)), refresh=True)
        except KeyboardInterrupt:
            pass
