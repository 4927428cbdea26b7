"""Rows <-> the types of `komad.model`; times as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from komad.errors import StoreError
from komad.model import (
    Acquisition,
    Job,
    JobKind,
    JobState,
    KomaWindow,
    Movie,
    MovieHeader,
    ReferenceFile,
    References,
    StackFacts,
)


class HeldBy(StrEnum):
    """What has to happen before a held job goes on."""

    ARCHIVE = "archive"
    """Its movie's archive has to be done."""
    PARAMETERS = "parameters"
    """A value has to be supplied."""
    KOMA = "koma"
    """The archives of its neighbours have to end, for a limited time; it goes on by itself."""
    GAIN = "gain"
    """A person has to accept the gain reference, which seems to be wrong."""
    DISK = "disk"
    """Room has to be made, or results have to be writable; it goes on by itself."""
    FOLDER = "folder"
    """Its watched folder has to come back; it goes on by itself."""
    PERSON = "person"
    """A person held it and releases it."""


class PausedBy(StrEnum):
    """Who lets no job be claimed; both may at once, and each resumes for itself."""

    DISK = "disk"
    """The supervisor, while a disk is full or lost."""
    PERSON = "person"


def now(delay_s: float = 0.0) -> str:
    """UTC in `delay_s` seconds, as the tables write it."""
    return (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """A worker process as it registered and last beat."""

    worker_id: str
    boot_id: str
    pid: int
    device: str
    beat: int
    """Grows with every sign of life; its value means nothing else."""
    activity: str
    started_at: str
    beat_at: str
    gpu: Mapping[str, Any] | None
    """`overview.GpuState` as it was at the last beat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSumRow:
    """Where a movie's stack sum lies and what it is like."""

    file: str
    """Name in the state directory's `stack_sums` folder; '' when it was removed."""
    n_frames: int
    ny: int
    nx: int
    dtype: str
    mean: float
    n_outliers: int
    frame_means: bytes
    """Little-endian float64, one per frame."""
    facts: StackFacts | None = None
    """None for a stack sum of an older komad."""
    n_bytes: int = 0
    """Size of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GainCheckRow:
    """What the check of the gain's orientation found in a series."""

    verdict: str
    """ok, other, unclear, corrected or inverse."""
    configured: Mapping[str, int]
    """gain_rot and gain_flip."""
    best: Mapping[str, int]
    """The orientation that fits best."""
    confidence: float
    """Standard deviations by which it stands before the others."""
    sentence: str
    """For people: what was found, and what to do."""
    movie_id: int
    """The newest movie that was looked at."""
    accepted: bool = False
    """A person has seen it and wants to go on."""
    holds: bool = False
    """Correct jobs of the series wait until it is accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedMovie:
    """A movie whose `correct` job is done."""

    sequence: int
    """Grows in the order of commit."""
    movie_id: int
    stem: str
    summary: dict[str, Any]
    """What the worker handed to `finish`."""


def movie_values(movie: Movie) -> dict[str, Any]:
    """Columns of `movies`, without `movie_id`, `stem` and `missing`."""
    return {
        "path": str(movie.path),
        "size_bytes": movie.size_bytes,
        "mtime_ns": movie.mtime_ns,
        "fingerprint": movie.fingerprint,
        "header": asdict(movie.header),
        "acquisition": acquisition_values(movie.acquisition),
        "reference_files": references_values(movie.references),
        "processing": dict(movie.processing),
        "found_at": movie.found_at,
        "koma": dict(movie.koma),
        "series": movie.series,
    }


def acquisition_values(acquisition: Acquisition) -> dict[str, Any]:
    """Plain values of an acquisition."""
    return asdict(acquisition)


def acquisition_from(values: Mapping[str, Any]) -> Acquisition:
    """Turn plain values back into an acquisition."""
    doses = values.get("frame_doses")
    return Acquisition(**{**values, "frame_doses": None if doses is None else tuple(doses)})


def movie_from(row: Row[Any]) -> Movie:
    """Turn a row of `movies` into a movie.

    Raises
    ------
    StoreError
        The file could not be described when it was found, so there is no header.
    """
    if row.header is None:
        raise StoreError(f"{row.path} could not be read when it was found; `komad show {row.stem}` says why")
    return Movie(
        movie_id=row.movie_id,
        path=Path(row.path),
        size_bytes=row.size_bytes,
        mtime_ns=row.mtime_ns,
        fingerprint=row.fingerprint,
        stem=row.stem,
        header=MovieHeader.of(row.header),
        acquisition=acquisition_from(row.acquisition),
        references=_references_from(row.reference_files),
        processing=row.processing,
        found_at=row.found_at,
        koma=row.koma,
        series=row.series,
    )


def window_values(window: KomaWindow) -> dict[str, Any]:
    """Plain values of a window."""
    return asdict(window) | {"left_out": {str(movie_id): why for movie_id, why in window.left_out.items()}}


def window_from(values: Mapping[str, Any]) -> KomaWindow:
    """Turn plain values back into a window."""
    left_out = {int(movie_id): why for movie_id, why in values["left_out"].items()}
    return KomaWindow(**{**values, "members": tuple(values["members"]), "left_out": left_out})


def job_from(row: Row[Any]) -> Job:
    """Turn a row of `jobs` into a job."""
    return Job(
        job_id=row.job_id,
        movie_id=row.movie_id,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        attempt=row.attempt,
        suspect=row.suspect,
        failed_on=row.failed_on,
        reason=row.reason,
        worker_id=row.worker_id,
        error_code=row.error_code,
        error_message=row.error_message,
    )


def references_values(references: References) -> dict[str, Any]:
    """Plain values of references."""

    def plain(file: ReferenceFile | None) -> dict[str, str] | None:
        if file is None:
            return None
        return {"path": str(file.path), "original_path": str(file.original_path), "sha256": file.sha256}

    return {
        "gain": plain(references.gain),
        "gain_rot": references.gain_rot,
        "gain_flip": references.gain_flip,
        "gain_is_response": references.gain_is_response,
        "gain_rows_as_eer": references.gain_rows_as_eer,
        "dark": plain(references.dark),
        "defects": plain(references.defects),
    }


def _references_from(values: Mapping[str, Any]) -> References:
    def file(value: Mapping[str, str] | None) -> ReferenceFile | None:
        if value is None:
            return None
        return ReferenceFile(
            path=Path(value["path"]), original_path=Path(value["original_path"]), sha256=value["sha256"]
        )

    return References(
        gain=file(values["gain"]),
        gain_rot=values["gain_rot"],
        gain_flip=values["gain_flip"],
        gain_is_response=values.get("gain_is_response", False),
        gain_rows_as_eer=values.get("gain_rows_as_eer", False),
        dark=file(values["dark"]),
        defects=file(values["defects"]),
    )
