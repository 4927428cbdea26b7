"""Where a worker has other movies' stack sums from: their files, or the movies themselves when a file is lost."""

from __future__ import annotations

from contextlib import suppress

import structlog

from komad.config import Settings
from komad.errors import KomadError
from komad.model import REACH, KomaWindow, Movie, StackSum
from komad.store import Store
from komad.work import stack_sums
from komad.work.archive import find_archive, read_archive, read_source
from komad.work.correct import sum_again
from komad.work.device import CPU, Device
from komad.work.koma import Member, MoviePattern, RunningWindows, choose

logger = structlog.get_logger(__name__)


class Neighbours:
    """The movies around the one that a worker corrects. For one thread."""

    def __init__(self, store: Store, settings: Settings, device: Device = CPU) -> None:
        self._store = store
        self._settings = settings
        self._running = RunningWindows(self._member, device)

    def pattern(self, movie: Movie, own: StackSum) -> MoviePattern:
        """Measure what a movie's neighbours tell of its detector."""
        return self._running.pattern(movie, own, self._window(movie, own))

    def tidy(self) -> None:
        """Remove the stack sums that nobody needs any more."""
        reach = max(REACH * self._settings.koma.radius, self._settings.gain_check.n_movies)
        for name in self._store.drop_stack_sums(reach=reach):
            with suppress(OSError):  # a file too many does no harm
                (self._store.stack_sum_directory / name).unlink(missing_ok=True)

    def _window(self, movie: Movie, own: StackSum) -> KomaWindow:
        """The window that is bound to the movie; now, if none is."""
        bound = self._store.koma_window(movie.movie_id)
        if bound is not None:
            return bound
        known = self._store.koma_neighbours(movie)
        window = choose(movie, own.facts, known.facts, known.absent)
        return self._store.bind_window(movie.movie_id, window)

    def _member(self, movie_id: int) -> Member | None:
        movie = self._store.movie(movie_id)
        row = self._store.stack_sum(movie_id)
        is_kept = row is not None and row.file != ""
        directory = self._store.stack_sum_directory
        stack_sum = stack_sums.load_kept(directory, row)
        if stack_sum is None:
            stack_sum = self._made_again(movie)
            if is_kept and stack_sum is not None:
                with suppress(KomadError):  # it was made once, it can be made twice
                    stack_sums.save(directory, movie, stack_sum)
        return None if stack_sum is None else Member(movie=movie, stack_sum=stack_sum)

    def _made_again(self, movie: Movie) -> StackSum | None:
        """Sum the stack of the archive, or of the camera's file; None when both are gone."""
        logger.warning("stack sum is lost or damaged, made again", movie=movie.stem, movie_id=movie.movie_id)
        try:
            archive = find_archive(movie, self._settings.archive_directory)
            frames = read_source(movie) if archive is None else read_archive(archive, movie.header.eer)
            return sum_again(movie, frames)
        except KomadError as error:
            logger.warning(
                "stack sum cannot be made again", movie=movie.stem, code=error.code, error=str(error)
            )
            return None
