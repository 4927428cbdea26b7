"""The indices of a session: `processed.jsonl` (append only), `corrected_micrographs.star`, `session.json`."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from komad import __version__
from komad.errors import OutputError
from komad.formats import atomic, star
from komad.model.stems import folded, unique_stem
from komad.output.micrograph import SCHEMA_VERSION
from komad.output.relion import MicrographRow, Optics, session_tables

PROCESSED = "processed.jsonl"
CORRECTED = "corrected_micrographs.star"
SESSION = "session.json"

MIN_REWRITE_INTERVAL_S = 2.0
REWRITE_COST_FACTOR = 20.0
"""The STAR is not written again before this many times the seconds that writing it took: 5 % of one thread at most."""


class SessionIndex:
    """Keeps the three index files of one output directory. For one process, one thread.

    `processed.jsonl` is the truth: the others are made from it. A line is known by its `sequence` and `written_at`,
    so publishing it again, after a crash for instance, adds nothing, and doing a movie again adds a line.

    Parameters
    ----------
    directory
        The output directory; made when it is missing.
    settings
        A summary of the settings for `session.json`, plain values.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._settings = dict(settings or {})
        self._clock = clock
        self._published: set[tuple[int, str]] = set()
        self._last_queued = 0
        self._rows: dict[str, MicrographRow] = {}  # by stem; a movie that was done again has one row
        self._movies: dict[str, str] = {}  # by folded stem
        self._first_at: str | None = None
        self._last_at: str | None = None
        self._stale = False
        self._rewrite_after = -float("inf")
        self._read_back()

    @property
    def last_sequence(self) -> int:
        """The highest sequence number in `processed.jsonl`; 0 when it is empty."""
        return max((sequence for sequence, _ in self._published), default=0)

    @property
    def last_queued_sequence(self) -> int:
        """The highest sequence number of a movie that has a row in a database; 0 when there is none."""
        return self._last_queued

    def show(self, settings: Mapping[str, object]) -> None:
        """Put other settings into `session.json`, from the next time on that it is written."""
        self._settings = dict(settings)

    def free_stem(self, stem: str, movie: Path) -> str:
        """`stem`, or `stem-2` and so on when another movie is in its way; a movie that is done again keeps its own."""
        return unique_stem(stem, lambda other: self._movies.get(other, str(movie)) != str(movie))

    def publish(self, summaries: Iterable[Mapping[str, Any]]) -> int:
        """Append the movies that are not there yet, and bring the STAR up to date when its time has come.

        Call it with nothing from time to time: the STAR lags behind by a few seconds in a burst. A summary is what
        `write_micrograph` returned, with `movie_id` and `sequence` added.

        Returns
        -------
        int
            How many lines were appended.

        Raises
        ------
        OutputError, DiskFullError
            Nothing was appended; publish the same again later.
        """
        new = {_key(summary): dict(summary) for summary in summaries if _key(summary) not in self._published}
        if new:
            lines = [json.dumps(summary, allow_nan=False) + "\n" for summary in new.values()]
            _append(self._directory / PROCESSED, "".join(lines).encode())
            for summary in new.values():
                self._add(summary)
        if self._stale and self._clock() >= self._rewrite_after:
            self.flush()
        return len(new)

    def flush(self) -> None:
        """Write `corrected_micrographs.star` and `session.json` now; the last thing a run does."""
        started = self._clock()
        if self._rows:
            atomic.write_text(
                self._directory / CORRECTED, star.dumps(session_tables(list(self._rows.values())))
            )
        atomic.write_text(self._directory / SESSION, json.dumps(self._session(), indent=1) + "\n")
        self._stale = False
        now = self._clock()
        self._rewrite_after = now + max(MIN_REWRITE_INTERVAL_S, REWRITE_COST_FACTOR * (now - started))

    def _session(self) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "komad_version": __version__,
            "n_micrographs": len(self._rows),
            "n_processed": len(self._published),
            "first_written_at": self._first_at,
            "last_written_at": self._last_at,
            "settings": self._settings,
        }

    def _add(self, summary: Mapping[str, Any]) -> None:
        self._published.add(_key(summary))
        if summary["movie_id"]:
            self._last_queued = max(self._last_queued, int(summary["sequence"]))
        self._rows[str(summary["stem"])] = _row(summary)
        self._movies[folded(str(summary["stem"]))] = str(summary["movie"])
        self._first_at = self._first_at or str(summary["written_at"])
        self._last_at = str(summary["written_at"])
        self._stale = True

    def _read_back(self) -> None:
        """Learn what was published before; a line that a crash cut off is removed, it will be published again."""
        path = self._directory / PROCESSED
        try:
            atomic.make_directory(self._directory)
            with path.open("rb") as lines:
                whole_bytes = 0
                for number, line in enumerate(lines, start=1):
                    if not line.endswith(b"\n"):
                        break
                    whole_bytes += len(line)
                    self._add(_parsed(line, path, number))
            if path.stat().st_size > whole_bytes:
                os.truncate(path, whole_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            raise atomic.explained(path, error) from error


def _key(summary: Mapping[str, Any]) -> tuple[int, str]:
    return int(summary["sequence"]), str(summary["written_at"])


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(line)
        _key(summary)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path}, line {number}, was not written by komad ({error}); move the file away, "
            "komad makes a new one from its database"
        ) from error
    return summary


def _row(summary: Mapping[str, Any]) -> MicrographRow:
    files, motion = summary["files"], summary["motion_px"]
    return MicrographRow(
        name=files["micrograph"],
        metadata=files["motion"],
        name_no_dw=files.get("micrograph_no_dw", files["micrograph"]),
        power_spectrum=files.get("power_spectrum", ""),
        optics=Optics(
            name=summary["optics_group"],
            movie_pixel_size_angstrom=summary["movie_pixel_size_angstrom"],
            pixel_size_angstrom=summary["pixel_size_angstrom"],
            voltage_kv=summary["voltage_kv"],
            cs_mm=summary["cs_mm"],
            amplitude_contrast=summary["amplitude_contrast"],
        ),
        motion_px=(motion["total"], motion["early"], motion["late"]),
    )


def _append(path: Path, data: bytes) -> None:
    """Add `data` with one write and make it durable; on any failure the file is as long as before."""
    try:
        with path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                if not before:
                    atomic.apply_sharing(file.fileno(), path)
                written = file.write(data)
                if written != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise atomic.explained(path, error) from error
