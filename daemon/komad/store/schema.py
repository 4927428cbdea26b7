"""The schema's version, and how an older database is brought up to it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

import komad
from komad.errors import StoreError

REVISION = "0005"
"""The newest migration. Kept here so that opening an up-to-date database need not import alembic."""


def bring_up_to_date(engine: Engine, path: Path) -> None:
    """Run the migrations that the database at `path` lacks, all of them or none.

    Raises
    ------
    StoreError
        It was made by a newer komad.
    """
    with engine.connect() as connection, connection.begin():
        revision = current_revision(connection)
    if revision == REVISION:
        return
    if revision is not None and revision > REVISION:
        raise StoreError(
            f"the database {path} has schema {revision}, this komad {komad.__version__} knows {REVISION}: it was "
            "used by a newer komad; install that one, or set another state_directory"
        )
    with engine.connect().execution_options(komad_begin="IMMEDIATE") as connection, connection.begin():
        _upgrade(connection)


def current_revision(connection: Connection) -> str | None:
    """Revision of the last migration that was run, None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def migrations_directory() -> Path:
    """Return the folder `migrations`: inside the installed package, or at the root of a checkout."""
    package = Path(komad.__file__).parent
    for place in (package / "migrations", package.parents[1] / "migrations"):
        if (place / "env.py").is_file():
            return place
    raise StoreError(
        f"this installation of komad is incomplete: {package / 'migrations'} is missing; install it again"
    )


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import and seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
