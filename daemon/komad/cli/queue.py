"""`komad retry`, `cancel`, `hold`, `release`, `pause`, `resume`: what a person does with the queue."""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from komad.cli.jobs import JsonOption, Kind, State, state_directory
from komad.cli.locate import ConfigOption
from komad.errors import TransitionError

if TYPE_CHECKING:
    from komad.store import Store
    from komad.store.listing import JobLine, MovieRecord

MoviesArgument = Annotated[list[str], typer.Argument(help="Stems, numbers or paths.")]
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def retry(
    movies: Annotated[list[str] | None, typer.Argument(help="Stems, numbers or paths.")] = None,
    config: ConfigOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every job that failed.")] = False,
    code: Annotated[
        str | None,
        typer.Option("--code", help="Every job that failed with this error code, e.g. movie_truncated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Of these, only jobs that failed since: 30min, 2h, 1d, or 2026-03-04T21:00."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also what is done: make the micrographs of these movies again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which jobs would be queued.")] = False,
    json: JsonOption = False,
) -> None:
    """Queue jobs again that failed or were cancelled, with all their attempts.

    Example: komad retry --failed --code movie_truncated --since 2h
    """
    from komad.store.listing import find_movie, list_jobs

    by_filter = failed or code is not None
    if bool(movies) == by_filter:
        raise typer.BadParameter("name movies, or use --failed or --code")
    if since is not None and not by_filter:
        raise typer.BadParameter("--since goes with --failed or --code")
    directory = state_directory(config)
    if movies:
        chosen = [job for movie in movies for job in _to_retry(find_movie(directory, movie), again=again)]
    else:
        moment = None if since is None else _moment(since)
        chosen = list_jobs(directory, state=State.FAILED, code=code, ended_since=moment)[::-1]
    _apply(
        config,
        chosen,
        lambda store, job_id: store.retry(job_id),
        json=json,
        dry_run=dry_run,
        counted="queued" if by_filter else "",
        nothing="nothing to retry: no job failed or was cancelled",
    )


def cancel(movies: MoviesArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Take movies out of the queue: what is done stays, what waits is not done. `komad retry` brings it back.

    Example: komad cancel FoilHole_7654321_Data_1
    """
    # The last of a movie first: without it, the end of the archive job would not let it go on in between.
    _apply(
        config,
        _waiting(config, movies)[::-1],
        lambda store, job_id: store.cancel(job_id),
        json=json,
        nothing="nothing to cancel: no job waits; one that runs ends by itself",
    )


def hold(
    movies: MoviesArgument,
    config: ConfigOption = None,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="For those who wonder why.")
    ] = "held by a person",
    json: JsonOption = False,
) -> None:
    """Keep movies that wait from being processed until `komad release`; jobs that run go on.

    Example: komad hold FoilHole_7654321_Data_1 --reason "ask Ann first"
    """
    _apply(
        config,
        _waiting(config, movies)[::-1],
        lambda store, job_id: store.hold(job_id, reason),
        json=json,
        nothing="nothing to hold: no job waits; one that runs ends by itself",
    )


def release(movies: MoviesArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Let movies go on that `komad hold` keeps; they then wait for what they need, as all others.

    Example: komad release FoilHole_7654321_Data_1
    """
    held = [job for job in _waiting(config, movies) if job.held_by == "person"]
    _apply(
        config,
        held,
        lambda store, job_id: store.release(job_id),
        json=json,
        nothing="nothing to release: no job of them is held by a person",
    )


def pause(
    config: ConfigOption = None,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="For those who wonder why.")
    ] = "no reason given",
    json: JsonOption = False,
) -> None:
    """Start no more jobs until `komad resume`, also after a restart; jobs that run go on, movies are still found.

    Example: komad pause --reason "the disk is moved"
    """
    from komad.store import PausedBy, Store

    with Store(state_directory(config)).open(create=False) as store:
        store.pause(reason, PausedBy.PERSON)
        _tell_pauses(store, json=json)


def resume(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Start jobs again after `komad pause`. While a disk is full komad stays paused until there is room.

    Example: komad resume
    """
    from komad.store import PausedBy, Store

    with Store(state_directory(config)).open(create=False) as store:
        if not store.resume(PausedBy.PERSON) and not json:
            print("nobody had paused")
        _tell_pauses(store, json=json)


def _tell_pauses(store: Store, *, json: bool) -> None:
    from komad.store import PausedBy

    reasons = {by.value: why for by in PausedBy if (why := store.paused(by))}
    if json:
        print(jsonlib.dumps({"schema_version": 1, "paused": reasons}, indent=1))
    elif reasons:
        print("\n".join(f"paused by {by}: {why}" for by, why in reasons.items()))
    else:
        print("jobs are started")


def _waiting(config: ConfigOption, movies: Sequence[str]) -> list[JobLine]:
    from komad.store.listing import find_movie

    directory = state_directory(config)
    return [
        job
        for movie in movies
        for job in find_movie(directory, movie).jobs
        if job.state in {State.HELD, State.QUEUED}
    ]


def _to_retry(record: MovieRecord, *, again: bool) -> list[JobLine]:
    ended = [job for job in record.jobs if job.state in (State.FAILED, State.CANCELLED)]
    if ended or not again:
        return ended
    return [job for job in record.jobs if job.kind == Kind.CORRECT]


def _moment(text: str) -> datetime:
    """A point in time: so long ago, or a date as people of this computer write it."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)", text):
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * SECONDS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(
            f"--since {text!r} is no time: 30min, 2h, 1d, or a date like 2026-03-04T21:00"
        ) from None


def _apply(
    config: ConfigOption,
    chosen: Sequence[JobLine],
    act: Callable[[Store, int], object],
    *,
    json: bool,
    nothing: str,
    dry_run: bool = False,
    counted: str = "",
) -> None:
    """Do something with each job, say what became of it; one that refuses does not stop the others."""
    from komad.store import Store

    refused: list[TransitionError] = []
    told = []
    with Store(state_directory(config)).open(create=False) as store:
        for job in chosen:
            line = {"job_id": job.job_id, "movie_id": job.movie_id, "stem": job.stem, "kind": job.kind}
            try:
                if not dry_run:
                    act(store, job.job_id)
            except TransitionError as error:  # it was changed meanwhile
                refused.append(error)
                continue
            now = store.job(job.job_id)
            told.append(line | {"state": now.state.value, "reason": now.reason})
    if json:
        print(jsonlib.dumps({"schema_version": 1, "dry_run": dry_run, "jobs": told}, indent=1))
    else:
        for it in told:
            print(
                f"{it['stem']} {it['kind']}: {it['state']}" + (f" ({it['reason']})" if it["reason"] else "")
            )
        if not chosen:
            print(nothing)
        elif dry_run or counted:
            print(f"{len(told)} job(s) " + (f"would be {counted or 'queued'}" if dry_run else counted))
    if refused:
        raise refused[0]
