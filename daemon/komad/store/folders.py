"""The watched folders as the daemon sees them, for `komad status`, which is another process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.dialects.sqlite import insert as upsert

from komad.store.database import Database
from komad.store.overview import FOLDERS, FolderState
from komad.store.tables import meta


class Folders(Database):
    """One row of `meta` for all of them."""

    def put_folders(self, states: Sequence[FolderState]) -> None:
        """Replace what was known of the watched folders."""
        value = json.dumps([asdict(state) for state in states])
        statement = upsert(meta).values(key=FOLDERS, value=value)
        with self.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
