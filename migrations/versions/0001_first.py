"""The first schema: movies, jobs and their history, workers, stack sums, supplied values, meta."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "movies",
        sa.Column("movie_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("mtime_ns", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("stem", sa.Text(), nullable=False),
        sa.Column("header", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("acquisition", sa.JSON(), nullable=False),
        sa.Column("reference_files", sa.JSON(), nullable=False),
        sa.Column("processing", sa.JSON(), nullable=False),
        sa.Column("missing", sa.Text(), server_default="", nullable=False),
        sa.Column("found_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("movie_id", name=op.f("pk_movies")),
        sa.UniqueConstraint(
            "path",
            "size_bytes",
            "mtime_ns",
            "fingerprint",
            name=op.f("uq_movies_path_size_bytes_mtime_ns_fingerprint"),
        ),
        sa.UniqueConstraint("stem", name=op.f("uq_movies_stem")),
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("beat", sa.Integer(), server_default="0", nullable=False),
        sa.Column("activity", sa.Text(), server_default="", nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("beat_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("movie_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("held_by", sa.Text(), server_default="", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("suspect", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.Text(), server_default="", nullable=False),
        sa.Column("worker_id", sa.Text(), server_default="", nullable=False),
        sa.Column("error_code", sa.Text(), server_default="", nullable=False),
        sa.Column("error_message", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("claimed_at", sa.Text(), nullable=True),
        sa.Column("begun_at", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("summary", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["movie_id"], ["movies.movie_id"], name=op.f("fk_jobs_movie_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("movie_id", "kind", name=op.f("uq_jobs_movie_id_kind")),
        sa.UniqueConstraint("sequence", name=op.f("uq_jobs_sequence")),
    )
    op.create_index("ix_jobs_ended", "jobs", ["kind", "state", "ended_at"], unique=False)
    op.create_index(
        "ix_jobs_held",
        "jobs",
        ["held_by", "kind", "reason"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["job_id", "kind", "not_before"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_jobs_running", "jobs", ["worker_id"], unique=False, sqlite_where=sa.text("state = 'running'")
    )
    op.create_table(
        "stack_sums",
        sa.Column("movie_id", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("n_frames", sa.Integer(), nullable=False),
        sa.Column("ny", sa.Integer(), nullable=False),
        sa.Column("nx", sa.Integer(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("n_outliers", sa.Integer(), nullable=False),
        sa.Column("frame_means", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["movie_id"], ["movies.movie_id"], name=op.f("fk_stack_sums_movie_id")),
        sa.PrimaryKeyConstraint("movie_id", name=op.f("pk_stack_sums")),
    )
    op.create_table(
        "supplied",
        sa.Column("supplied_id", sa.Integer(), nullable=False),
        sa.Column("movie_id", sa.Integer(), nullable=True),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["movie_id"], ["movies.movie_id"], name=op.f("fk_supplied_movie_id")),
        sa.PrimaryKeyConstraint("supplied_id", name=op.f("pk_supplied")),
    )
    op.create_index(op.f("ix_supplied_movie_id"), "supplied", ["movie_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), server_default="", nullable=False),
        sa.Column("error_code", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_events_job_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_job_events")),
    )
    op.create_index(
        "ix_job_events_error",
        "job_events",
        ["event_id"],
        unique=False,
        sqlite_where=sa.text("error_code != ''"),
    )
    op.create_index(op.f("ix_job_events_job_id"), "job_events", ["job_id"], unique=False)
