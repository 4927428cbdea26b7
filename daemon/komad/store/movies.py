"""Movies: added once, each with its two jobs; described later if need be; completed by supplied values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import Connection, insert, select, update

from komad.config import AcquisitionSettings, Processing
from komad.errors import KomadError, ParameterError, StoreError
from komad.model import Acquisition, Candidate, JobEvent, JobKind, JobState, Movie
from komad.model.stems import folded, unique_stem
from komad.optics.groups import in_group
from komad.store import changes, optics_groups
from komad.store.database import BUSY_TIMEOUT_S, Database
from komad.store.optics_groups import Taken
from komad.store.rows import HeldBy, acquisition_values, movie_from, movie_values, now
from komad.store.tables import IS_HELD, jobs, movies, supplied

Missing = Callable[[Acquisition, Processing], str]
"""(acquisition, processing) -> '' or the sentence that says which parameters are missing."""

DOSES = frozenset({"total_dose", "dose_per_frame", "frame_doses"})
"""The forms of one value."""


class WithSupplied(Protocol):
    """What becomes known of a movie with values that were supplied (`komad.ingest.with_supplied`)."""

    def __call__(self, movie: Movie, values: Mapping[str, Any], *, overwrite: bool) -> Acquisition:
        """Take them in; what the movie has already only stays without `overwrite`."""


class Movies(Database):
    """What is known about each movie."""

    def __init__(self, state_directory: Path, *, patience_s: float = BUSY_TIMEOUT_S) -> None:
        super().__init__(state_directory, patience_s=patience_s)
        self._stems = _Stems()

    def add_movie(
        self, movie: Movie, *, held: Mapping[JobKind, str] | None = None, taken: Taken | None = None
    ) -> Movie | None:
        """Add a movie and its two jobs; None when this very file is known already.

        The archive job is queued, or held when `held` gives a reason for it. The correct job waits for the archive;
        a reason for it in `held` is the sentence that says which parameters are missing. A file that could not be
        described before is taken up again in its old row. `taken` puts it into its optics group.
        """
        reasons = held or {}
        values = movie_values(movie) | {"missing": reasons.get(JobKind.CORRECT, "")}
        with self.write() as connection:
            if _is_known(connection, movie.path, movie.size_bytes, movie.mtime_ns, movie.fingerprint):
                return None
            movie_id = _undescribed(connection, movie.path)
            if movie_id is None:
                unique = {"stem": self._stems.unique(connection, movie.stem)}
                movie_id = _insert(connection, values | unique, archive_held=reasons.get(JobKind.ARCHIVE, ""))
            else:
                connection.execute(update(movies).where(movies.c.movie_id == movie_id).values(values))
                archive = changes.rows_of_movie(connection, movie_id)[JobKind.ARCHIVE]
                event = JobEvent.RELEASE if archive.state == JobState.HELD else JobEvent.REQUEUE
                changes.change(connection, archive, event, attempt=0, **changes.NO_ERROR)
            if taken is not None:
                grouped = in_group(movie.acquisition, optics_groups.assign(connection, movie_id, taken))
                changed = {"acquisition": acquisition_values(grouped)}
                connection.execute(update(movies).where(movies.c.movie_id == movie_id).values(changed))
            changes.settle_correct(connection, movie_id)
            return _movie(connection, movie_id)

    def add_unreadable(self, candidate: Candidate, *, stem: str, error: KomadError) -> int | None:
        """Add a file that could not be described, its archive job failed with `error`; None when it is known.

        So it shows in every list, and a retry of its archive job has it described again (`to_describe`).
        """
        facts = {
            "path": str(candidate.path),
            "size_bytes": candidate.size_bytes,
            "mtime_ns": candidate.mtime_ns,
            "fingerprint": "",
            "found_at": now(),
        }
        unknown: dict[str, Any] = {"acquisition": {}, "reference_files": {}, "processing": {}}
        with self.write() as connection:
            movie_id = _undescribed(connection, candidate.path)
            if movie_id is None:
                if _is_known(connection, candidate.path, candidate.size_bytes, candidate.mtime_ns):
                    return None
                unique = {"stem": self._stems.unique(connection, stem)}
                movie_id = _insert(connection, facts | unknown | unique, archive_held="cannot be read")
            else:
                connection.execute(update(movies).where(movies.c.movie_id == movie_id).values(facts))
            archive = changes.rows_of_movie(connection, movie_id)[JobKind.ARCHIVE]
            if archive.state == JobState.HELD:
                changes.change(connection, archive, JobEvent.FAIL, error=error)
            changes.settle_correct(connection, movie_id)
            return movie_id

    def to_describe(self) -> list[Candidate]:
        """Files that a person wants tried again after they could not be described; their `folder` is -1."""
        statement = (
            select(movies.c.path, movies.c.size_bytes, movies.c.mtime_ns)
            .join(jobs)
            .where(movies.c.header.is_(None), jobs.c.kind == JobKind.ARCHIVE, IS_HELD)
        )
        with self.read() as connection:
            return [
                Candidate(path=Path(path), size_bytes=size_bytes, mtime_ns=mtime_ns, folder=-1)
                for path, size_bytes, mtime_ns in connection.execute(statement)
            ]

    def known_files(self) -> set[tuple[str, int, int]]:
        """(path, size_bytes, mtime_ns) of every movie."""
        with self.read() as connection:
            rows = connection.execute(select(movies.c.path, movies.c.size_bytes, movies.c.mtime_ns))
            return {(path, size_bytes, mtime_ns) for path, size_bytes, mtime_ns in rows}

    def movie(self, movie_id: int) -> Movie:
        """Return the movie.

        Raises
        ------
        StoreError
            There is none with this number, or it could not be described.
        """
        with self.read() as connection:
            return _movie(connection, movie_id)

    def supply(
        self,
        values: Mapping[str, Any],
        *,
        movie_id: int | None,
        with_supplied: WithSupplied,
        missing: Missing,
    ) -> int:
        """Store values of the acquisition that a person knows, and let movies that waited for them go on.

        For one movie they replace what was there; for all (`movie_id` None) they fill only what has no source yet, in
        every movie that lacks parameters and in those still to come (`supplied_values`). Gives the number of movies
        that changed.

        Raises
        ------
        ParameterError
            A name or a value is wrong.
        """
        checked = _checked(values)
        which = movies.c.missing != "" if movie_id is None else movies.c.movie_id == movie_id
        n_changed = 0
        with self.write() as connection:
            if movie_id is not None:
                _movie(connection, movie_id)
            connection.execute(insert(supplied).values(movie_id=movie_id, values=checked, at=now()))
            for row in connection.execute(select(movies).where(which, movies.c.header.is_not(None))).all():
                movie = movie_from(row)
                after = with_supplied(movie, checked, overwrite=movie_id is not None)
                if after == movie.acquisition:
                    continue
                processing = Processing.model_validate(row.processing)
                _set_acquisition(connection, row.movie_id, after, missing(after, processing))
                n_changed += 1
        return n_changed

    def incomplete_movies(self, *, limit: int, before: int | None = None) -> list[Movie]:
        """Return the newest movies that lack parameters, of those with a number below `before`."""
        lacking = select(movies).where(movies.c.missing != "", movies.c.header.is_not(None))
        if before is not None:
            lacking = lacking.where(movies.c.movie_id < before)
        with self.read() as connection:
            rows = connection.execute(lacking.order_by(movies.c.movie_id.desc()).limit(limit)).all()
        return [movie_from(row) for row in rows]

    def complete(
        self, movie: Movie, acquisition: Acquisition, *, missing: str, taken: Taken | None = None
    ) -> bool:
        """Bind what became known of a movie later, unless somebody else did meanwhile; tells whether it was bound.

        `taken` puts it into its optics group.
        """
        with self.write() as connection:
            if _movie(connection, movie.movie_id).acquisition != movie.acquisition:
                return False
            if taken is not None:
                acquisition = in_group(acquisition, optics_groups.assign(connection, movie.movie_id, taken))
            _set_acquisition(connection, movie.movie_id, acquisition, missing)
            return True

    def supplied_values(self) -> dict[str, Any]:
        """Acquisition values supplied for all movies, the newest of each; for movies still to come."""
        statement = (
            select(supplied.c["values"]).where(supplied.c.movie_id.is_(None)).order_by(supplied.c.supplied_id)
        )
        merged: dict[str, Any] = {}
        with self.read() as connection:
            for values in connection.execute(statement).scalars():
                if DOSES & values.keys():  # one value, in whichever form it was supplied last
                    merged = {name: value for name, value in merged.items() if name not in DOSES}
                merged |= values
        return merged


def _movie(connection: Connection, movie_id: int) -> Movie:
    row = connection.execute(select(movies).where(movies.c.movie_id == movie_id)).one_or_none()
    if row is None:
        raise StoreError(f"there is no movie number {movie_id}; `komad jobs` lists them")
    return movie_from(row)


def _is_known(
    connection: Connection, path: Path, size_bytes: int, mtime_ns: int, fingerprint: str | None = None
) -> bool:
    same = [movies.c.path == str(path), movies.c.size_bytes == size_bytes, movies.c.mtime_ns == mtime_ns]
    if fingerprint is not None:
        same.append(movies.c.fingerprint == fingerprint)
    return connection.execute(select(movies.c.movie_id).where(*same)).first() is not None


def _undescribed(connection: Connection, path: Path) -> int | None:
    """Row of a file at `path` that could not be described."""
    statement = select(movies.c.movie_id).where(movies.c.path == str(path), movies.c.header.is_(None))
    return connection.execute(statement).scalar()


def _insert(connection: Connection, values: Mapping[str, Any], *, archive_held: str) -> int:
    """Insert a movie and its two jobs, the correct job waiting for the archive."""
    movie_id: int = connection.execute(
        insert(movies).values(values).returning(movies.c.movie_id)
    ).scalar_one()
    archive = {
        "kind": JobKind.ARCHIVE,
        "state": JobState.HELD if archive_held else JobState.QUEUED,
        "reason": archive_held,
        "held_by": HeldBy.PERSON if archive_held else "",
    }
    correct = {
        "kind": JobKind.CORRECT,
        "state": JobState.HELD,
        "reason": changes.WAITING_FOR_ARCHIVE,
        "held_by": HeldBy.ARCHIVE,
    }
    both = {"movie_id": movie_id, "created_at": now()}
    connection.execute(insert(jobs), [archive | both, correct | both])
    return movie_id


class _Stems:
    """The folded stems of all movies: SQLite cannot fold them, and looking through 50,000 for each new one is slow."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._newest = 0
        self._numbers: dict[str, int] = {}  # stem -> the last number; smaller ones stay taken

    def unique(self, connection: Connection, stem: str) -> str:
        """Return `stem` without dots, with the first number that makes it unique: `a`, `a-2`, `a-3`.

        The connection is the only writer, so that nobody else takes it meanwhile.
        """
        added = select(movies.c.movie_id, movies.c.stem).where(movies.c.movie_id > self._newest)
        for movie_id, other in connection.execute(added.order_by(movies.c.movie_id)):
            self._taken.add(folded(other))
            self._newest = movie_id
        base = stem.replace(".", "_")
        name = unique_stem(base, self._taken.__contains__, start=self._numbers.get(folded(base), 1))
        number = name.removeprefix(base).removeprefix("-")
        self._numbers[folded(base)] = int(number) if number else 1
        return name


def _set_acquisition(connection: Connection, movie_id: int, acquisition: Acquisition, missing: str) -> None:
    changed = {"acquisition": acquisition_values(acquisition), "missing": missing}
    connection.execute(update(movies).where(movies.c.movie_id == movie_id).values(changed))
    changes.settle_correct(connection, movie_id)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    names = ", ".join(sorted(AcquisitionSettings.model_fields))
    if not values:
        raise ParameterError(f"no value is supplied; the names are {names}")
    try:
        settings = AcquisitionSettings.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ParameterError(
            f"the supplied {place} is wrong: {problem['msg']}; the names are {names}"
        ) from error
    return settings.model_dump(include=set(values))
