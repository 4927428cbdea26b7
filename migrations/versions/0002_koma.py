"""KOMA: the series of a movie, what its stack sum is like, its window."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("movies", sa.Column("series", sa.Text(), server_default="", nullable=False))
    op.add_column("movies", sa.Column("koma", sa.JSON(), server_default="{}", nullable=False))
    op.create_index("ix_movies_series_movie_id", "movies", ["series", "movie_id"], unique=False)
    op.add_column("stack_sums", sa.Column("facts", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("stack_sums", sa.Column("n_bytes", sa.Integer(), server_default="0", nullable=False))
    op.create_index(
        "ix_stack_sums_kept",
        "stack_sums",
        ["movie_id", "n_bytes"],
        unique=False,
        sqlite_where=sa.text("file != ''"),
    )
    op.create_table(
        "koma_windows",
        sa.Column("movie_id", sa.Integer(), nullable=False),
        sa.Column("window", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["movie_id"], ["movies.movie_id"], name=op.f("fk_koma_windows_movie_id")),
        sa.PrimaryKeyConstraint("movie_id", name=op.f("pk_koma_windows")),
    )
