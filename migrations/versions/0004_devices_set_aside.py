"""Devices that are set aside, where jobs failed, and who paused."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("avoid", sa.Text(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("failed_on", sa.Text(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("spared", sa.Boolean(), server_default=sa.text("0"), nullable=False))
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["job_id", "kind", "not_before", "avoid"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "devices",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("n_bad", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("since", sa.Text(), server_default="", nullable=False),
        sa.Column("try_at", sa.Text(), server_default="", nullable=False),
        sa.Column("faults", sa.JSON(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_devices")),
    )
    op.execute("UPDATE meta SET key = 'pause:disk' WHERE key = 'pause'")
