"""Movies in the database."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from komad.config import Processing
from komad.errors import MovieError, ParameterError, StoreError, TransitionError
from komad.ingest import with_supplied
from komad.model import Acquisition, Candidate, JobKind, JobState, Movie
from komad.store import WAITING_FOR_ARCHIVE, Store

MakeMovie = Callable[..., Movie]
UNREADABLE = Candidate(path=Path("/data/odd.v1.mrc"), size_bytes=7, mtime_ns=5, folder=0)
NO_PIXEL_SIZE = "pixel size unknown: supply it"


def missing(acquisition: Acquisition, processing: Processing) -> str:
    """Say that the pixel size is missing, when it is."""
    return "" if acquisition.pixel_size_angstrom else NO_PIXEL_SIZE


def test_round_trip(store: Store, make_movie: MakeMovie) -> None:
    """A movie comes back as it was put in, with its number."""
    movie = make_movie()
    added = store.add_movie(movie)
    assert added == replace(movie, movie_id=1)
    assert store.movie(1) == added


def test_new_movie_has_two_jobs(store: Store, make_movie: MakeMovie) -> None:
    """The archive job is queued and the correct job waits for it."""
    store.add_movie(make_movie())
    jobs = store.jobs_of(1)
    assert {kind: (job.state, job.reason) for kind, job in jobs.items()} == {
        JobKind.ARCHIVE: (JobState.QUEUED, ""),
        JobKind.CORRECT: (JobState.HELD, WAITING_FOR_ARCHIVE),
    }


def test_adding_twice(store: Store, make_movie: MakeMovie) -> None:
    """The same file is added once; the same path with other content is another movie."""
    assert store.add_movie(make_movie()) is not None
    assert store.add_movie(make_movie()) is None
    assert store.add_movie(make_movie(fingerprint="0" * 64)) is not None
    assert store.known_files() == {("/data/a.mrc", 1000, 1_700_000_000_123_456_789)}


ADDER = """
import sys, pathlib
from tests.store.conftest import movie_at
from komad.store import Store
with Store(pathlib.Path(sys.argv[1])).open() as store:
    print(sum(store.add_movie(movie_at(f"/data/{n}.mrc")) is not None for n in range(40)))
"""


def test_adding_from_two_processes(store: Store) -> None:
    """Two processes that add the same files at once add each of them once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADDER, str(store.state_directory)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    added = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(added) == 40
    assert len(store.known_files()) == 40


def test_stems_are_unique(store: Store, make_movie: MakeMovie) -> None:
    """Dots become underscores, and the same name from another folder gets a number."""
    paths = ("/a/m.1.mrc", "/b/m.1.mrc", "/c/m_1.mrc")
    stems = [added.stem for path in paths if (added := store.add_movie(make_movie(path)))]
    assert stems == ["m_1", "m_1-2", "m_1-3"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (("/d/a.mrc", "/d/A.mrc", "/e/a.mrc"), ["a", "A-2", "a-3"]),
        (("/d/a.mrc", "/d/A_ps.mrc", "/d/a_Nodw.mrc"), ["a", "A_ps-2", "a_Nodw-2"]),
        (("/d/ÄÖ.mrc", "/d/äö.mrc", "/d/a\u0308o\u0308.mrc"), ["ÄÖ", "äö-2", "a\u0308o\u0308-3"]),
        (("/d/session.mrc", "/d/Corrected_Micrographs.mrc"), ["session-2", "Corrected_Micrographs-2"]),
    ],
)
def test_stems_where_case_is_not_told(
    store: Store, make_movie: MakeMovie, paths: tuple[str, ...], expected: list[str]
) -> None:
    """Outputs of movies that differ in case only stay apart on SMB, exFAT or macOS; nor do they meet the session's."""
    stems = [added.stem for path in paths if (added := store.add_movie(make_movie(path)))]
    assert stems == expected
    with Store(store.state_directory).open() as again:
        added = again.add_movie(make_movie(paths[0].replace("/d/", "/f/")))
    assert added is not None
    assert added.stem not in expected
    assert added.stem.casefold() not in {stem.casefold() for stem in stems}


@pytest.mark.parametrize(("first", "second"), [("a", "a_noDW"), ("a_PS", "a")])
def test_stems_do_not_clash_with_outputs(
    store: Store, make_movie: MakeMovie, first: str, second: str
) -> None:
    """A movie named like another one's output gets a number, whichever comes first."""
    store.add_movie(make_movie(f"/x/{first}.mrc"))
    added = store.add_movie(make_movie(f"/x/{second}.mrc"))
    assert added is not None
    assert added.stem == f"{second}-2"


def test_missing_parameters_hold_the_correct_job_only(store: Store, make_movie: MakeMovie) -> None:
    """Without a pixel size the archive is made all the same, and the correct job says what is missing."""
    store.add_movie(make_movie(), held={JobKind.CORRECT: NO_PIXEL_SIZE})
    archive = store.claim("w")
    assert archive is not None
    store.finish(store.begin(archive), {}, 1.0)
    correct = store.jobs_of(1)[JobKind.CORRECT]
    assert (correct.state, correct.reason) == (JobState.HELD, NO_PIXEL_SIZE)


def test_supply_for_all(store: Store, make_movie: MakeMovie) -> None:
    """A supplied value fills what is unknown in all movies, and those whose archive is done go on."""
    unknown = Acquisition(voltage_kv=300.0, sources={"voltage_kv": "header"})
    for path in ("/data/a.mrc", "/data/b.mrc"):
        store.add_movie(make_movie(path, acquisition=unknown), held={JobKind.CORRECT: NO_PIXEL_SIZE})
    archive = store.claim("w")
    assert archive is not None
    store.finish(store.begin(archive), {}, 1.0)
    assert (
        store.supply(
            {"pixel_size_angstrom": 0.83, "voltage_kv": 200},
            movie_id=None,
            with_supplied=with_supplied,
            missing=missing,
        )
        == 2
    )
    assert store.jobs_of(1)[JobKind.CORRECT].state is JobState.QUEUED
    assert store.jobs_of(2)[JobKind.CORRECT].reason == WAITING_FOR_ARCHIVE
    acquisition = store.movie(2).acquisition
    assert (acquisition.pixel_size_angstrom, acquisition.voltage_kv) == (0.83, 300.0)
    assert acquisition.sources == {"voltage_kv": "header", "pixel_size_angstrom": "supplied"}
    assert store.supplied_values() == {"pixel_size_angstrom": 0.83, "voltage_kv": 200.0}


def test_supply_for_one(store: Store, make_movie: MakeMovie) -> None:
    """For one movie a supplied value replaces what was there, and no other movie changes."""
    for path in ("/data/a.mrc", "/data/b.mrc"):
        store.add_movie(make_movie(path))
    assert (
        store.supply({"dose_per_frame": 2.0}, movie_id=1, with_supplied=with_supplied, missing=missing) == 1
    )
    assert [store.movie(movie_id).acquisition.dose_per_frame for movie_id in (1, 2)] == [2.0, 1.2]
    assert store.supplied_values() == {}


def test_a_list_of_doses_comes_back_and_gives_way(store: Store, make_movie: MakeMovie) -> None:
    """What is read equals what was written; a dose per frame that a person supplies for the movie replaces the list."""
    acquisition = Acquisition(
        dose_per_frame=1.5,
        frame_doses=(1.0, 2.0),
        sources={"dose_per_frame": "a.mdoc", "frame_doses": "a.mdoc"},
    )
    added = store.add_movie(make_movie("a", acquisition=acquisition))
    assert added is not None
    assert store.movie(added.movie_id).acquisition == acquisition
    store.supply(
        {"dose_per_frame": 2.0}, movie_id=added.movie_id, with_supplied=with_supplied, missing=missing
    )
    supplied = store.movie(added.movie_id).acquisition
    assert (supplied.dose_per_frame, supplied.frame_doses) == (2.0, None)
    assert supplied.sources == {"dose_per_frame": "supplied"}


@pytest.mark.parametrize("values", [{"pixel_size": 1.0}, {"voltage_kv": 3000}, {"sources": {}}, {}])
def test_supply_of_nonsense(store: Store, values: dict[str, Any]) -> None:
    """Unknown names and values out of range are refused, and the names are listed."""
    with pytest.raises(ParameterError, match="pixel_size_angstrom"):
        store.supply(values, movie_id=None, with_supplied=with_supplied, missing=missing)
    assert store.supplied_values() == {}


def test_unreadable_file_is_visible(store: Store) -> None:
    """A file that cannot be described is a failed archive job with the error, and its correct job says so."""
    assert store.add_unreadable(UNREADABLE, stem="odd.v1", error=MovieError("odd.v1.mrc: bad mode")) == 1
    assert store.add_unreadable(UNREADABLE, stem="odd.v1", error=MovieError("again")) == 1
    jobs = store.jobs_of(1)
    assert jobs[JobKind.ARCHIVE].state is JobState.FAILED
    assert jobs[JobKind.ARCHIVE].error_code == "movie_unreadable"
    assert jobs[JobKind.CORRECT].reason == "its archive failed: odd.v1.mrc: bad mode"
    assert store.known_files() == {("/data/odd.v1.mrc", 7, 5)}
    assert store.claim("w") is None
    with pytest.raises(StoreError, match="komad show odd_v1"):
        store.movie(1)


def test_unreadable_file_is_described_on_retry(store: Store, make_movie: MakeMovie) -> None:
    """A retry asks for another description; when that works, the movie takes the old row and runs."""
    store.add_unreadable(UNREADABLE, stem="odd.v1", error=MovieError("bad mode"))
    assert store.to_describe() == []
    job = store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    assert (job.state, job.reason) == (JobState.HELD, "its header is read again")
    with pytest.raises(TransitionError, match="retry it"):
        store.release(job.job_id)
    assert store.to_describe() == [replace(UNREADABLE, folder=-1)]
    added = store.add_movie(make_movie("/data/odd.v1.mrc", size_bytes=7, mtime_ns=5))
    assert added is not None
    assert (added.movie_id, added.stem) == (1, "odd_v1")
    assert store.to_describe() == []
    assert store.jobs_of(1)[JobKind.ARCHIVE].state is JobState.QUEUED
    assert store.jobs_of(1)[JobKind.CORRECT].reason == WAITING_FOR_ARCHIVE


def test_unreadable_file_that_stays_so(store: Store) -> None:
    """A retry that fails again is failed again, with the new error."""
    store.add_unreadable(UNREADABLE, stem="odd", error=MovieError("bad mode"))
    store.retry(store.jobs_of(1)[JobKind.ARCHIVE].job_id)
    store.add_unreadable(UNREADABLE, stem="odd", error=MovieError("still bad"))
    archive = store.jobs_of(1)[JobKind.ARCHIVE]
    assert (archive.state, archive.error_message) == (JobState.FAILED, "still bad")
    assert store.to_describe() == []


def test_unknown_movie(store: Store) -> None:
    """A number that is not there is named."""
    with pytest.raises(StoreError, match="no movie number 17"):
        store.movie(17)


def test_complete_later(store: Store, make_movie: MakeMovie) -> None:
    """What a late sidecar tells is bound to a movie that lacked it, but not over what was supplied meanwhile."""
    store.add_movie(make_movie("/data/a.mrc"))
    store.add_movie(
        make_movie("/data/b.mrc", acquisition=Acquisition()), held={JobKind.CORRECT: NO_PIXEL_SIZE}
    )
    (lacking,) = store.incomplete_movies(limit=10)
    assert lacking.movie_id == 2
    found = Acquisition(pixel_size_angstrom=0.9, sources={"pixel_size_angstrom": "b.mdoc"})
    assert store.complete(lacking, found, missing="")
    assert store.movie(2).acquisition == found
    assert store.jobs_of(2)[JobKind.CORRECT].reason == WAITING_FOR_ARCHIVE
    assert not store.complete(lacking, Acquisition(pixel_size_angstrom=7.0), missing="")
    assert store.incomplete_movies(limit=10) == []
