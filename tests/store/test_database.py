"""Where the database may lie, how it is opened and migrated."""

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from komad.errors import DamagedError, DiskFullError, StoreError
from komad.model import Movie
from komad.store import Store, rows, schema
from komad.store.database import refuse_network
from komad.store.tables import metadata
from tests.store.conftest import movie_at
from tests.test_mounts import MOUNTS


def test_wal_and_full_synchronous(store: Store) -> None:
    """The database is in WAL mode, synchronous FULL, and checks foreign keys, on every connection."""
    with store.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


def test_wal_that_does_not_take_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that silently refuses WAL is refused too."""
    monkeypatch.setattr("komad.store.database.WAL", "journal_mode = DELETE")
    with pytest.raises(StoreError, match=r"write-ahead logging .* local disk"):
        Store(tmp_path).open()


@pytest.mark.parametrize("directory", ["/data/komad", "/micro scope/s", "/home/me/komad"])
def test_network_file_systems_are_refused(directory: str) -> None:
    """NFS, SMB and sshfs are refused with the mount and what to do."""
    with pytest.raises(
        StoreError, match=r"network file system.*set state_directory to a folder on a local disk"
    ):
        refuse_network(Path(directory), MOUNTS)


def test_local_file_systems_are_taken() -> None:
    """A local disk under a network mount is no problem."""
    refuse_network(Path("/data/local/komad"), MOUNTS)


def test_migrations_give_the_schema_of_the_tables(store: Store, tmp_path: Path) -> None:
    """All migrations together give exactly the tables, columns and indices of tables.py."""
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine = create_engine(f"sqlite:///{tmp_path / 'direct.sqlite'}")
    metadata.create_all(engine)
    engine.dispose()

    def schema_of(path: Path) -> set[tuple[str, str, tuple[str, ...]]]:
        connection = sqlite3.connect(path)
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
        ).fetchall()
        connection.close()
        # The order of constraints within a table has no meaning.
        return {(kind, name, tuple(sorted(re.split(r"[\s(),]+", sql)))) for kind, name, sql in rows}

    assert schema_of(store.path) == schema_of(tmp_path / "direct.sqlite")


def test_revision_is_the_newest_migration() -> None:
    """The constant that spares the import of alembic names the head of the migrations."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(schema.migrations_directory()))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.REVISION


@pytest.mark.made_up_database
def test_database_of_the_first_schema(tmp_path: Path) -> None:
    """A filled database of an older komad is brought up to date: nothing is lost, and its jobs go on."""
    path = tmp_path / "komad.sqlite"
    engine = create_engine(f"sqlite:///{path}")
    config = alembic.config.Config()
    config.set_main_option("script_location", str(schema.migrations_directory()))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
    engine.dispose()
    connection = sqlite3.connect(path)
    movie = rows.movie_values(movie_at()) | {"stem": "a", "missing": ""}
    names = [name for name in movie if name not in {"koma", "series"}]
    values = [json.dumps(movie[name]) if isinstance(movie[name], dict) else movie[name] for name in names]
    marks = ", ".join("?" * len(names))
    connection.execute(f"INSERT INTO movies (movie_id, {', '.join(names)}) VALUES (1, {marks})", values)
    connection.execute("INSERT INTO stack_sums VALUES (1, '1.npz', 8, 96, 128, 'uint16', 9.5, 3, x'00')")
    jobs = [(1, "archive", "done"), (2, "correct", "held")]
    for job_id, kind, state in jobs:
        connection.execute(
            "INSERT INTO jobs (job_id, movie_id, kind, state, created_at, ended_at, reason, held_by)"
            " VALUES (?, 1, ?, ?, '2026', '2026', ?, ?)",
            (job_id, kind, state, *(("by hand", "person") if state == "held" else ("", ""))),
        )
    connection.commit()
    connection.close()
    with Store(tmp_path).open() as store:
        assert store.movie(1) == movie_at(movie_id=1)
        kept = store.stack_sum(1)
        assert kept is not None
        assert (kept.file, kept.facts, kept.n_bytes) == ("1.npz", None, 0)
        store.release(2)
        job = store.claim("w")
        assert job is not None
        assert job.job_id == 2
        assert store.koma_neighbours(store.movie(1)).facts == {}


def test_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a newer komad is refused with both versions and what to do, and is not touched."""
    Store(tmp_path).open().close()
    connection = sqlite3.connect(tmp_path / "komad.sqlite")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"schema 9999.*knows 0005.*another state_directory"):
        Store(tmp_path).open()


def test_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that breaks off leaves the database as it was."""

    def broken(connection: object) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x)")  # type: ignore[attr-defined]
        raise StoreError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_upgrade", broken)
        with pytest.raises(StoreError, match="broken off"):
            Store(tmp_path).open()
    with Store(tmp_path).open() as store, store.read() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    assert "half" not in tables
    assert "movies" in tables


def test_open_without_create(tmp_path: Path) -> None:
    """A reader does not make a database by the way."""
    with pytest.raises(StoreError, match="no komad has run"):
        Store(tmp_path).open(create=False)
    assert list(tmp_path.iterdir()) == []


def test_not_a_database(tmp_path: Path) -> None:
    """A damaged file is named, with what to do."""
    (tmp_path / "komad.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(
        DamagedError, match=r"komad\.sqlite is damaged \(file is not a database\).*komad rebuild"
    ):
        Store(tmp_path).open()


def test_full_disk(store: Store, make_movie: Callable[..., Movie]) -> None:
    """A database that cannot grow raises DiskFullError and keeps nothing of the transaction."""
    with store.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def add_many() -> None:
        for number in range(200):
            store.add_movie(make_movie(f"/data/{number:0500}.mrc"))

    with pytest.raises(DiskFullError, match="make room"):
        add_many()
    known = len(store.known_files())
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 2 * known
