"""The tables: movies, jobs, history, workers, devices, stack sums, KOMA windows, optics groups, supplied values, meta.

Times are UTC, ISO 8601 text with milliseconds (`komad.store.rows.now`), so that they sort and a person can read
them. States, kinds and events are the values of the enums in `komad.model.job`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

movies = Table(
    "movies",
    metadata,
    Column("movie_id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("stem", Text, nullable=False, unique=True),
    # NULL when the file could not be described: its archive job is failed and says why.
    Column("header", JSON(none_as_null=True)),
    Column("acquisition", JSON, nullable=False),
    Column("reference_files", JSON, nullable=False),
    Column("processing", JSON, nullable=False),
    # The sentence that names the parameters to supply before it can be corrected; empty when none is missing.
    Column("missing", Text, nullable=False, server_default=""),
    Column("found_at", Text, nullable=False),
    # Movies whose stack sums show the same detector; '' shows nobody else's (found before there were series).
    Column("series", Text, nullable=False, server_default=""),
    Column("koma", JSON, nullable=False, server_default="{}"),
    UniqueConstraint("path", "size_bytes", "mtime_ns", "fingerprint"),
    # Neighbours of a movie.
    Index("ix_movies_series_movie_id", "series", "movie_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Integer, primary_key=True),
    Column("movie_id", ForeignKey("movies.movie_id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    # Why it is held, for people, and what holds it: one of `rows.HeldBy`.
    Column("reason", Text, nullable=False, server_default=""),
    Column("held_by", Text, nullable=False, server_default=""),
    # Times its work was begun.
    Column("attempt", Integer, nullable=False, server_default="0"),
    # A worker was lost while it held this job: it is processed alone from now on.
    Column("suspect", Boolean, nullable=False, server_default=text("0")),
    # The device on which it failed last; another one takes it first.
    Column("avoid", Text, nullable=False, server_default=""),
    # The device on which it failed in a way that may be the movie's fault or the device's.
    Column("failed_on", Text, nullable=False, server_default=""),
    # A try was not counted because it did not look like the movie's fault: once only.
    Column("spared", Boolean, nullable=False, server_default=text("0")),
    # Not claimed before this time; empty means at once.
    Column("not_before", Text, nullable=False, server_default=""),
    # The worker that holds it while running, the last one that held it otherwise.
    Column("worker_id", Text, nullable=False, server_default=""),
    Column("error_code", Text, nullable=False, server_default=""),
    Column("error_message", Text, nullable=False, server_default=""),
    Column("created_at", Text, nullable=False),
    Column("claimed_at", Text),
    # When the work of this claim was begun; NULL while it is only read ahead.
    Column("begun_at", Text),
    # When it became done, failed or cancelled.
    Column("ended_at", Text),
    Column("seconds", Float),
    Column("summary", JSON(none_as_null=True)),
    # Order in which `correct` jobs became done, NULL for all others; a repeated one gets a new, higher number.
    Column("sequence", Integer),
    UniqueConstraint("movie_id", "kind"),
    UniqueConstraint("sequence"),
    # Claims: the oldest job that is queued, or the newest.
    Index("ix_jobs_queued", "job_id", "kind", "not_before", "avoid", sqlite_where=text("state = 'queued'")),
    # What holds jobs.
    Index("ix_jobs_held", "held_by", "kind", "reason", sqlite_where=text("state = 'held'")),
    # Jobs of one worker.
    Index("ix_jobs_running", "worker_id", sqlite_where=text("state = 'running'")),
    # Counts per kind and state without touching the table; rates and last errors: what ended since when.
    Index("ix_jobs_ended", "kind", "state", "ended_at"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("event_id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.job_id"), nullable=False, index=True),
    Column("at", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", Text, nullable=False, server_default=""),
    Column("error_code", Text, nullable=False, server_default=""),
    # The error message, the reason of a hold, or a note.
    Column("detail", Text, nullable=False, server_default=""),
    # Last errors, also those that a retry has cured since.
    Index("ix_job_events_error", "event_id", sqlite_where=text("error_code != ''")),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("beat", Integer, nullable=False, server_default="0"),
    Column("activity", Text, nullable=False, server_default=""),
    Column("started_at", Text, nullable=False),
    Column("beat_at", Text, nullable=False),
    # `overview.GpuState` at the last beat; NULL for a CPU, and when the driver tells nothing.
    Column("gpu", JSON(none_as_null=True)),
)

devices = Table(
    "devices",
    metadata,
    # Only devices on which something went wrong have a row.
    Column("device", Text, primary_key=True),
    # How often it was set aside since a movie was last corrected there.
    Column("n_bad", Integer, nullable=False, server_default="0"),
    # Why it is set aside; empty when it works.
    Column("reason", Text, nullable=False, server_default=""),
    Column("since", Text, nullable=False, server_default=""),
    # When it is tried again; empty when that is not settled yet.
    Column("try_at", Text, nullable=False, server_default=""),
    # `devices.Fault` of each job that failed there unexpectedly since the last success.
    Column("faults", JSON, nullable=False, server_default="[]"),
)

stack_sums = Table(
    "stack_sums",
    metadata,
    Column("movie_id", ForeignKey("movies.movie_id"), primary_key=True),
    # Name of the file in state_directory/stack_sums; '' when it was removed: no window needs it any more.
    Column("file", Text, nullable=False),
    Column("n_frames", Integer, nullable=False),
    Column("ny", Integer, nullable=False),
    Column("nx", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("mean", Float, nullable=False),
    Column("n_outliers", Integer, nullable=False),
    # Little-endian float64, one per frame.
    Column("frame_means", LargeBinary, nullable=False),
    # `StackFacts`; NULL when they were not measured (an older komad), so that it is in no window.
    Column("facts", JSON(none_as_null=True)),
    # Size of the file.
    Column("n_bytes", Integer, nullable=False, server_default="0"),
    # Files on disk: how many, how large.
    Index("ix_stack_sums_kept", "movie_id", "n_bytes", sqlite_where=text("file != ''")),
)

koma_windows = Table(
    "koma_windows",
    metadata,
    Column("movie_id", ForeignKey("movies.movie_id"), primary_key=True),
    # `KomaWindow`: written once, so that every retry averages the same movies.
    Column("window", JSON, nullable=False),
)

# Written out, not bound: only so can SQLite use the indices that cover one state.
IS_QUEUED = jobs.c.state == literal_column("'queued'")
IS_HELD = jobs.c.state == literal_column("'held'")
IS_RUNNING = jobs.c.state == literal_column("'running'")

optics_sessions = Table(
    "optics_sessions",
    metadata,
    Column("session_id", Integer, primary_key=True),
    # The watched folder, and the configured group with which the names of its groups begin.
    Column("folder", Text, nullable=False),
    Column("name", Text, nullable=False),
    # `optics.groups.ShiftGroups`.
    Column("unit", Text, nullable=False),
    Column("magnification", Float, nullable=False),
    Column("first_at_s", Float, nullable=False),
    Column("last_at_s", Float, nullable=False),
    Column("tolerance", Float, nullable=False),
    Column("n_movies", Integer, nullable=False),
    Column("n_reviewed", Integer, nullable=False),
)

optics_groups = Table(
    "optics_groups",
    metadata,
    Column("group_id", Integer, primary_key=True),
    Column("session_id", ForeignKey("optics_sessions.session_id"), nullable=False, index=True),
    # That of the session; number is never given twice for it.
    Column("name", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("x", Float, nullable=False),
    Column("y", Float, nullable=False),
    Column("n_movies", Integer, nullable=False),
    # Whether movies can still join it.
    Column("is_open", Boolean, nullable=False),
    UniqueConstraint("name", "number"),
)

optics_shifts = Table(
    "optics_shifts",
    metadata,
    Column("movie_id", ForeignKey("movies.movie_id"), primary_key=True),
    Column("group_id", ForeignKey("optics_groups.group_id"), nullable=False, index=True),
    Column("x", Float, nullable=False),
    Column("y", Float, nullable=False),
)

supplied = Table(
    "supplied",
    metadata,
    Column("supplied_id", Integer, primary_key=True),
    # NULL: for every movie that lacks the value.
    Column("movie_id", ForeignKey("movies.movie_id"), index=True),
    # Acquisition field -> value.
    Column("values", JSON, nullable=False),
    Column("at", Text, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    # pause:<rows.PausedBy>: why no job is claimed (no row: claims go on); last_sequence: the highest number so far;
    # gain_check:<series>: what the check of the gain's orientation found (`rows.GainCheckRow`).
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
