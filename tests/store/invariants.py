"""What holds in every database of komad, whatever was done to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from komad.model import JobKind, JobState
from komad.model.job import TRANSITIONS
from komad.store import HeldBy
from komad.store.database import Database
from komad.store.schema import REVISION

ENDED = "('done', 'failed', 'cancelled')"

WRONG = {
    "a movie without its two jobs": f"""
        SELECT movie_id FROM movies LEFT JOIN jobs USING (movie_id) GROUP BY movie_id
        HAVING group_concat(kind) IS NOT '{JobKind.ARCHIVE},{JobKind.CORRECT}'""",
    "an unknown state": f"SELECT job_id, state FROM jobs WHERE state NOT IN {tuple(map(str, JobState))}",
    "held without a reason, or a reason without being held": """
        SELECT job_id, state, reason, held_by FROM jobs WHERE (state = 'held') != (reason != '')
        OR (state = 'held') != (held_by != '')""",
    "held by something unknown": f"""
        SELECT job_id FROM jobs WHERE held_by NOT IN {("", *map(str, HeldBy))}""",
    "an archive that waits for what only a correct job can wait for": """
        SELECT job_id, held_by FROM jobs JOIN movies USING (movie_id) WHERE kind = 'archive'
        AND (held_by IN ('parameters', 'koma', 'gain') OR held_by = 'archive' AND header IS NOT NULL)""",
    "running without a worker or a claim": """
        SELECT job_id FROM jobs WHERE state = 'running' AND (worker_id = '' OR claimed_at IS NULL)""",
    "ended without its time, or not ended with one": f"""
        SELECT job_id, state FROM jobs WHERE (state IN {ENDED}) != (ended_at IS NOT NULL)""",
    "failed without an error": "SELECT job_id FROM jobs WHERE state = 'failed' AND error_code = ''",
    "done with an error": "SELECT job_id FROM jobs WHERE state = 'done' AND error_code != ''",
    "a correction that is done without a number, or a number without": """
        SELECT job_id, kind, state FROM jobs WHERE (kind = 'correct' AND state = 'done') != (sequence IS NOT NULL)""",
    "a number above the last one given": """
        SELECT sequence FROM jobs WHERE sequence >
        coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'last_sequence'), 0)""",
    "a correction before its archive": """
        SELECT c.job_id, c.state, a.state FROM jobs AS c JOIN jobs AS a USING (movie_id)
        WHERE c.kind = 'correct' AND a.kind = 'archive' AND a.state != 'done' AND c.state IN ('queued', 'running')""",
    "a correction that could be claimed without its parameters": """
        SELECT job_id FROM jobs JOIN movies USING (movie_id)
        WHERE kind = 'correct' AND state = 'queued' AND missing != ''""",
    "a correction that waits for an archive that is done": f"""
        SELECT c.job_id FROM jobs AS c JOIN jobs AS a USING (movie_id) WHERE c.kind = 'correct' AND a.kind = 'archive'
        AND c.held_by = '{HeldBy.ARCHIVE}' AND a.state = 'done'""",
    "a movie that cannot be read with an archive that could be claimed": """
        SELECT job_id FROM jobs JOIN movies USING (movie_id) WHERE header IS NULL AND state IN ('queued', 'running')""",
    "a stack sum of a movie that was never archived": """
        SELECT stack_sums.movie_id FROM stack_sums JOIN jobs USING (movie_id) WHERE kind = 'archive'
        AND NOT EXISTS (SELECT 1 FROM job_events WHERE job_events.job_id = jobs.job_id AND event = 'finish')""",
    "a device that is set aside without a time": "SELECT device FROM devices WHERE (reason != '') != (since != '')",
    "a fault of a job that is not there": """
        SELECT devices.device FROM devices, json_each(devices.faults) AS fault
        WHERE json_extract(fault.value, '$.job_id') NOT IN (SELECT job_id FROM jobs)""",
    "rows that point to nothing": "PRAGMA foreign_key_check",
}
"""What must not be there -> the query that finds it."""


def check_invariants(store: Database | Path) -> None:
    """Raise AssertionError when something is in the database, or in a history, that cannot be."""
    path = store if isinstance(store, Path) else store.path
    with closing(sqlite3.connect(path)) as connection:
        for what, query in WRONG.items():
            found = connection.execute(query).fetchmany(5)
            assert not found, f"{what}: {found}"
        check_histories(connection)


def check_histories(connection: sqlite3.Connection) -> None:
    """Every job came to its state by changes that the table allows, from the state in which it began."""
    states = dict(connection.execute("SELECT job_id, state FROM jobs"))
    before: dict[int, str] = {}
    for job_id, event, state in connection.execute(
        "SELECT job_id, event, state FROM job_events ORDER BY event_id"
    ):
        begun = [before[job_id]] if job_id in before else ["queued", "held"]
        assert any(TRANSITIONS.get((start, event)) == state for start in begun), (
            f"job {job_id}: {begun} {event} -> {state}"
        )
        before[job_id] = state
    wrong = {job_id: (states[job_id], state) for job_id, state in before.items() if states[job_id] != state}
    assert not wrong, f"jobs (state, last state of the history): {wrong}"
    untold = {job_id: state for job_id, state in states.items() if job_id not in before}
    assert set(untold.values()) <= {"queued", "held"}, untold


@pytest.fixture(autouse=True)
def _sound_databases(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: its databases are as they must be, unless the test says that it made one up."""
    directory: Path | None = None
    if "tmp_path" in request.fixturenames:
        directory = request.getfixturevalue("tmp_path")
    yield
    if directory is None or request.node.get_closest_marker("made_up_database"):
        return
    for path in directory.rglob("komad.sqlite"):
        if is_current(path):
            check_invariants(path)


def is_current(path: Path) -> bool:
    """Whether it is a database of this version."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchone() == (REVISION,)
    except sqlite3.Error:
        return False
