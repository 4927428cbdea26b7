"""Devices: how the GPU of a worker is doing."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("workers", sa.Column("gpu", sa.JSON(none_as_null=True), nullable=True))
