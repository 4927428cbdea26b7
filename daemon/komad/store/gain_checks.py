"""What the check of the gain's orientation found, one row of `meta` for each series."""

from __future__ import annotations

import json
from dataclasses import asdict

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.store.detector import WRONG_GAIN
from komad.store.rows import GainCheckRow
from komad.store.tables import meta

KEY = "gain_check:"
"""And the name of the series."""


def get(connection: Connection, series: str) -> GainCheckRow | None:
    """Return what was found in a series; None when it was not checked yet."""
    value = connection.execute(select(meta.c.value).where(meta.c.key == KEY + series)).scalar()
    return None if value is None else GainCheckRow(**json.loads(value))


def put(connection: Connection, series: str, row: GainCheckRow) -> None:
    """Store what was found, in place of what was there."""
    value = json.dumps(asdict(row))
    statement = upsert(meta).values(key=KEY + series, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


def undecided(connection: Connection) -> dict[str, GainCheckRow]:
    """Series -> what was found, of those whose gain seems to be wrong and that no person has accepted."""
    rows = connection.execute(select(meta.c.key, meta.c.value).where(meta.c.key.startswith(KEY)))
    found = {key.removeprefix(KEY): GainCheckRow(**json.loads(value)) for key, value in rows}
    return {series: row for series, row in found.items() if row.verdict in WRONG_GAIN and not row.accepted}


def why_held(connection: Connection, series: str) -> str:
    """Say why the correct jobs of a series wait; '' when they do not."""
    row = get(connection, series)
    if row is None or row.accepted or not row.holds:
        return ""
    return (
        f"{row.sentence}; correct the configuration and restart komad, or say with `komad gain accept` that the gain "
        "is as it should be"
    )
