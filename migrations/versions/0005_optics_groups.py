"""Optics groups by beam shift: sessions of a microscope, their groups, and the shift of each movie."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "optics_sessions",
        sa.Column("session_id", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("magnification", sa.Float(), nullable=False),
        sa.Column("first_at_s", sa.Float(), nullable=False),
        sa.Column("last_at_s", sa.Float(), nullable=False),
        sa.Column("tolerance", sa.Float(), nullable=False),
        sa.Column("n_movies", sa.Integer(), nullable=False),
        sa.Column("n_reviewed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_optics_sessions")),
    )
    op.create_table(
        "optics_groups",
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("x", sa.Float(), nullable=False),
        sa.Column("y", sa.Float(), nullable=False),
        sa.Column("n_movies", sa.Integer(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["optics_sessions.session_id"], name=op.f("fk_optics_groups_session_id")
        ),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_optics_groups")),
        sa.UniqueConstraint("name", "number", name=op.f("uq_optics_groups_name_number")),
    )
    op.create_index("ix_optics_groups_session_id", "optics_groups", ["session_id"], unique=False)
    op.create_table(
        "optics_shifts",
        sa.Column("movie_id", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.Integer(), nullable=False),
        sa.Column("x", sa.Float(), nullable=False),
        sa.Column("y", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["optics_groups.group_id"], name=op.f("fk_optics_shifts_group_id")
        ),
        sa.ForeignKeyConstraint(["movie_id"], ["movies.movie_id"], name=op.f("fk_optics_shifts_movie_id")),
        sa.PrimaryKeyConstraint("movie_id", name=op.f("pk_optics_shifts")),
    )
    op.create_index("ix_optics_shifts_group_id", "optics_shifts", ["group_id"], unique=False)
