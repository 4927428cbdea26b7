"""From a finished file to a movie with its jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from komad.app.references import reference_directory
from komad.config import Processing, Settings, WatchFolder
from komad.errors import KomadError, MovieChangedError, MovieMissingError, ParameterError
from komad.formats.frame_files import status_of
from komad.formats.references import check as check_fit
from komad.ingest import describe, missing_parameters, optics_groups, reconsider, references
from komad.ingest.describe import stem_of
from komad.model import Acquisition, Candidate, JobKind, Movie, series_of
from komad.optics.groups import MANY_GROUPS
from komad.store import Store, Taken
from komad.work.disk import absence

logger = structlog.get_logger(__name__)

LOOK_AGAIN_INTERVAL_S = 5.0
SIDECAR_WAIT_S = 120.0
"""A movie whose optics group is told by its beam shift waits so long for a sidecar."""
N_LOOKED_AT_AGAIN = 50
"""The newest movies that lack values (sidecars come soon after their movie), as many of the others in turn, and as many
that wait for their gain."""


class Intake:
    """Takes finished files into the database, and looks again at those that could not be described or lack values.

    The looking again has its own thread: a camera's disk that hangs must not stop anything else.
    """

    def __init__(
        self, settings: Settings, store: Store, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._store = store
        self._looked_at: int | None = None
        self._many_groups = False
        self._stopping = threading.Event()
        self._clock = clock
        self.got_on_at = clock()
        """When the looking again last got on."""
        self.thread = threading.Thread(target=self._look_again, name="komad-intake", daemon=True)

    def start(self) -> None:
        """Start looking again."""
        self.thread.start()

    def reload(self, settings: Settings) -> None:
        """Take other settings for movies that are described from now on."""
        self._settings = settings

    def stop(self) -> None:
        """Stop looking again."""
        self._stopping.set()
        self.thread.join(1.0)

    def take(self, candidate: Candidate) -> None:
        """Describe a finished file and add it with its jobs; one that cannot be described is added as failed.

        Raises
        ------
        KomadError
            What is wrong may pass: the watcher offers the file again.
        """
        try:
            movie = self._describe(candidate)
        except MovieChangedError:
            raise
        except KomadError as error:
            if error.retry:
                raise
            self.report(candidate, error)
        else:
            self._add(movie)

    def report(self, candidate: Candidate, error: KomadError) -> None:
        """Add a file that is no movie, so that a person sees it."""
        stem = stem_of(candidate.path, self._settings.watch[candidate.folder].frame_files)
        movie_id = self._store.add_unreadable(candidate, stem=stem, error=error)
        if movie_id is not None:
            logger.warning(
                "failed", movie=candidate.path.name, movie_id=movie_id, code=error.code, error=str(error)
            )

    def _describe(self, candidate: Candidate) -> Movie:
        folder = self._settings.watch[candidate.folder]
        movie = describe(
            candidate,
            folder,
            self._settings.processing,
            reference_directory=reference_directory(self._settings),
            supplied=self._store.supplied_values(),
        )
        # A movie must not be bound for good to a reference that does not fit or is only half written.
        check_fit(movie.references, (movie.header.ny, movie.header.nx))
        koma = self._settings.koma.model_dump()
        return replace(movie, koma=koma, series=series_of(movie, folder.directory))

    def _rebind(self, movie: Movie) -> None:
        """Archive and correct a movie with the references that are configured now, if they are others."""
        with suppress(ParameterError):  # its folder is not watched any more: only a person can help
            folder = self._settings.watch[self._folder_of(movie.path)]
            directory = reference_directory(self._settings)
            bound = references.bind(folder.references, directory, movie.header.format)
            if bound == movie.references:
                return
            check_fit(bound, (movie.header.ny, movie.header.nx))
            movie = replace(movie, references=bound)
            self._store.rebind(replace(movie, series=series_of(movie, folder.directory)))
            logger.info(
                "has another gain now, and is archived again", movie=movie.stem, movie_id=movie.movie_id
            )

    def _add(self, movie: Movie) -> None:
        folder = self._settings.watch[self._folder_of(movie.path)]
        acquisition, taken, missing = self._grouped(movie, movie.acquisition, folder)
        missing = missing_parameters(acquisition, self._settings.processing) or missing
        movie = replace(movie, acquisition=acquisition)
        added = self._store.add_movie(movie, held={JobKind.CORRECT: missing} if missing else {}, taken=taken)
        if added is not None:
            logger.info(
                "found", movie=added.stem, movie_id=added.movie_id, path=str(added.path), held=missing
            )
            self._watch_groups(added)

    def _grouped(
        self, movie: Movie, acquisition: Acquisition, folder: WatchFolder
    ) -> tuple[Acquisition, Taken | None, str]:
        """What is known of a movie, how its optics group is found, and why it still waits for a sidecar, or ''."""
        if folder.optics_groups == "one" or optics_groups.is_grouped(acquisition):
            return acquisition, None, ""
        shift = optics_groups.beam_shift(acquisition, movie.found_at)
        if shift is not None:
            taken = Taken(
                folder=str(folder.directory),
                name=acquisition.optics_group,
                tolerance=optics_groups.tolerance_of(folder),
                shift=shift,
            )
            return acquisition, taken, ""
        age = datetime.now(UTC) - datetime.fromisoformat(movie.found_at)
        if age.total_seconds() < SIDECAR_WAIT_S:
            why = acquisition.notes.get("sidecar")
            return (
                acquisition,
                None,
                f"beam shift unknown: its sidecar is waited for, {SIDECAR_WAIT_S:g} s at most"
                + (f" ({why})" if why else ""),
            )
        return optics_groups.without_shift(acquisition), None, ""

    def _watch_groups(self, movie: Movie) -> None:
        """Warn once when there are so many groups that the tolerance must be too small."""
        number = optics_groups.number_of(movie.acquisition)
        if number is not None and number > MANY_GROUPS and not self._many_groups:
            self._many_groups = True
            logger.warning(
                "so many optics groups that watch.beam_shift_tolerance must be too small; see `komad plot optics`",
                groups=MANY_GROUPS + 1,
            )

    def _look_again(self) -> None:
        while not self._stopping.wait(LOOK_AGAIN_INTERVAL_S):
            self.got_on_at = self._clock()
            try:
                self._store.release_folder_held(self._is_back)
                for candidate in self._store.to_describe():
                    self._describe_again(candidate)
                    self.got_on_at = self._clock()
                for movie in self._incomplete():
                    self._reconsider(movie)
                    self.got_on_at = self._clock()
                for movie in self._store.gain_held(limit=N_LOOKED_AT_AGAIN):
                    self._rebind(movie)
                    self.got_on_at = self._clock()
            except KomadError as error:
                logger.warning("cannot look again at movies, trying later", code=error.code, error=str(error))
            except Exception:  # one file that nobody foresaw must not end the looking for all others
                logger.exception("cannot look again at movies, trying later")

    def _incomplete(self) -> list[Movie]:
        """The newest that lack values, and the next of those before them, so that each has its turn."""
        newest = self._store.incomplete_movies(limit=N_LOOKED_AT_AGAIN)
        if len(newest) < N_LOOKED_AT_AGAIN:
            return newest
        before = min(self._looked_at or newest[-1].movie_id, newest[-1].movie_id)
        others = self._store.incomplete_movies(limit=N_LOOKED_AT_AGAIN, before=before)
        self._looked_at = others[-1].movie_id if others else None
        return newest + others

    def _is_back(self, path: Path) -> bool:
        """Whether the watched folder of a movie can be read again, or is not watched any more."""
        folders = [
            folder.directory for folder in self._settings.watch if path.is_relative_to(folder.directory)
        ]
        return not any(absence(folder) for folder in folders)

    def _describe_again(self, found: Candidate) -> None:
        """Do as a person asked who retried a file that could not be described."""
        candidate = found
        try:
            status = status_of(found.path)
            folder = self._folder_of(found.path)
            candidate = replace(found, size_bytes=status.size_bytes, mtime_ns=status.mtime_ns, folder=folder)
            self._add(self._describe(candidate))
        except OSError as error:
            self.report(candidate, MovieMissingError(f"{found.path}: cannot be read ({error.strerror})"))
        except KomadError as error:
            self.report(candidate, error)

    def _reconsider(self, movie: Movie) -> None:
        """Bind values that were unknown: a sidecar came later, or the configuration was completed."""
        with suppress(ParameterError):  # its folder is not watched any more: only a person can help
            folder = self._settings.watch[self._folder_of(movie.path)]
            found = optics_groups.as_it_was(reconsider(movie, folder), movie.acquisition)
            acquisition, taken, waits = self._grouped(movie, found, folder)
            processing = Processing.model_validate(dict(movie.processing))
            missing = missing_parameters(acquisition, processing) or waits
            changed = acquisition != movie.acquisition or taken is not None or not missing
            if changed and self._store.complete(movie, acquisition, missing=missing, taken=taken):
                self._watch_groups(self._store.movie(movie.movie_id))

    def _folder_of(self, path: Path) -> int:
        """Index of the watched folder that holds `path`, the nearest one."""
        holding = [
            (len(folder.directory.parts), index)
            for index, folder in enumerate(self._settings.watch)
            if path.is_relative_to(folder.directory)
        ]
        if not holding:
            raise ParameterError(f"{path} is in no watched folder; add it to the configuration")
        return max(holding)[1]
