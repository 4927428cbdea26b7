"""What a movie waits for before its window is chosen, the window itself, and what is kept of stack sums."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from komad.errors import DiskFullError, MovieError, MovieMissingError, TransitionError, WorkerLostError
from komad.model import Job, JobKind, JobState, KomaWindow, Movie, ReferenceFile, References, StackFacts
from komad.store import GainCheckRow, HeldBy, StackSumRow, Store

MakeMovie = Callable[..., Movie]
FACTS = StackFacts(mean_e_per_px=40.0, contrast=0.01, gradient=0.02, outlier_fraction=0.001)
WRONG_GAIN = GainCheckRow(
    verdict="other",
    configured={"gain_rot": 0, "gain_flip": 0},
    best={"gain_rot": 1, "gain_flip": 0},
    confidence=30.0,
    sentence="the gain fits better with gain_rot = 1",
    movie_id=1,
    holds=True,
)


def row(name: str, *, facts: StackFacts | None = FACTS) -> StackSumRow:
    """A stack sum's row."""
    return StackSumRow(
        file=name,
        n_frames=8,
        ny=96,
        nx=128,
        dtype="uint16",
        mean=9.5,
        n_outliers=3,
        frame_means=b"12345678",
        facts=facts,
        n_bytes=100,
    )


class Session:
    """Movies of a session, archived in whatever order."""

    def __init__(self, store: Store, make_movie: MakeMovie, **koma: object) -> None:
        self.store = store
        self.make_movie = make_movie
        self.koma = koma
        self.archives: dict[int, Job] = {}

    def add(self, n: int = 1, *, series: str = "s") -> None:
        """Add movies, their archive jobs claimed and begun."""
        for _ in range(n):
            number = len(self.archives) + 1
            movie = replace(self.make_movie(f"/data/m{number}.mrc"), series=series, koma=self.koma)
            added = self.store.add_movie(movie)
            assert added is not None
            job = self.store.claim("w")
            assert job is not None
            assert (job.movie_id, job.kind) == (added.movie_id, JobKind.ARCHIVE), "nothing else is queued"
            self.archives[added.movie_id] = self.store.begin(job)

    def archive(self, *movie_ids: int, go_on: bool = True) -> list[Job | None]:
        """End archive jobs; gives the correct jobs that the worker goes on with."""
        return [
            self.store.finish(self.archives[movie_id], {}, 1.0, stack_sum=row(f"{movie_id}.npz"), go_on=go_on)
            for movie_id in movie_ids
        ]

    def correct(self, movie_id: int) -> Job:
        """A movie's correct job."""
        return self.store.jobs_of(movie_id)[JobKind.CORRECT]

    def states(self) -> dict[int, JobState]:
        """Movie -> state of its correct job."""
        return {movie_id: self.correct(movie_id).state for movie_id in self.archives}

    def let_time_pass(self, seconds: int) -> None:
        """Let all archives have ended longer ago."""
        with self.store.write() as connection:
            moved = f"strftime('%Y-%m-%dT%H:%M:%f', ended_at, '-{seconds} seconds') || '+00:00'"
            connection.execute(text(f"UPDATE jobs SET ended_at = {moved} WHERE ended_at IS NOT NULL"))


def finish_correct(store: Store, job: Job | None) -> None:
    """Correct a movie."""
    assert job is not None
    store.finish(store.begin(job), {}, 1.0)


Start = Callable[..., Session]


@pytest.fixture
def session(store: Store, make_movie: MakeMovie) -> Start:
    """Begin a session with KOMA's settings."""
    return lambda **koma: Session(store, make_movie, **koma)


def test_archives_in_order_go_on(session: Start) -> None:
    """With one worker nobody waits: each archive goes on with its correct job while the frames are in memory."""
    movies = session(radius=2)
    movies.add(6)
    following = [movies.archive(movie_id)[0] for movie_id in range(1, 7)]
    assert [job and job.movie_id for job in following] == [1, 2, 3, 4, 5, 6]


def test_trailing_waits_for_earlier_archives(session: Start, store: Store) -> None:
    """A movie whose archive was faster than an earlier one waits for it, says so, and is released by its end."""
    movies = session(radius=2)
    movies.add(3)
    assert movies.archive(2, 3) == [None, None]
    held = movies.correct(3)
    assert (held.state, held.reason) == (
        JobState.HELD,
        "KOMA waits for the archive of m1 (for 600 s at most)",
    )
    assert movies.archive(1)[0] is not None
    assert movies.states() == {1: JobState.RUNNING, 2: JobState.QUEUED, 3: JobState.QUEUED}
    assert list(store.koma_neighbours(store.movie(3)).facts) == [1, 2]
    events = [event.event for event in store.history(movies.correct(2).job_id)]
    assert events == ["hold", "release"], "one reason, one entry"


@pytest.mark.parametrize("how", ["failed", "cancelled", "held"])
def test_neighbours_that_do_not_move(session: Start, store: Store, how: str) -> None:
    """Nobody waits for an archive that failed, was cancelled or is held; the neighbours say why it is missing."""
    movies = session(radius=2)
    movies.add(2)
    movies.archive(2)
    assert movies.correct(2).state is JobState.HELD
    job = movies.archives[1]
    if how == "failed":
        store.fail(job, MovieError("bad mode"), 3)
    else:
        store.give_back(job)
        if how == "held":
            store.hold(job.job_id, "ask Ann")
        else:
            store.cancel(job.job_id)
    assert movies.correct(2).state is JobState.QUEUED
    known = store.koma_neighbours(store.movie(2))
    assert known.facts == {}
    expected = {"failed": "its archive failed", "cancelled": "its archive was cancelled"}
    assert known.absent == {1: expected.get(how, "its archive is held (ask Ann)")}


def test_lost_worker_releases_who_waits_for_its_job(session: Start, store: Store) -> None:
    """An archive job that dies with its worker for the last time keeps nobody waiting."""
    movies = session(radius=2)
    movies.add(2)
    movies.archive(2)
    store.return_jobs("w", MovieError("gone"), 1)
    assert movies.correct(2).state is JobState.QUEUED


def test_only_its_own_series_and_reach(session: Start, store: Store) -> None:
    """Movies of another series, without one, or more than four radii away, are no neighbours."""
    movies = session(radius=1)
    movies.add(2, series="other")
    movies.add(2, series="")
    movies.add(6, series="s")
    assert movies.archive(6, 7, 8, 9) == [None] * 4, "5 is not archived"
    assert movies.archive(10)[0] is not None
    assert list(store.koma_neighbours(store.movie(10)).facts) == [6, 7, 8, 9]
    assert movies.archive(4)[0] is not None, "the series '' has no neighbours"


def test_waiting_ends(session: Start, store: Store) -> None:
    """After max_wait_s since its own archive a movie goes on without its neighbour, and not before."""
    movies = session(radius=2, max_wait_s=100)
    movies.add(2)
    movies.archive(2)
    movies.let_time_pass(70)
    assert store.release_koma_held() == 0
    movies.let_time_pass(31)
    assert store.release_koma_held() == 1
    assert movies.correct(2).state is JobState.QUEUED
    assert store.koma_neighbours(store.movie(2)).absent == {1: "it was not archived in time"}
    assert store.release_koma_held() == 0


@pytest.mark.parametrize("koma", [{"mode": "off"}, {"max_wait_s": 0}])
def test_no_waiting(session: Start, koma: dict[str, object]) -> None:
    """Where no pattern is taken off, or no time is given, nobody waits."""
    movies = session(**koma)
    movies.add(2)
    assert movies.archive(2)[0] is not None


def test_centred_waits_for_later_ones(session: Start, store: Store) -> None:
    """Centred windows wait for as many later movies, for more at the start; the end of the session waits its time."""
    movies = session(mode="centred", radius=1, max_wait_s=100)
    movies.add(2)
    assert movies.archive(1, 2) == [None, None]
    assert movies.correct(1).reason == "KOMA (centred) waits for later movies (for 100 s at most)"
    movies.add(1)
    assert store.release_koma_held() == 0
    assert movies.correct(1).reason == "KOMA waits for the archive of m3 (for 100 s at most)"
    movies.archive(3)
    states = movies.states()
    assert (states[1], states[2], states[3]) == (JobState.QUEUED, JobState.QUEUED, JobState.HELD)
    movies.let_time_pass(101)
    assert store.release_koma_held() == 1
    assert [list(store.koma_neighbours(store.movie(n)).facts) for n in (1, 2, 3)] == [[2, 3], [1, 3], [1, 2]]


def test_later_movies_are_not_looked_at_when_not_needed(session: Start, store: Store) -> None:
    """What a centred window is chosen from does not depend on how many movies came meanwhile."""
    movies = session(mode="centred", radius=1)
    movies.add(6)
    movies.archive(1, 2, 3, 4, 5, 6)
    assert list(store.koma_neighbours(store.movie(3)).facts) == [1, 2, 4]


def test_window_is_bound_once(session: Start, store: Store) -> None:
    """The first window stays, as it was; a movie that has one waits for nobody when it is tried again."""
    movies = session(radius=2)
    movies.add(2)
    for job in movies.archive(1, 2):
        finish_correct(store, job)
    first = KomaWindow(mode="trailing", members=(3, 4), wanted=4, left_out={7: "carbon"}, note="few")
    assert store.koma_window(2) is None
    assert store.bind_window(2, first) == first
    assert store.bind_window(2, KomaWindow(mode="off")) == first
    assert store.koma_window(2) == first
    store.retry(movies.archives[1].job_id)
    store.retry(movies.correct(2).job_id)
    assert movies.correct(2).state is JobState.QUEUED


def test_sums_of_an_older_komad(session: Start, store: Store) -> None:
    """A stack sum without facts is in no window."""
    movies = session(radius=2)
    movies.add(2)
    store.finish(movies.archives[1], {}, 1.0, stack_sum=row("1.npz", facts=None))
    movies.archive(2)
    known = store.koma_neighbours(store.movie(2))
    assert (known.facts, known.absent) == ({}, {1: "it has no stack sum"})


def test_stack_sum_row(session: Start, store: Store) -> None:
    """A stack sum's row comes with the archive, and back as it was."""
    movies = session()
    movies.add()
    assert store.stack_sum(1) is None
    movies.archive(1)
    assert store.stack_sum(1) == row("1.npz")
    assert store.first_stack_sums("s", 5) == [(1, "1.npz")]


def test_files_that_no_window_needs(session: Start, store: Store) -> None:
    """The newest files of a series are kept, and those within reach of a movie that is still to be corrected."""
    movies = session(mode="off")
    movies.add(8)
    following = movies.archive(*range(1, 9))
    for job in following[2:]:
        finish_correct(store, job)
    assert store.drop_stack_sums(reach=2) == ["5.npz", "6.npz"][::-1]
    for job in following[:2]:
        finish_correct(store, job)
    assert sorted(store.drop_stack_sums(reach=2)) == ["1.npz", "2.npz", "3.npz", "4.npz"]
    kept = store.stack_sum(1)
    assert kept is not None
    assert (kept.file, kept.n_bytes, kept.facts) == ("", 0, FACTS)
    assert [file for _, file in store.first_stack_sums("s", 5)] == ["7.npz", "8.npz"]


def test_files_are_bounded(session: Start, store: Store) -> None:
    """However many series there are, and however many movies wait, files are at most four times the reach."""
    movies = session(mode="off")
    for number in range(1, 11):
        movies.add(1, series=f"s{number % 5}")
        movies.archive(number)
    assert store.drop_stack_sums(reach=1) == [f"{number}.npz" for number in (6, 5, 4, 3, 2, 1)]


def test_gain_that_is_wrong_holds_its_series(session: Start, store: Store) -> None:
    """Correct jobs of the series wait, those queued and those to come, until a person accepts; others go on."""
    movies = session()
    movies.add(3)
    movies.add(1, series="other")
    movies.archive(1, go_on=False)
    assert store.gain_check("s") is None
    assert store.put_gain_check("s", WRONG_GAIN)
    assert not store.put_gain_check("s", replace(WRONG_GAIN, verdict="ok"))
    assert store.gain_check("s") == WRONG_GAIN
    movies.archive(2, 4)
    states = movies.states()
    assert (states[1], states[2], states[4]) == (JobState.HELD, JobState.HELD, JobState.RUNNING)
    reason = movies.correct(2).reason
    assert (
        "gain_rot = 1; correct the configuration and restart komad, or say with `komad gain accept`" in reason
    )
    assert store.accept_gain() == [WRONG_GAIN]
    assert store.accept_gain() == []
    assert [movies.states()[n] for n in (1, 2)] == [JobState.QUEUED] * 2
    assert movies.archive(3)[0] is not None
    accepted = store.gain_check("s")
    assert accepted is not None
    assert accepted.accepted


def test_movies_that_wait_for_their_gain_are_bound_anew(session: Start, store: Store) -> None:
    """With another gain they are of another series, archived again, with a window of their own; others stay."""
    movies = session()
    movies.add(3)
    movies.archive(1, 2, go_on=False)
    store.bind_window(2, KomaWindow(mode="trailing", members=(1,)))
    store.put_gain_check("s", WRONG_GAIN)
    waiting = store.gain_held(limit=9)
    assert [movie.movie_id for movie in waiting] == [1, 2]
    better = References(gain=ReferenceFile(path=Path("g"), original_path=Path("g"), sha256="ab"), gain_rot=1)
    store.rebind(replace(waiting[1], references=better, series="t"))
    assert [movie.movie_id for movie in store.gain_held(limit=9)] == [1]
    assert (store.movie(2).references, store.movie(2).series) == (better, "t")
    assert (store.stack_sum(2), store.koma_window(2)) == (None, None)
    archive, correct = (store.jobs_of(2)[kind] for kind in (JobKind.ARCHIVE, JobKind.CORRECT))
    assert (archive.state, archive.attempt) == (JobState.QUEUED, 0)
    assert correct.reason == "waiting for the archive"
    with pytest.raises(TransitionError, match="does not wait for its gain"):
        store.rebind(store.movie(3))


@pytest.mark.parametrize("way", ["disk", "retried", "stopped", "lost", "read ahead"])
def test_jobs_in_hand_wait_for_the_gain_when_they_come_back(session: Start, store: Store, way: str) -> None:
    """A correct job that ran, or was held by the disk, when the gain was found wrong is not done with it after all."""
    movies = session()
    movies.add()
    job = movies.archive(1)[0]
    assert job is not None
    if way != "read ahead":
        job = store.begin(job)
    if way == "disk":
        store.fail(job, DiskFullError("full"), 3)
    store.put_gain_check("s", WRONG_GAIN)
    if way == "disk":
        assert store.release_disk_held() == 1
    elif way == "retried":
        store.fail(job, MovieMissingError("gone"), 3)
    elif way == "stopped":
        store.give_back(job)
    else:
        store.return_jobs("w", WorkerLostError("lost"), 3)
    assert movies.correct(1).state is JobState.HELD
    assert "komad gain accept" in movies.correct(1).reason
    store.accept_gain()
    assert movies.correct(1).state is JobState.QUEUED


def test_gain_that_is_only_warned_of_holds_nothing(session: Start, store: Store) -> None:
    """A verdict that does not hold is kept for the status; a person may accept it, and has nothing to accept twice."""
    movies = session()
    movies.add(1)
    warned = replace(WRONG_GAIN, holds=False)
    store.put_gain_check("s", warned)
    store.put_gain_check("other", replace(warned, verdict="unclear"))
    assert movies.archive(1)[0] is not None
    assert store.accept_gain() == [warned]
    assert store.accept_gain() == []


def test_held_by_is_what_holds(session: Start, store: Store) -> None:
    """The table names the kind of hold, so that it is released by its cure only."""
    movies = session(radius=2)
    movies.add(2)
    movies.archive(2)
    with store.read() as connection:
        held = connection.execute(
            text("SELECT held_by FROM jobs WHERE state = 'held' AND movie_id = 2")
        ).scalar()
    assert held == HeldBy.KOMA
    assert store.release_disk_held() == 0
    store.release(movies.correct(2).job_id)
    assert movies.correct(2).state is JobState.HELD, "what it waits for is still to come"
