"""What the clean-up of movies did and has to do, for `komad status`, which is another process."""

from __future__ import annotations

import json
from dataclasses import asdict

from sqlalchemy import delete
from sqlalchemy.dialects.sqlite import insert as upsert

from komad.store.database import Database
from komad.store.overview import CLEANUP, CleanupState
from komad.store.tables import meta


class Cleanups(Database):
    """One row of `meta`."""

    def put_cleanup(self, state: CleanupState | None) -> None:
        """Replace what was known; None when movies stay."""
        if state is None:
            with self.write() as connection:
                connection.execute(delete(meta).where(meta.c.key == CLEANUP))
            return
        value = json.dumps(asdict(state))
        statement = upsert(meta).values(key=CLEANUP, value=value)
        with self.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
