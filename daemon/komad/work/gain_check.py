"""The gain reference of a series, checked once on its first movies; it is never turned by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import structlog

from komad.config import GainCheck
from komad.detector.gain import OrientationScore, check_gain
from komad.errors import KomadError
from komad.formats import references
from komad.model import Movie
from komad.store import GainCheckRow, Store
from komad.store.detector import WRONG_GAIN
from komad.work import stack_sums

logger = structlog.get_logger(__name__)

MOST_SIGMA = 1e3
"""Confidence is cut here: a clean simulation has infinite."""


class GainChecker:
    """Checks each series that its worker archives, when it has enough movies."""

    def __init__(self, store: Store, settings: GainCheck) -> None:
        self._store = store
        self._settings = settings
        self._done: set[str] = set()

    def look(self, movie: Movie) -> None:
        """Check the gain of a movie's series, unless that was done, is not wanted, or comes too early."""
        gain, series = movie.references.gain, movie.series
        if self._settings.action == "off" or gain is None or not series or series in self._done:
            return
        if self._store.gain_check(series) is None:
            first = self._store.first_stack_sums(series, self._settings.n_movies)
            if len(first) < self._settings.n_movies:
                return
            try:
                found = self._check(movie, [file for _, file in first], newest=first[-1][0])
            except Exception:  # the movie is archived, and not to blame
                logger.exception("the gain reference could not be checked", movie=movie.stem)
            else:
                self._store_and_tell(movie, found)
        self._done.add(series)

    def _store_and_tell(self, movie: Movie, found: GainCheckRow) -> None:
        """Store the verdict; the worker whose verdict is the first one tells it."""
        if not self._store.put_gain_check(movie.series, found):
            return
        facts = {
            "verdict": found.verdict,
            "confidence_sigma": round(found.confidence, 1),
            "movie": movie.stem,
        }
        if found.verdict in WRONG_GAIN:
            logger.error(
                "THE GAIN REFERENCE IS WRONG", reason=found.sentence, holds_jobs=found.holds, **facts
            )
        elif found.verdict == "unclear":
            logger.warning("the gain reference could not be judged", reason=found.sentence, **facts)
        else:
            logger.info("the gain reference fits", **facts)

    def _check(self, movie: Movie, files: list[str], *, newest: int) -> GainCheckRow:
        asked = movie.references
        assert asked.gain is not None
        configured = {"gain_rot": asked.gain_rot, "gain_flip": asked.gain_flip}
        best: Mapping[str, int] = configured
        try:
            gain = references.read_factor(asked, (movie.header.ny, movie.header.nx))
            judged = check_gain(self._counts(movie, files), gain, **configured)
            verdict, confidence, sentence = judged.verdict, judged.confidence, judged.sentence
            best = _orientation(judged.best)
        except KomadError as error:
            verdict, confidence, sentence = (
                "unclear",
                0.0,
                f"the gain reference could not be checked: {error}",
            )
        return GainCheckRow(
            verdict=verdict,
            configured=configured,
            best=best,
            confidence=min(float(confidence), MOST_SIGMA),
            sentence=sentence,
            movie_id=newest,
            holds=self._settings.action == "hold" and verdict in WRONG_GAIN,
        )

    def _counts(self, movie: Movie, files: list[str]) -> npt.NDArray[np.float64]:
        """(ny, nx) sum of the movies' raw counts above the dark; a sum that is lost is not worth waiting for."""
        shape = (movie.header.ny, movie.header.nx)
        dark = references.load(movie.references, shape).dark
        counts = np.zeros(shape)
        for file in files:
            stack_sum = stack_sums.load(self._store.stack_sum_directory / file)
            if stack_sum is not None:
                counts += stack_sum.total
                if dark is not None:
                    counts -= len(stack_sum.frame_means) * dark
        return counts


def _orientation(score: OrientationScore) -> dict[str, int]:
    return {"gain_rot": score.gain_rot, "gain_flip": score.gain_flip}
