"""The indices of a session: `processed.jsonl` (append only), `corrected_micrographs.star`, `session.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from komad import __version__
from komad.errors import KomadError, OutputError
from komad.formats import atomic
from komad.model.stems import folded, unique_stem
from komad.output.corrected import CorrectedMicrographs
from komad.output.micrograph import SCHEMA_VERSION
from komad.output.relion import MicrographRow, Optics

PROCESSED = "processed.jsonl"
SESSION = "session.json"


class SessionState(StrEnum):
    """Whether more is to come; in `session.json`."""

    RUNNING = "running"
    """A komad is at work, or was ended by force."""
    STOPPED = "stopped"
    """komad has ended, and movies are left that it goes on with when it starts again."""
    COMPLETE = "complete"
    """komad has ended, and nothing is left to do."""


class SessionIndex:
    """Keeps the three index files of one output directory. For one process, one thread; `with` ends it.

    `processed.jsonl` is the truth: the others are made from it. A line is known by its `sequence` and `written_at`,
    so publishing it again, after a crash for instance, adds nothing, and doing a movie again adds a line.

    Parameters
    ----------
    directory
        The output directory; made when it is missing.
    settings
        A summary of the settings for `session.json`, plain values.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, object] | None = None) -> None:
        self._directory = directory
        self._settings = dict(settings or {})
        self._state = SessionState.RUNNING
        self._published: set[tuple[int, str]] = set()
        self._last = 0
        self._last_queued = 0
        self._corrected = CorrectedMicrographs(directory)
        self._movies: dict[str, str] = {}  # by folded stem
        self._first_at: str | None = None
        self._last_at: str | None = None
        self._stale = True
        self._read_back()

    @property
    def last_sequence(self) -> int:
        """The highest sequence number in `processed.jsonl`; 0 when it is empty."""
        return self._last

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
        """Append the movies that are not there yet, and bring the STAR and `session.json` up to date.

        A summary is what `write_micrograph` returned, with `movie_id` and `sequence` added. It costs the same in a
        session of any length, a movie that is done again apart: that writes the STAR as a whole.

        Returns
        -------
        int
            How many lines were appended.

        Raises
        ------
        OutputError, DiskFullError
            Something could not be written; publish the same again later. It does not come twice.
        """
        new = {_key(summary): dict(summary) for summary in summaries if _key(summary) not in self._published}
        if new:
            lines = [json.dumps(summary, allow_nan=False) + "\n" for summary in new.values()]
            atomic.append(self._directory / PROCESSED, "".join(lines).encode())
            for summary in new.values():
                self._add(summary)
        if self._stale:
            self._write()
        return len(new)

    def end(self, *, is_complete: bool) -> None:
        """Say in `session.json` that komad ends, and whether movies are left to do. Errors as `publish`."""
        self._state = SessionState.COMPLETE if is_complete else SessionState.STOPPED
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: with nothing left, or, after an error, with something."""
        with suppress(KomadError) if error is not None else nullcontext():
            self.end(is_complete=error is None)

    def _write(self) -> None:
        self._corrected.write()
        atomic.write_text(self._directory / SESSION, json.dumps(self._session(), indent=1) + "\n")
        self._stale = False

    def _session(self) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "komad_version": __version__,
            "state": self._state,
            "n_micrographs": len(self._corrected),
            "n_processed": len(self._published),
            "first_written_at": self._first_at,
            "last_written_at": self._last_at,
            "settings": self._settings,
        }

    def _add(self, summary: Mapping[str, Any]) -> None:
        self._published.add(_key(summary))
        self._last = max(self._last, int(summary["sequence"]))
        if summary["movie_id"]:
            self._last_queued = max(self._last_queued, int(summary["sequence"]))
        self._corrected.add(str(summary["stem"]), _row(summary))
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
        even=files.get("even", ""),
        odd=files.get("odd", ""),
        pre_exposure=summary.get("exposure_before"),
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
