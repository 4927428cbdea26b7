"""Status, jobs, show, retry, supply: what an operator types."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from komad.cli.jobs import _facts
from komad.model import EerRendering, JobKind, JobState, MovieFormat, MovieHeader
from komad.store import PausedBy, Store
from komad.store.listing import find_movie
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


def test_long_names_leave_room_for_the_rest(
    komad: Komad, config: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a narrow terminal a name as EPU's is folded, and number, kind, state and reason are whole."""
    (job, *_) = find_movie(config.parent / "komad-state", "b").jobs
    name = "FoilHole_7001_" + 5 * "0123456789"
    monkeypatch.setattr("komad.store.listing.list_jobs", lambda *_, **__: [replace(job, stem=name)])
    monkeypatch.setenv("COLUMNS", "80")
    lines = komad("jobs", "-c", config).out.splitlines()[3:]
    first = lines[0].split()
    assert [first[0], *first[2:5]] == [str(job.job_id), "archive", "failed", str(job.attempt)]
    assert "".join(line[8:].split("  ")[0].strip() for line in lines) == name


def test_show_tells_everything(komad: Komad, config: Path, store: Store) -> None:
    """File, parameters with their sources, what is missing, jobs and history."""
    text = komad("show", "b", "-c", config).out
    for wanted in ("/data/b.mrc", "4 of 8 x 8 uint8", "300 (configuration)", "pixel size", "movie_truncated"):
        assert wanted in text
    document = json.loads(komad("show", "b", "-c", config, "--json").out)
    assert document["stem"] == "b"
    assert [job["kind"] for job in document["jobs"]] == ["archive", "correct"]
    assert komad("show", "nothing", "-c", config).code == 2


def test_frames_of_an_eer_movie(config: Path, store: Store) -> None:
    """Raw frames of a usual frame are told: the first ones are finer, the last one has what was left."""
    record = find_movie(config.parent / "komad-state", "b")
    header = MovieHeader.of(record.header or {})
    eer = replace(header, format=MovieFormat.EER, eer=EerRendering(ends=(13, 25, 50, 79)))
    told = dict(_facts(replace(record, header=json.loads(json.dumps(asdict(eer))))))
    assert told["frames"] == "4 of 8 x 8 uint8, eer: 79 raw frames, 25 to a usual frame"


def test_show_tells_what_was_not_used(config: Path, store: Store) -> None:
    """Notes of what is known of a movie that waits, as of a sidecar that is damaged; those of a result are in it."""
    record = find_movie(config.parent / "komad-state", "b")
    note = "b.xml was not used: not complete XML"
    waiting = replace(record, acquisition={**record.acquisition, "notes": {"sidecar": note}})
    assert ("note", note) in _facts(waiting)
    result = {"motion_angstrom": dict.fromkeys(("total", "early", "late"), 1), "n_outliers": 0, "files": {}}
    assert ("note", note) not in _facts(replace(waiting, result={**result, "warnings": [note]}))


@pytest.mark.made_up_database
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


def test_retry_of_many_says_how_many(komad: Komad, config: Path, store: Store) -> None:
    """A dry run changes nothing and names the jobs; both say how many; a time can be given as an age or a date."""
    assert komad("retry", "--failed", "--dry-run", "-c", config).out == (
        "b archive: failed\n1 job(s) would be queued\n"
    )
    assert states(store, 2)[JobKind.ARCHIVE] is JobState.FAILED
    for too_late in ("0s", "2999-01-01T00:00"):
        assert "nothing to retry" in komad("retry", "--failed", "--since", too_late, "-c", config).out
    outcome = komad("retry", "--failed", "--code", "movie_truncated", "--since", "2h", "-c", config)
    assert outcome.out == "b archive: queued\n1 job(s) queued\n"
    assert states(store, 2)[JobKind.ARCHIVE] is JobState.QUEUED
    assert komad("retry", "--failed", "--since", "yesterday", "-c", config).code == 2
    assert komad("retry", "b", "--since", "2h", "-c", config).code == 2


def test_one_that_refuses_does_not_stop_the_others(komad: Komad, config: Path, store: Store) -> None:
    """What changed between looking and doing is said at the end, with the exit code of a wrong argument."""
    store.cancel(store.jobs_of(1)[JobKind.CORRECT].job_id)
    outcome = komad("retry", "b", "b", "a", "-c", config)
    assert (outcome.code, outcome.out) == (
        2,
        "b archive: queued\na correct: held (pixel size and dose per frame unknown)\n",
    )
    assert "cannot requeue" in outcome.err


def test_changes_as_json(komad: Komad, config: Path, store: Store) -> None:
    """Every job with the state it then has."""
    document = json.loads(komad("retry", "b", "--json", "-c", config).out)
    archive = store.jobs_of(2)[JobKind.ARCHIVE]
    assert document == {
        "schema_version": 1, "dry_run": False,
        "jobs": [
            {"job_id": archive.job_id, "movie_id": 2, "stem": "b", "kind": "archive", "state": "queued", "reason": ""},
        ],
    }  # fmt: skip
    assert json.loads(komad("pause", "-r", "x", "--json", "-c", config).out)["paused"] == {"person": "x"}
    assert json.loads(komad("resume", "--json", "-c", config).out)["paused"] == {}


def test_hold_and_release(komad: Komad, config: Path, store: Store) -> None:
    """What waits is held with the reason until it is released; what a person does not hold is not released."""
    komad("retry", "b", "-c", config)
    outcome = komad("hold", "b", "--reason", "ask Ann", "-c", config)
    assert outcome.out == "b correct: held (ask Ann)\nb archive: held (ask Ann)\n"
    assert store.claim("w") is None
    assert "1 archive ask Ann" in komad("status", "-c", config).out
    assert "nothing to release" in komad("release", "a", "-c", config).out
    outcome = komad("release", "b", "-c", config)
    assert outcome.out.startswith("b archive: queued\nb correct: held (")
    assert "nothing to release" in komad("release", "b", "-c", config).out


def test_pause_and_resume(komad: Komad, config: Path, store: Store) -> None:
    """No job is claimed until a person resumes; the disk's own pause stays; status and both commands say so."""
    komad("retry", "b", "-c", config)
    outcome = komad("pause", "--reason", "the disk is moved", "-c", config)
    assert (outcome.code, outcome.out) == (0, "paused by person: the disk is moved\n")
    assert "komad paused: by a person (the disk is moved)" in komad("status", "-c", config).out
    store.pause("disk: full", PausedBy.DISK)
    assert komad("resume", "-c", config).out == "paused by disk: disk: full\n"
    assert store.claim("w") is None
    store.resume(PausedBy.DISK)
    assert komad("resume", "-c", config).out == "nobody had paused\njobs are started\n"
    assert store.claim("w") is not None


def test_jobs_shows_devices_that_are_set_aside(komad: Komad, config: Path, store: Store) -> None:
    """Below the table, and in JSON."""
    store.set_aside("cuda:1", "[it] is lost")
    assert "cuda:1 is set aside: [it] is lost" in komad("jobs", "-c", config).out
    document = json.loads(komad("jobs", "--json", "-c", config).out)
    assert document["bad_devices"] == [{"device": "cuda:1", "reason": "[it] is lost"}]


def test_a_lease_of_the_configuration(komad: Komad, config: Path, store: Store) -> None:
    """A worker is silent for status when its lease is over, as configured."""
    store.register_worker("w", boot_id="b", pid=1, device="cpu")
    with store.write() as connection:
        past = (datetime.now(UTC) - timedelta(seconds=60)).isoformat(timespec="milliseconds")
        connection.exec_driver_sql("UPDATE workers SET beat_at = ?", (past,))
    assert not json.loads(komad("status", "--json", "-c", config).out)["running"]
    config.write_text(config.read_text() + "[queue]\nlease_timeout_s = 300\n")
    assert json.loads(komad("status", "--json", "-c", config).out)["running"]


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
