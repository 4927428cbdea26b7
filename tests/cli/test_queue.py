"""Status, jobs, show, retry, supply: what an operator types."""

from __future__ import annotations

import json
from pathlib import Path

from komad.model import JobKind, JobState
from komad.store import Store
from tests.cli.conftest import Komad


def states(store: Store, movie_id: int) -> dict[JobKind, JobState]:
    """State of each job of a movie."""
    return {kind: job.state for kind, job in store.jobs_of(movie_id).items()}


def test_status_on_one_screen(komad: Komad, config: Path, store: Store) -> None:
    """Counts, the reason why something is held, and the error."""
    outcome = komad("status", "--config", config)
    assert outcome.code == 0
    assert "not running" in outcome.out
    assert "pixel size and dose per frame unknown" in outcome.out
    assert "b archive failed movie_truncated" in outcome.out


def test_status_as_json(komad: Komad, config: Path, store: Store) -> None:
    """Found, archived, failed and held as numbers; the folder is reachable."""
    document = json.loads(komad("status", "--json", "-c", config).out)
    assert document["counts"] == {
        "found": 2, "archived": 1, "corrected": 0, "failed": 1, "held": 1, "backlog": 0,
    }  # fmt: skip
    [folder] = document["folders"]
    assert (folder["path"], folder["reachable"]) == (str(config.parent / "camera"), True)
    assert folder["waiting"] is None, "no daemon looks at it"


def test_status_without_a_database_is_exit_code_5(komad: Komad, config: Path) -> None:
    """One line that says what to do, on stderr; nothing is made."""
    outcome = komad("status", "-c", config)
    assert (outcome.code, outcome.out) == (5, "")
    assert "komad run" in outcome.err
    assert not (config.parent / "komad-state").exists()


def test_jobs_filters(komad: Komad, config: Path, store: Store) -> None:
    """By state and by kind, as a table and as JSON."""
    listed = json.loads(komad("jobs", "-c", config, "--json", "--kind", "archive").out)["jobs"]
    assert [(job["stem"], job["state"]) for job in listed] == [("b", "failed"), ("a", "done")]
    table = komad("jobs", "-c", config, "--state", "failed").out
    assert "ends after frame 2 of 4" in table
    assert "held" not in table
    assert komad("jobs", "-c", config, "--state", "nonsense").code == 2


def test_show_tells_everything(komad: Komad, config: Path, store: Store) -> None:
    """File, parameters with their sources, what is missing, jobs and history."""
    text = komad("show", "b", "-c", config).out
    for wanted in ("/data/b.mrc", "4 of 8 x 8 uint8", "300 (configuration)", "pixel size", "movie_truncated"):
        assert wanted in text
    document = json.loads(komad("show", "b", "-c", config, "--json").out)
    assert document["stem"] == "b"
    assert [job["kind"] for job in document["jobs"]] == ["archive", "correct"]
    assert komad("show", "nothing", "-c", config).code == 2


def test_show_tells_of_the_detector(komad: Komad, config: Path, store: Store) -> None:
    """Noise, pattern and stack sums of a movie that was corrected; nothing where they were not measured."""
    measured = {
        "correlation_raw": 4e-3, "correlation_outliers": 8e-4, "correlation_koma": None, "pattern_spread": 0.006,
        "koma_mode": "trailing", "n_stacks": 7, "n_wanted": 24,
    }  # fmt: skip
    summary = {
        "motion_angstrom": {"total": 8, "early": 2, "late": 6}, "n_outliers": 3, "files": {}, "warnings": [],
    }  # fmt: skip

    def shown(**more: object) -> str:
        with store.write() as connection:
            connection.exec_driver_sql(
                "UPDATE jobs SET state = 'done', summary = ? WHERE kind = 'correct' AND movie_id = 1",
                (json.dumps(summary | more),),
            )
        return komad("show", "a", "-c", config).out

    text = shown(detector=measured)
    for wanted in ("raw 0.4 %, outliers filled 0.08 %", "0.6 % of the mean", "trailing, 7 of 24 stack sums"):
        assert wanted in text
    assert "KOMA" not in shown()


def test_retry_one_movie(komad: Komad, config: Path, store: Store) -> None:
    """The failed job is queued again; a movie without one has nothing to retry."""
    outcome = komad("retry", "b", "-c", config)
    assert (outcome.code, outcome.out) == (0, "b archive: queued\n")
    assert states(store, 2)[JobKind.ARCHIVE] is JobState.QUEUED
    assert "nothing to retry" in komad("retry", "a", "-c", config).out


def test_retry_by_error_code(komad: Komad, config: Path, store: Store) -> None:
    """Only those that failed with it."""
    assert "nothing to retry" in komad("retry", "--code", "disk_full", "-c", config).out
    assert states(store, 2)[JobKind.ARCHIVE] is JobState.FAILED
    komad("retry", "--code", "movie_truncated", "-c", config)
    assert states(store, 2)[JobKind.ARCHIVE] is JobState.QUEUED


def test_retry_needs_to_know_what(komad: Komad, config: Path, store: Store) -> None:
    """Neither names nor a filter, or both, is a usage error."""
    assert komad("retry", "-c", config).code == 2
    assert komad("retry", "a", "--failed", "-c", config).code == 2


def test_retry_again_makes_done_jobs_again(komad: Komad, config: Path, store: Store) -> None:
    """With --again a finished correct job is queued."""
    komad("supply", "--pixel-size", "0.83", "--dose-per-frame", "1.2", "-c", config)
    job = store.claim("w")
    assert job is not None
    store.finish(store.begin(job), {}, 1.0)
    assert "nothing to retry" in komad("retry", "a", "-c", config).out
    komad("retry", "a", "--again", "-c", config)
    assert states(store, 1)[JobKind.CORRECT] is JobState.QUEUED


def test_cancel_takes_what_waits_and_retry_brings_it_back(komad: Komad, config: Path, store: Store) -> None:
    """Waiting jobs are cancelled and done ones stay; there is nothing to cancel then; retry undoes it."""
    before = states(store, 1)[JobKind.ARCHIVE]
    outcome = komad("cancel", "a", "-c", config)
    assert (outcome.code, outcome.out) == (0, "a correct: cancelled\n")
    assert states(store, 1) == {JobKind.ARCHIVE: before, JobKind.CORRECT: JobState.CANCELLED}
    assert "nothing to cancel" in komad("cancel", "a", "-c", config).out
    komad("retry", "a", "-c", config)
    assert states(store, 1)[JobKind.CORRECT] is not JobState.CANCELLED


def test_supply_lets_held_movies_go_on(komad: Komad, config: Path, store: Store) -> None:
    """Part of what is missing leaves it held with what is left; the rest releases it."""
    assert states(store, 1)[JobKind.CORRECT] is JobState.HELD
    komad("supply", "--pixel-size", "0.83", "-c", config)
    assert "dose per frame unknown" in store.jobs_of(1)[JobKind.CORRECT].reason
    outcome = komad("supply", "--dose-per-frame", "1.2", "-c", config)
    assert outcome.out.startswith("2 movie(s) completed")
    assert states(store, 1)[JobKind.CORRECT] is JobState.QUEUED
    assert store.movie(1).acquisition.pixel_size_angstrom == 0.83


def test_supply_for_one_movie(komad: Komad, config: Path, store: Store) -> None:
    """Only that movie changes."""
    komad("supply", "--pixel-size", "0.5", "--movie", "b", "-c", config)
    assert store.movie(1).acquisition.pixel_size_angstrom is None
    assert store.movie(2).acquisition.pixel_size_angstrom == 0.5


def test_supply_for_a_movie_that_is_done(komad: Komad, config: Path, store: Store) -> None:
    """Its micrographs stay as they are until somebody makes them again: that is said."""
    komad("supply", "--pixel-size", "0.83", "--dose-per-frame", "1.2", "-c", config)
    job = store.claim("w")
    assert job is not None
    store.finish(store.begin(job), {}, 1.0)
    assert "komad retry --again a" in komad("supply", "--voltage", "200", "-m", "a", "-c", config).out
    assert "again" not in komad("supply", "--voltage", "200", "-m", "b", "-c", config).out


def test_supply_refuses_nothing_and_nonsense(komad: Komad, config: Path, store: Store) -> None:
    """No value, and a value out of range, are usage errors."""
    assert komad("supply", "-c", config).code == 2
    assert komad("supply", "--pixel-size", "-1", "-c", config).code == 2
    assert store.movie(1).acquisition.pixel_size_angstrom is None
