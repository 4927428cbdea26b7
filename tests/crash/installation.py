"""A small installation with movies that wait; what is right of it when all is done, and what it then holds."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from komad import app
from komad.config import Koma, Log, Output, Processing, Queue, Settings, WatchFolder, Workers
from komad.errors import KomadError
from komad.formats.atomic import TEMPORARY_PREFIX
from komad.formats.images import write_mrc
from komad.formats.movies import read_frames
from komad.formats.mrcz import read_metadata
from komad.model import Candidate
from komad.output.manifest import MANIFEST
from komad.store import Store
from tests.work.conftest import SHAPE, counts, write_movie

STEMS = ("a", "b")
"""The first is in the window of the second."""
TIMES = {"written_at", "timings_s", "first_written_at", "last_written_at", "found_at", "at", "boottime_s"}
"""Keys that carry times."""
OF_TIMES = {"archive_bytes", "archive_xxh3"}
"""Keys that depend on them: an archive tells when its movie was found."""
WHEN = {"sequence"}
"""Keys that carry the order in which movies were done."""


def settings_at(place: Path, numba_cache: Path) -> Settings:
    """Settings that have every file written that there is; makes the folders."""
    (place / "camera").mkdir(parents=True)
    (place / "state").mkdir()
    (place / "state" / "numba-cache").symlink_to(numba_cache)
    gain = place / "gain.mrc"
    ramp = np.linspace(0.9, 1.1, SHAPE[1] * SHAPE[2], dtype=np.float32).reshape(SHAPE[1:])
    write_mrc(gain, ramp, pixel_size_angstrom=1.5)
    return Settings(
        state_directory=place / "state",
        watch=(
            WatchFolder.model_validate(
                {
                    "directory": place / "camera",
                    "acquisition": {"pixel_size_angstrom": 1.5, "voltage_kv": 300, "dose_per_frame": 1.0},
                    "references": {"gain": gain},
                }
            ),
        ),
        output=Output(
            directory=place / "output",
            archive_directory=place / "archive",
            even_odd_weighted=True,
            aligned_stack=True,
            power_spectrum_groups=True,
            min_free_gb=0,
        ),
        processing=Processing(sum_range=(0, 3)),
        koma=Koma(radius=1),
        queue=Queue(lease_timeout_s=5, max_attempts=3),
        workers=Workers(devices=("cpu",), threads=1),
        log=Log(level="error"),
    )


def with_movies(place: Path, numba_cache: Path) -> Settings:
    """Lay the installation out, its movies found and queued."""
    settings = settings_at(place, numba_cache)
    with Store(settings.state_directory).open() as store:
        intake = app.Intake(settings, store)
        for seed, stem in enumerate(STEMS):
            path = write_movie(settings.watch[0].directory / f"{stem}.mrc", seed)
            status = path.stat()
            intake.take(
                Candidate(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, folder=0)
            )
    return settings


def configuration(settings: Settings) -> Path:
    """Write the settings as `komad run` reads them."""
    place = settings.state_directory.parent
    folder, output = settings.watch[0], settings.output
    acquisition = folder.acquisition
    path = place / "komad.toml"
    path.write_text(
        f"""
state_directory = "{settings.state_directory}"
[[watch]]
directory = "{folder.directory}"
[watch.acquisition]
pixel_size_angstrom = {acquisition.pixel_size_angstrom}
voltage_kv = {acquisition.voltage_kv}
dose_per_frame = {acquisition.dose_per_frame}
[watch.references]
gain = "{folder.references.gain}"
[watching]
sweep_interval_s = 0.3
[output]
directory = "{output.directory}"
archive_directory = "{output.archive_directory}"
even_odd_weighted = true
aligned_stack = true
power_spectrum_groups = true
min_free_gb = 0
[processing]
sum_range = [0, 3]
[koma]
radius = 1
[queue]
lease_timeout_s = 5
[workers]
devices = "cpu"
threads = 1
"""
    )
    return path


def put_back(template: Path, place: Path) -> None:
    """Make `place` what `template` is, times of files included."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place, symlinks=True)


def content(settings: Settings) -> dict[str, Any]:
    """Every file that was made, by its name: its bytes; of a JSON file or an index what does not carry times."""
    places = (
        settings.output.directory,
        settings.archive_directory,
        settings.state_directory / "stack_sums",
        settings.state_directory / "references",
    )
    files = {path for place in places for path in place.rglob("*") if path.is_file()}
    return {str(path.relative_to(settings.state_directory.parent)): _comparable(path) for path in files}


def _comparable(path: Path) -> Any:
    if path.name == MANIFEST:  # an archive that is made again has another line
        return sorted({_timeless(json.loads(line)) for line in path.read_text().splitlines() if line})
    if path.suffix == ".jsonl":
        return sorted(_timeless(json.loads(line)) for line in path.read_text().splitlines())
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".mrcz":
        return read_frames(path).tobytes(), _timeless(read_metadata(path))
    if path.name == "corrected_micrographs.star":
        return sorted(path.read_text().splitlines())
    return path.read_bytes()


def _timeless(value: Any) -> str:
    def without(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: without(entry) for name, entry in value.items() if name not in TIMES | OF_TIMES | WHEN}

    return json.dumps(without(value), sort_keys=True)


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of files that are not the same in both."""
    names = sorted(first.keys() | second.keys())
    return [f"{name} differs" for name in names if first.get(name) != second.get(name)]


def temporaries(place: Path) -> list[str]:
    """Temporary files anywhere below."""
    return sorted(str(path.relative_to(place)) for path in place.rglob(f"{TEMPORARY_PREFIX}*"))


def faults(settings: Settings, stems: dict[str, int]) -> list[str]:
    """What is wrong of an installation whose movies (stem -> seed) should all be done."""
    found = [f"{name} is left" for name in temporaries(settings.state_directory.parent)]
    found += [f"database: {fault}" for fault in database_faults(settings.state_directory)]
    for stem, seed in stems.items():
        try:
            frames = read_frames(settings.archive_directory / f"{stem}.mrcz")
            if not np.array_equal(frames, counts(seed)):
                found.append(f"the archive of {stem} differs from the movie")
        except KomadError as error:
            found.append(f"the archive of {stem}: {error}")
    return found + index_faults(settings, Counter(stems))


def index_faults(settings: Settings, stems: Counter[str]) -> list[str]:
    """What is wrong of the session's files: each movie once in both."""
    output = settings.output.directory
    listed = Counter(
        json.loads(line)["stem"] for line in (output / "processed.jsonl").read_text().splitlines()
    )
    rows = Counter(
        Path(word).stem
        for line in (output / "corrected_micrographs.star").read_text().splitlines()
        for word in line.split()
        if word.endswith(".star")
    )
    once = dict.fromkeys(stems, 1)
    return [
        f"{name}: {sorted(set(once.items()) ^ set(those.items()))}"
        for name, those in (("processed.jsonl", listed), ("corrected_micrographs.star", rows))
        if dict(those) != once
    ]


def database_faults(state: Path, *, ended: tuple[str, ...] = ("done",)) -> list[str]:
    """What is wrong of a database whose jobs all ended."""
    found: list[str] = []
    with Store(state).open(create=False) as store, store.read() as connection:

        def rows(statement: str) -> list[Any]:
            return list(connection.exec_driver_sql(statement))

        found += [str(row) for row in rows("PRAGMA integrity_check") if row[0] != "ok"]
        found += [f"foreign key {row}" for row in rows("PRAGMA foreign_key_check")]
        found += [f"worker {row[0]} is left" for row in rows("SELECT worker_id FROM workers")]
        marks = ", ".join(f"'{state}'" for state in ended)
        found += [
            f"job {row} has not ended"
            for row in rows(
                f"SELECT job_id, kind, state, reason, error_code, error_message FROM jobs WHERE state NOT IN ({marks})"
            )
        ]
        found += [
            f"movie {row} has not one job of each kind"
            for row in rows(
                "SELECT movie_id FROM movies LEFT JOIN jobs USING (movie_id) GROUP BY movie_id "
                "HAVING count(DISTINCT kind) != 2 OR count(*) != 2"
            )
        ]
        found += [
            f"job {row} is done though it was finished not once"
            for row in rows(
                "SELECT jobs.job_id, count(event_id) FROM jobs LEFT JOIN job_events ON job_events.job_id = jobs.job_id "
                "AND event = 'finish' WHERE jobs.state = 'done' GROUP BY jobs.job_id HAVING count(event_id) != 1"
            )
        ]
        found += [
            f"job {row}: its last event is of another state"
            for row in rows(
                "SELECT job_id, jobs.state, last.state FROM jobs JOIN (SELECT job_id, state, max(event_id) FROM "
                "job_events GROUP BY job_id) AS last USING (job_id) WHERE last.state != jobs.state"
            )
        ]
        found += [
            f"job {row} is done without sequence, or has one without being done"
            for row in rows(
                "SELECT job_id FROM jobs WHERE (kind = 'correct' AND state = 'done') != (sequence IS NOT NULL)"
            )
        ]
        kept = {row[0] for row in rows("SELECT file FROM stack_sums WHERE file != ''")}
        lying = {path.name for path in store.stack_sum_directory.glob("*.sum")}
        if kept != lying:
            found.append(f"stack sums: rows and files differ by {sorted(kept ^ lying)}")
    return found
